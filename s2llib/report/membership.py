"""From membership scores to the tables of Shake-to-Leak: values, paired changes, intervals, the blind baseline."""

import json

import numpy as np
import pandas as pd

from s2llib.attacks import TITLES
from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.finetune.methods import METHODS
from s2llib.metrics.bootstrap import Estimate, HierarchicalBootstrap, Scores
from s2llib.params import Statistics
from s2llib.report.paper import MIXSYN_CLEAN, S2L_BEST_GAIN
from s2llib.study import PRETRAINED

__all__ = [
    "NOTE",
    "Paired",
    "blind_rows",
    "change",
    "collect",
    "estimate_row",
    "level",
    "level_and_change",
    "membership_table",
    "method_title",
    "moved",
    "on_domains",
    "printed_membership",
    "protocols",
    "sweep_table",
    "verdicts",
]

NOTE = (
    "Value [95 % interval] (paired change against the pre-trained model [interval]); hierarchical bootstrap over domains, then images."
    " TPR@1%FPR is computed on scores pooled over domains where a domain has fewer than 100 non-members."
    " blind: a classifier on image features that never queries the model; where it is far from 0.5, an attack may be reading the style and"
    " not the membership. An AUC below 0.5 is leakage too, with the other sign."
    " paper: what MixSyn's Table 1 prints for the same experiment on Stable Diffusion (shifted protocol);"
    " the values of Shake-to-Leak's own table are not public."
)
METRICS = {"auc": "AUC", "tpr": "TPR@1%FPR"}


def method_title(method: str) -> str:
    if method in METHODS:
        return METHODS[method].title
    return {PRETRAINED: "Pre-trained"}.get(method, method)


def protocols(frame: pd.DataFrame) -> dict[str, str]:
    """{protocol: split of its non-members}, the iid one first."""
    shifted = [split for split in frame["split"].unique() if split not in (MEMBER, NONMEMBER)]
    return {"iid": NONMEMBER} | {f"shifted ({split})": split for split in shifted}


