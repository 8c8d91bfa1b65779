"""Is a change under the shifted protocol about membership, or about style?

The placebo puts iid non-members, which no model saw, in the members' place. Whatever it gains cannot be membership.
"""

import pandas as pd

from s2llib.attacks import TITLES
from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.finetune.methods import PRETRAINED
from s2llib.params import Statistics
from s2llib.report.estimate import Entry, estimated, measures, protocols, weighted
from s2llib.report.estimate import change as moved
from s2llib.report.membership import change, method_title, shown

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
    entries = []
    for attack, part in scores.groupby("attack", sort=False):
        for protocol, split in list(protocols(part).items())[1:]:
            places = {title: measures(part, split, place, ["auc"]) for place, title in PLACES.items()}
            for method in [name for name in places["members"] if name != PRETRAINED]:
                names = {"method": method, "attack": attack, "protocol": protocol}
                pairs = {title: (each[method]["AUC"], each[PRETRAINED]["AUC"]) for title, each in places.items()}
                for title, (after, before) in pairs.items():
                    entries.append(Entry(names | {"metric": "AUC", "in place of members": title}, after, before))
                left = weighted([moved(*pair) for pair in pairs.values()], [1, -1])
                entries.append(Entry(names | {"metric": "difference", "in place of members": "difference"}, left, null=0.0))
    table = estimated(entries, p)
    rest = table["in place of members"] == "difference"
    for name, to in (("value", "delta"), ("low", "delta_low"), ("high", "delta_high")):
        table.loc[rest, to] = table.loc[rest, name]
        table.loc[rest, name] = None
    return table


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
        if shown(members) and members["delta"] > 0:
            left = "a rise is left for membership" if shown(rest) and rest["delta"] > 0 else "no rise is shown to be left for membership"
            lines.append(
                f"- **{TITLES[attack]}, {method_title(method)}, {protocol}**: members {change(members)}; photographs that no model saw,"
                f" in their place, {change(placebo)}; difference {change(rest)}: {left}."
            )
    return "\n".join(lines) or "No attack is shown to rise under a shifted protocol."
