"""What an ablation says: the change in AUC along one parameter, and whether it has a trend."""

import numpy as np
import pandas as pd

from s2llib.attacks import TITLES
from s2llib.finetune.methods import PRETRAINED
from s2llib.metrics.intervals import linear_trend
from s2llib.params import Statistics
from s2llib.report.estimate import Entry, Measure, estimated, measures, weighted
from s2llib.report.estimate import change as moved
from s2llib.report.membership import change, level, shown

__all__ = ["ablation_table", "changes_by_value", "trend_table", "trends"]

CHANGE, LEVEL = "trend of the AUC change", "trend of the AUC after fine-tuning"


def _pair(scores: pd.DataFrame) -> tuple[str, Measure, Measure]:
    """(method, its AUC, the pre-trained model's) of one attack at one value."""
    found = measures(scores, metrics=["auc"])
    (tuned,) = set(found) - {PRETRAINED}
    return tuned, found[tuned]["AUC"], found[PRETRAINED]["AUC"]


def changes_by_value(scores: pd.DataFrame) -> dict[object, Measure]:
    """{value: change in iid AUC of one attack}."""
    return {value: moved(*_pair(part)[1:]) for value, part in scores.groupby("value", sort=False)}


def ablation_table(scores: pd.DataFrame, column: str, p: Statistics) -> pd.DataFrame:
    """Tidy iid AUC of every attack at each value of an ablation, with the change against the pre-trained model.

    scores: of `studies.ablations`; column: what the varied parameter is called.
    """
    entries = []
    for (attack, value), part in scores.groupby(["attack", "value"], sort=False):
        method, after, before = _pair(part)
        for name, measure, against in ((PRETRAINED, before, None), (method, after, before)):
            labels = {column: value, "method": name, "attack": attack, "protocol": "iid", "metric": "AUC"}
            entries.append(Entry(labels | {"trainable": part.loc[part["method"] == name, "trainable"].iloc[0]}, measure, against))
    return estimated(entries, p)


def trend_table(scores: pd.DataFrame, column: str, p: Statistics) -> pd.DataFrame:
    """Per attack: how the change in AUC moves from the first value of an ablation to its last, along the least-squares line.

    Where the base model itself differs from value to value, so does the AUC after fine-tuning: a second row. The values count as
    equally spaced; paired by domain.
    """
    entries = []
    for attack, every in scores.groupby("attack", sort=False):
        pairs = [_pair(part)[1:] for _, part in every.groupby("value", sort=False)]
        if len(pairs) < 2:
            continue
        moving = {CHANGE: [moved(*pair) for pair in pairs]}
        if len({tuple(before.by_domain().values()) for _, before in pairs}) > 1:
            moving[LEVEL] = [after for after, _ in pairs]
        first, *_, last = every["value"].unique()
        for metric, each in moving.items():
            labels = {"parameter": column, "from": first, "to": last, "attack": attack, "protocol": "iid", "metric": metric}
            entries.append(Entry(labels, weighted(each, linear_trend(np.eye(len(each)))), null=0.0))
    return estimated(entries, p)


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
    if not shown(row):
        return "no linear trend is shown" + ("; the paper's is not seen here" if claim else "")
    moves = "rises" if row["value"] > 0 else "falls"
    verdicts = {
        None: "",
        "depends": ": an effect of this parameter, as in the paper",
        "rises": f": the paper's trend {'holds' if moves == 'rises' else 'is reversed'} here",
    }
    return f"it {moves}" + verdicts[claim]