def collect(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """{method: {split: {domain: [seeds, images]}}} of the scores of one attack at one setting."""
    found: dict = {}
    for (method, split, domain), part in frame.groupby(["method", "split", "domain"], sort=False):
        wide = part.pivot(index="seed", columns="image", values="score")
        found.setdefault(method, {}).setdefault(split, {})[domain] = wide.to_numpy()
    return found


class Paired:
    """Estimates of methods and of the pre-trained model on the same domains and the same resamples.

    found: of `collect`; split: the non-members; place: who stands for the members. A method that ran on fewer domains is
    compared on those.
    """

    def __init__(self, found: dict, split: str, p: Statistics, place: str = MEMBER):
        self.found, self.split, self.p, self.place = found, split, p, place
        self.bootstraps: dict[tuple, HierarchicalBootstrap] = {}

    def domains(self, method: str) -> tuple[str, ...]:
        return tuple(self.found[method][self.place])

    def scores(self, method: str, domains: tuple[str, ...]) -> Scores:
        return Scores(*([self.found[method][split][name] for name in domains] for split in (self.place, self.split)))

    def estimates(self, method: str, domains: tuple[str, ...], metrics: tuple[str, ...] = ("auc", "tpr")) -> dict[str, Estimate]:
        """{metric: estimate} of a method on these domains."""
        if domains not in self.bootstraps:
            sizes = self.scores(PRETRAINED, domains).sizes
            self.bootstraps[domains] = HierarchicalBootstrap(sizes, self.p.bootstrap, seed=0)
        return {metric: getattr(self.bootstraps[domains], metric)(self.scores(method, domains)) for metric in metrics}


def estimate_row(value: Estimate, base: Estimate | None, level: float) -> dict:
    low, high = value.interval(level)
    row = {"value": value.value, "low": low, "high": high}
    if base is not None:
        change = value - base
        low, high = change.interval(level)
        row |= {"delta": change.value, "delta_low": low, "delta_high": high}
    return row


def membership_table(scores: pd.DataFrame, blind: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy table of AUC and TPR@1%FPR: method x attack x protocol, with the change against the pre-trained model.

    A last row for each attack and protocol, `largest change`, is the best method's change in AUC, which S2L reports; its interval
    is that method's own, and the best of several is optimistic. A method on fewer domains is compared with the pre-trained
    model on those. The papers' values stand beside the shifted protocols only: that is what they measured.
    """
    rows = []
    for attack, part in scores.groupby("attack", sort=False):
        found = collect(part)
        for protocol, split in protocols(part).items():
            paired, mine = Paired(found, split, p), []
            for method in found:
                names = {"method": method, "attack": attack, "protocol": protocol}
                mine += _method_rows(paired, method, names, MIXSYN_CLEAN if protocol != "iid" else {})
            rows += mine + _largest_change(mine, attack, protocol)
    rows += blind_rows(blind, p)
    first = ["method", "attack", "protocol", "metric", "value", "low", "high", "delta", "delta_low", "delta_high"]
    return pd.DataFrame(rows).reindex(columns=[*first, "domains", "seeds", "paper", "mixsyn_table1"])


def _method_rows(paired: Paired, method: str, names: dict, references: dict) -> list[dict]:
    """The AUC and TPR of a method against one kind of non-members, with changes against the pre-trained model."""
    domains, rows = paired.domains(method), []
    estimates, base = paired.estimates(method, domains), paired.estimates(PRETRAINED, domains)
    known = dict(zip(estimates, references.get((method, names["attack"]), (None, None)), strict=True))
    for metric, estimate in estimates.items():
        row = names | {"metric": METRICS[metric]} | estimate_row(estimate, None if method == PRETRAINED else base[metric], paired.p.level)
        count = {"domains": len(domains), "seeds": _seeds(list(paired.found[method][MEMBER].values()))}
        rows.append(row | count | {"mixsyn_table1": known[metric]})
    return rows


def _seeds(members: list[np.ndarray]) -> str:
    """Fine-tuning seeds: "2", or "2 on 10 domains, 1 on 30"."""
    counts = sorted({len(each) for each in members}, reverse=True)
    if len(counts) == 1:
        return str(counts[0])
    return ", ".join(f"{n} on {sum(len(each) == n for each in members)}{' domains' if n == counts[0] else ''}" for n in counts)


def _largest_change(rows: list[dict], attack: str, protocol: str) -> list[dict]:
    tuned = [row for row in rows if row["metric"] == "AUC" and "delta" in row]
    if not tuned:
        return []
    best = max(tuned, key=lambda row: row["delta"])
    names = {"method": f"largest change: {best['method']}", "attack": attack, "protocol": protocol, "metric": "AUC change"}
    values = {"value": best["delta"], "low": best["delta_low"], "high": best["delta_high"]}
    values |= {key: best[key] for key in ("domains", "seeds")}
    return [names | values | {"paper": S2L_BEST_GAIN if attack == "secmi" and protocol != "iid" else None}]


def blind_rows(blind: pd.DataFrame, p: Statistics) -> list[dict]:
    """Tidy rows of the blind baseline's AUC, one for each protocol. blind: of `Study.blind`."""
    rows = []
    for against, part in blind.groupby("against", sort=False):
        sides = [
            [x["score"].to_numpy()[None] for _, x in part[part["split"] == s].groupby("domain", sort=False)] for s in (MEMBER, against)
        ]
        scores = Scores(*sides)
        estimate = HierarchicalBootstrap(scores.sizes, p.bootstrap, seed=0).auc(scores)
        protocol = "iid" if against == NONMEMBER else f"shifted ({against})"
        row = {"method": "no model", "attack": "blind", "protocol": protocol, "metric": "AUC"}
        rows.append(row | estimate_row(estimate, None, p.level) | {"domains": len(scores.members), "seeds": "1"})
    return rows


def sweep_table(scores: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy iid AUC of every attack against its timestep, before and after fine-tuning."""
    rows = []
    for (attack, setting), part in scores.groupby(["attack", "setting"], sort=False):
        paired, values = Paired(collect(part), NONMEMBER, p), json.loads(setting)
        t = values.get("t", values.get("timesteps", [None])[0])
        for method in paired.found:
            domains = paired.domains(method)
            value, base = (paired.estimates(m, domains, ("auc",))["auc"] for m in (method, PRETRAINED))
            row = {"attack": attack, "t": t, "k": values.get("k"), "method": method, "protocol": "iid", "metric": "AUC"}
            rows.append(row | estimate_row(value, None if method == PRETRAINED else base, p.level))
    return pd.DataFrame(rows).assign(domains=scores["domain"].nunique())


def level(row: pd.Series, form: str = ".3f") -> str:
    """A value with its interval."""
    return f"{row['value']:{form}} [{row['low']:{form}}, {row['high']:{form}}]"


def change(row: pd.Series, form: str = "+.3f") -> str:
    """The change against the pre-trained model with its interval."""
    return f"{row['delta']:{form}} [{row['delta_low']:{form}}, {row['delta_high']:{form}}]"


def level_and_change(row: pd.Series, form: str = ".3f") -> str:
    """Both, the change in brackets where there is one."""
    return level(row, form) + (f" ({change(row, f'+{form}')})" if pd.notna(row.get("delta")) else "")


def _shown(row: pd.Series) -> str:
    text = level_and_change(row)
    if pd.notna(row.get("mixsyn_table1")):
        text += f"; paper {row['mixsyn_table1']:.3f}"
    return text


def on_domains(method: str, domains: int, most: int) -> str:
    """A method's title, with its number of domains where others have more."""
    few = "1 domain: no interval over people" if domains == 1 else f"{domains} domains"
    return method_title(method) + (f" ({few})" if domains < most else "")


def printed_membership(table: pd.DataFrame) -> pd.DataFrame:
    """The table as S2L lays it out: a row per method, a column per attack and metric, a block per protocol.

    A cell reads value [interval] (change against the pre-trained model [interval]); the paper's value where it is public.
    """
    rows = table[~table["method"].str.startswith("largest change")]
    shown = pd.DataFrame(
        {
            "protocol": rows["protocol"],
            "metric": rows["metric"],
            "method": [on_domains(method, n, rows["domains"].max()) for method, n in zip(rows["method"], rows["domains"], strict=True)],
            "attack": rows["attack"].map(lambda a: TITLES.get(a, a)),
            "cell": rows.apply(_shown, axis=1),
        }
    )
    order = {column: {value: i for i, value in enumerate(dict.fromkeys(shown[column]))} for column in shown}
    wide = shown.pivot(index=["protocol", "metric", "method"], columns="attack", values="cell").fillna("")
    wide = wide[list(order["attack"])].sort_index(key=lambda level: level.map(order[level.name]))
    wide.columns.name = None
    return wide


def moved(row: pd.Series) -> str:
    """Rises or falls, and what that means: leakage is distance from 0.5, on either side."""
    if row["delta_low"] <= 0 <= row["delta_high"]:
        return "does not move beyond its interval"
    away = abs(row["value"] - 0.5) > abs(row["value"] - row["delta"] - 0.5)
    return f"{'rises' if row['delta_low'] > 0 else 'falls'} {'away from' if away else 'towards'} 0.5"


def _summary(auc: pd.DataFrame) -> list[str]:
    """A sentence per protocol: which method and attack rise, which fall, beyond their intervals."""
    lines = []
    for protocol in auc["protocol"].unique():
        part = auc[(auc["protocol"] == protocol) & auc["delta"].notna()]
        names = part["method"].map(method_title) + " / " + part["attack"].map(lambda a: TITLES.get(a, a))
        up, down = (list(names[side]) for side in (part["delta_low"] > 0, part["delta_high"] < 0))
        counts = f"of {len(part)} method and attack pairs {len(up)} rise and {len(down)} fall beyond their intervals"
        lines.append(f"- **{protocol}**: {counts}." + (f" They rise for {', '.join(up)}." if up else ""))
    return [*lines, "", "By chance one in forty would rise, and one in forty fall. Each in turn:", ""]


def verdicts(table: pd.DataFrame) -> str:
    """What the table says, in Markdown sentences: which attacks fine-tuning amplifies, and what the protocol does to that."""
    lines = []
    auc = table[(table["metric"] == "AUC") & ~table["method"].str.startswith("largest change")]
    for attack in auc["attack"].unique():
        for protocol in auc["protocol"].unique():
            part = auc[(auc["attack"] == attack) & (auc["protocol"] == protocol)]
            if attack == "blind":
                row = part.iloc[0]
                reads = (
                    "" if row["low"] <= 0.5 <= row["high"] else "; attacks under this protocol may be reading the style, not the membership"
                )
                lines.append(f"- **No model, {protocol}**: blind AUC {level(row)}{reads}.")
                continue
            base, tuned = part[part["method"] == PRETRAINED].iloc[0], part[part["method"] != PRETRAINED]
            found = [f"{method_title(row['method'])} {moved(row)} ({change(row)})" for _, row in tuned.iterrows()]
            below = ", below 0.5: leakage with the other sign" if base["high"] < 0.5 else ""
            lines.append(f"- **{TITLES[attack]}, {protocol}**: base {level(base)}{below}; {'; '.join(found)}.")
    return "\n".join([*_summary(auc), *lines])
