"""Is a change under the shifted protocol about membership, or about style?

The placebo puts iid non-members, which no model saw, in the members' place. Whatever it gains cannot be membership.
"""

import pandas as pd

from s2llib.attacks import TITLES
from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.params import Statistics
from s2llib.report.membership import Paired, change, collect, estimate_row, method_title, protocols
from s2llib.study import PRETRAINED

__all__ = ["PLACEBO_NOTE", "PLACES", "placebo_table", "placebo_verdicts", "printed_placebo"]

PLACEBO_NOTE = (
    "Paired change in AUC against the pre-trained model [95 % interval] under a shifted protocol. Members: as in the membership table."
    " Never seen: iid non-members in the members' place, which no model was trained on. Difference: what is left for membership."
)
PLACES = {MEMBER: "members", NONMEMBER: "never seen"}


def placebo_table(scores: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy change in AUC under each shifted protocol, of members and of iid non-members in their place, and the difference.

    value is the AUC, delta its change against the pre-trained model; the rows `difference` hold the difference of the two changes.
    """
    rows = []
    for attack, part in scores.groupby("attack", sort=False):
        found = collect(part)
        for protocol, split in list(protocols(part).items())[1:]:
            for method in found:
                if method != PRETRAINED:
                    names = {"method": method, "attack": attack, "protocol": protocol, "metric": "AUC"}
                    rows += [names | row for row in _rows(found, method, split, p)]
    return pd.DataFrame(rows)


def _rows(found: dict, method: str, split: str, p: Statistics) -> list[dict]:
    rows, changes = [], []
    for place, title in PLACES.items():
        # the resamples of domains, drawn first, are the same for both places; those of images too where the numbers of images agree
        paired = Paired(found, split, p, place)
        domains = paired.domains(method)
        value, base = (paired.estimates(m, domains, ("auc",))["auc"] for m in (method, PRETRAINED))
        rows.append({"in place of members": title} | estimate_row(value, base, p.level))
        changes.append(value - base)
    difference = changes[0] - changes[1]
    low, high = difference.interval(p.level)
    rows.append({"in place of members": "difference", "delta": difference.value, "delta_low": low, "delta_high": high})
    return [row | {"domains": len(domains)} for row in rows]


def printed_placebo(table: pd.DataFrame) -> pd.DataFrame:
    """A row per protocol, attack and method; columns: members, never seen, difference."""
    shown = table.assign(
        method=table["method"].map(method_title),
        attack=table["attack"].map(TITLES),
        cell=table.apply(change, axis=1),
    )
    keys = ["protocol", "attack", "method"]
    wide = shown.pivot(index=keys, columns="in place of members", values="cell")[[*PLACES.values(), "difference"]]
    order = [{value: i for i, value in enumerate(dict.fromkeys(shown[key]))} for key in keys]
    return wide.sort_index(key=lambda level: level.map(order[keys.index(level.name)])).rename_axis(columns=None)


def placebo_verdicts(table: pd.DataFrame) -> str:
    """What the placebo says about every rise under a shifted protocol, in Markdown sentences."""
    lines = []
    for (protocol, attack, method), part in table.groupby(["protocol", "attack", "method"], sort=False):
        rows = part.set_index("in place of members")
        members, placebo, rest = (rows.loc[name] for name in (*PLACES.values(), "difference"))
        if members["delta_low"] > 0:
            left = "a rise is left for membership" if rest["delta_low"] > 0 else "no rise is left for membership"
            lines.append(
                f"- **{TITLES[attack]}, {method_title(method)}, {protocol}**: members {change(members)}; photographs that no model saw,"
                f" in their place, {change(placebo)}; difference {change(rest)}: {left}."
            )
    return "\n".join(lines) or "No attack rises beyond its interval under a shifted protocol."
