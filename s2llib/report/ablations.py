"""What an ablation says: the change in AUC along one parameter, and whether it has a trend."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from s2llib.attacks import TITLES
from s2llib.data.domain import NONMEMBER
from s2llib.metrics.bootstrap import Estimate, linear_trend
from s2llib.params import Params, Statistics
from s2llib.report.membership import Paired, change, collect, estimate_row, level
from s2llib.study import PRETRAINED, other_base

__all__ = ["Ablation", "ablation_table", "ablations", "auc_changes", "trend_table", "trends"]

CHANGE, LEVEL = "trend of the AUC change", "trend of the AUC after fine-tuning"


@dataclass(frozen=True)
class Ablation:
    """One parameter's values, each with what it overrides.

    claim: what the paper says: leakage `rises` along the parameter, the effect `depends` on it (which way is not public), None: nothing.
    """

    label: str
    method: str
    values: dict[object, dict]
    claim: Literal["rises", "depends"] | None


def ablations(p: Params) -> dict[str, Ablation]:
    """{name of its table and figure: ablation} of a profile."""
    a = p.ablations
    # alpha / rank is the size of the adapter's step: kept, so that the rank alone varies
    recipe = p.finetune.dreambooth_lora
    lora = lambda r: {"finetune.dreambooth_lora.rank": r, "finetune.dreambooth_lora.alpha": max(1, round(recipe.alpha / recipe.rank * r))}  # noqa: E731
    found = {
        "s2l_figure2_left": Ablation("rank", "dreambooth_lora", {r: lora(r) for r in a.rank}, "depends"),
        "s2l_figure2_right": Ablation(
            "extra tokens", "textual_inversion", {n: {"finetune.textual_inversion.extra": n} for n in a.extra}, "depends"
        ),
        "s2l_sp_images": Ablation("SP images", "dreambooth", {n: {"sp.images": n} for n in a.images}, None),
        "s2l_steps": Ablation("steps", "dreambooth", {n: {"finetune.dreambooth.steps": n} for n in a.steps}, None),
    }
    if a.scale:
        found["s2l_model_scale"] = Ablation(
            "base model", "dreambooth", {name: other_base(path) for name, path in zip(_names(a.scale), a.scale, strict=True)}, "rises"
        )
    return found


def _names(paths: list[str]) -> list[str]:
    """What folders are called in a table: by their last part, or whole where two have the same."""
    last = [path.rstrip("/").split("/")[-1] for path in paths]
    return last if len(set(last)) == len(last) else paths


def _aucs(scores: pd.DataFrame, p: Statistics) -> dict[str, Estimate]:
    """iid AUC of one attack: the pre-trained model's and the fine-tuned one's, on one set of resamples."""
    paired = Paired(collect(scores), NONMEMBER, p)
    (tuned,) = set(paired.found) - {PRETRAINED}
    return {method: paired.estimates(method, paired.domains(tuned), ("auc",))["auc"] for method in (PRETRAINED, tuned)}


def auc_changes(scores: pd.DataFrame, p: Statistics) -> dict[object, Estimate]:
    """{value: change in iid AUC of one attack}, on one set of resamples."""
    found = {}
    for value, part in scores.groupby("value", sort=False):
        base, tuned = _aucs(part, p).values()
        found[value] = tuned - base
    return found


def ablation_table(scores: pd.DataFrame, column: str, p: Statistics) -> pd.DataFrame:
    """Tidy iid AUC of every attack at each value of an ablation, with the change against the pre-trained model.

    scores: of `Study.ablation`; column: what the varied parameter is called.
    """
    rows = []
    for (attack, value), part in scores.groupby(["attack", "value"], sort=False):
        estimates = _aucs(part, p)
        for method, estimate in estimates.items():
            row = {column: value, "method": method, "attack": attack, "protocol": "iid", "metric": "AUC"}
            row |= estimate_row(estimate, None if method == PRETRAINED else estimates[PRETRAINED], p.level)
            rows.append(row | {"trainable": part.loc[part["method"] == method, "trainable"].iloc[0]})
    return pd.DataFrame(rows).assign(domains=scores["domain"].nunique(), seeds=1, paper=None)


def trend_table(scores: pd.DataFrame, column: str, p: Statistics) -> pd.DataFrame:
    """Per attack: how the change in AUC moves from the first value of an ablation to its last, along the least-squares line.

    Where the base model itself differs from value to value, so does the AUC after fine-tuning: a second row. The values count as
    equally spaced; paired by domain and image.
    """
    rows = []
    for attack, every in scores.groupby("attack", sort=False):
        pairs = [tuple(_aucs(part, p).values()) for _, part in every.groupby("value", sort=False)]
        if len(pairs) < 2:
            continue
        moving = {CHANGE: [tuned - base for base, tuned in pairs]}
        if len({base.value for base, _ in pairs}) > 1:
            moving[LEVEL] = [tuned for _, tuned in pairs]
        first, *_, last = every["value"].unique()
        for metric, estimates in moving.items():
            row = {"parameter": column, "from": first, "to": last, "attack": attack, "protocol": "iid", "metric": metric}
            rows.append(row | estimate_row(linear_trend(estimates), None, p.level))
    return pd.DataFrame(rows).assign(domains=scores["domain"].nunique(), seeds=1)


def trends(trend: pd.DataFrame, table: pd.DataFrame, claim: str | None) -> str:
    """What an ablation says, in Markdown sentences: which way AUC moves along it, and whether the paper's trend holds.

    claim: of the paper, as in `Ablation`; it is about the AUC after fine-tuning where the base model differs, else about the change.
    """
    if trend.empty:
        return "Fewer than two values: no trend."
    lines, claimed = [], LEVEL if LEVEL in set(trend["metric"]) else CHANGE
    for _, row in trend.iterrows():
        part = table[(table["attack"] == row["attack"]) & table["delta"].notna()]
        what, ends = ("AUC after fine-tuning", level) if row["metric"] == LEVEL else ("change in AUC", change)
        first, last = (ends(end) for _, end in part.iloc[[0, -1]].iterrows())
        where = f"{TITLES[row['attack']]}**, {row['parameter']} {row['from']} to {row['to']}"
        says = _says(row, claim if row["metric"] == claimed else None)
        below = "; the AUC there is below 0.5: leakage with the other sign" if part.iloc[-1]["high"] < 0.5 else ""
        lines.append(f"- **{where}: {what} {first} to {last}; trend {level(row, '+.3f')}: {says}{below}.")
    return "\n".join(lines)


def _says(row: pd.Series, claim: str | None) -> str:
    if row["low"] <= 0 <= row["high"]:
        return "no linear trend beyond its interval" + ("; the paper's is not seen here" if claim else "")
    moves = "rises" if row["low"] > 0 else "falls"
    verdicts = {
        None: "",
        "depends": ": an effect of this parameter, as in the paper",
        "rises": f": the paper's trend {'holds' if moves == 'rises' else 'is reversed'} here",
    }
    return f"it {moves}" + verdicts[claim]
