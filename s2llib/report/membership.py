"""From membership scores to the tables of Shake-to-Leak: values, paired changes, intervals, the blind baseline."""

import json
from collections.abc import Iterable

import pandas as pd

from s2llib.attacks import TITLES
from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.finetune.methods import METHODS, PRETRAINED
from s2llib.params import Statistics
from s2llib.report.estimate import Entry, auc, collect, estimated, family_note, measures, protocols, span
from s2llib.report.paper import MIXSYN_CLEAN, S2L_BEST_GAIN

__all__ = [
    "INTERVALS", "NOTE", "PEOPLE", "POOLED", "blind_entries", "change", "level", "level_and_change", "membership_note",
    "membership_table", "method_title", "moved", "on_domains", "printed_membership", "shown", "sweep_table", "unseen", "verdicts",
]  # fmt: skip

PEOPLE = (
    "Value [95 % interval] (paired change against the pre-trained model [interval]). Intervals are over people: t on the values of each"
    " person, and on each person's change; with one person, over images."
)
POOLED = (
    "TPR@1%FPR, where a person has fewer than 100 non-members, is computed on pooled scores, each person's standardised by the scores of"
    " generated images, which an attacker has; its interval is a bootstrap over people."
)
INTERVALS = f"{PEOPLE} {POOLED}"
NOTE = (
    f"{INTERVALS} blind: a classifier on image features that never queries the model; where it is far from 0.5, an attack may be reading"
    " the style and not the membership. An AUC below 0.5 is leakage too, with the other sign."
    " paper: what MixSyn's Table 1 prints for the same experiment on Stable Diffusion (shifted protocol);"
    " the values of Shake-to-Leak's own table are not public."
)


def method_title(method: str) -> str:
    """What a method is called in print."""
    if method in METHODS:
        return METHODS[method].title
    return {PRETRAINED: "Pre-trained"}.get(method, method)


def membership_note(table: pd.DataFrame) -> str:
    """What stands under the membership table."""
    return f"{NOTE} {family_note(table)}"


def membership_table(scores: pd.DataFrame, blind: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy table of AUC and TPR@1%FPR: method x attack x protocol, with the change against the pre-trained model.

    A last row for each attack and protocol, `largest change`, is the best method's change in AUC, which S2L reports; its interval
    is that method's own, and the best of several is optimistic. A method on fewer domains is compared with the pre-trained
    model on those. The papers' values stand beside the shifted protocols only: that is what they measured.
    """
    entries = []
    for attack, part in scores.groupby("attack", sort=False):
        for protocol, split in protocols(part).items():
            found = measures(part, split)
            for method, each in found.items():
                paper = dict(zip(each, MIXSYN_CLEAN.get((method, attack), (None, None)), strict=True)) if protocol != "iid" else {}
                for metric, measure in each.items():
                    labels = {"method": method, "attack": attack, "protocol": protocol, "metric": metric}
                    labels |= {"mixsyn_table1": paper.get(metric)}
                    entries.append(Entry(labels, measure, None if method == PRETRAINED else found[PRETRAINED][metric]))
    table = estimated([*entries, *blind_entries(blind)], p)
    rows = pd.concat([table, pd.DataFrame(_largest_changes(table))], ignore_index=True)
    rows.attrs, last = table.attrs, ["paper", "mixsyn_table1"]
    return rows.reindex(columns=[*(name for name in rows if name not in last), *last])


def _largest_changes(table: pd.DataFrame) -> list[dict]:
    """The best method's change in AUC, of every attack and protocol."""
    rows = []
    tuned = table[(table["metric"] == "AUC") & table["delta"].notna()]
    for (attack, protocol), part in tuned.groupby(["attack", "protocol"], sort=False):
        best = part.loc[part["delta"].idxmax()]
        names = {"method": f"largest change: {best['method']}", "attack": attack, "protocol": protocol, "metric": "AUC change"}
        values = {"value": best["delta"], "low": best["delta_low"], "high": best["delta_high"]}
        values |= {key: best[key] for key in ("domains", "seeds", "interval")}
        rows.append(names | values | {"paper": S2L_BEST_GAIN if attack == "secmi" and protocol != "iid" else None})
    return rows


def blind_entries(blind: pd.DataFrame) -> list[Entry]:
    """The blind baseline's AUC, a row for each protocol. blind: of `s2l.blind`."""
    entries = []
    for against, part in blind.groupby("against", sort=False):
        images = part.assign(method="no model", seed=0, image=part.groupby(["domain", "split"]).cumcount())
        sides = collect(images)["no model"]
        protocol = "iid" if against == NONMEMBER else f"shifted ({against})"
        labels = {"method": "no model", "attack": "blind", "protocol": protocol, "metric": "AUC"}
        entries.append(Entry(labels, auc(sides[MEMBER], sides[against])))
    return entries


def sweep_table(scores: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy iid AUC of every attack against its timestep, before and after fine-tuning."""
    entries = []
    for (attack, setting), part in scores.groupby(["attack", "setting"], sort=False):
        found, values = measures(part, metrics=["auc"]), json.loads(setting)
        t = values.get("t", values.get("timesteps", [None])[0])
        for method, each in found.items():
            labels = {"attack": attack, "t": t, "k": values.get("k"), "method": method, "protocol": "iid", "metric": "AUC"}
            entries.append(Entry(labels, each["AUC"], None if method == PRETRAINED else found[PRETRAINED]["AUC"]))
    return estimated(entries, p)


def level(row: pd.Series, form: str = ".3f") -> str:
    """A value with its interval."""
    return f"{row['value']:{form}} {_ends(row['low'], row['high'], form)}"


def change(row: pd.Series, form: str = "+.3f", of: str = "") -> str:
    """The change against the pre-trained model with its interval; of: `_NAME`: against another model of that name."""
    return f"{row[f'delta{of}']:{form}} {_ends(row[f'delta{of}_low'], row[f'delta{of}_high'], form)}"


def _ends(low: float, high: float, form: str) -> str:
    return "(no interval)" if pd.isna(low) else f"[{low:{form}}, {high:{form}}]"


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
    few = "1 domain: interval over images" if domains == 1 else f"{domains} domains"
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


def shown(row: pd.Series, level: float = 0.95, of: str = "") -> bool:
    """Whether a change is shown: not by its own interval alone, but by the p-value that holds for the whole table.

    of: `_NAME`: the change against another model of that name.
    """
    return bool(pd.notna(row[f"p{of}_adjusted"]) and row[f"p{of}_adjusted"] <= 1 - level + 1e-12)


def unseen(visible: Iterable[float], form: str = ".3f") -> str:
    """What is said beside changes that are not shown: the smallest that an interval would have shown, in brackets."""
    known = pd.Series(visible, dtype=float).dropna()
    return f" (smallest visible: {span(known, form)})" if len(known) else ""


def moved(row: pd.Series) -> str:
    """Rises or falls, and what that means: leakage is distance from 0.5, on either side; or that neither is shown."""
    if not shown(row):
        return "no change is shown"
    away = abs(row["value"] - 0.5) > abs(row["value"] - row["delta"] - 0.5)
    return f"{'rises' if row['delta'] > 0 else 'falls'} {'away from' if away else 'towards'} 0.5"


def _summary(auc: pd.DataFrame, note: str) -> list[str]:
    """A sentence per protocol: which method and attack rise, which fall."""
    lines = []
    for protocol in auc["protocol"].unique():
        part = auc[(auc["protocol"] == protocol) & auc["delta"].notna()]
        names = part["method"].map(method_title) + " / " + part["attack"].map(lambda a: TITLES.get(a, a))
        moves = part.apply(shown, axis=1).astype(bool)
        up, down = (list(names[moves & side]) for side in (part["delta"] > 0, part["delta"] < 0))
        counts = f"of {len(part)} method and attack pairs {len(up)} are shown to rise and {len(down)} to fall"
        lines.append(f"- **{protocol}**: {counts}." + (f" They rise for {', '.join(up)}." if up else ""))
    return [*lines, "", f"{note} Each in turn:", ""]


def verdicts(table: pd.DataFrame) -> str:
    """What the table says, in Markdown sentences: which attacks fine-tuning amplifies, and what the protocol does to that."""
    lines = []
    auc = table[(table["metric"] == "AUC") & ~table["method"].str.startswith("largest change")]
    for attack in auc["attack"].unique():
        for protocol in auc["protocol"].unique():
            part = auc[(auc["attack"] == attack) & (auc["protocol"] == protocol)]
            if attack == "blind":
                row = part.iloc[0]
                apart = "; attacks under this protocol may be reading the style, not the membership"
                lines.append(f"- **No model, {protocol}**: blind AUC {level(row)}{apart if row['low'] > 0.5 or row['high'] < 0.5 else ''}.")
                continue
            base, tuned = part[part["method"] == PRETRAINED].iloc[0], part[part["method"] != PRETRAINED]
            found = [f"{method_title(row['method'])}: {moved(row)} ({change(row)})" for _, row in tuned.iterrows()]
            below = ", below 0.5: leakage with the other sign" if base["high"] < 0.5 else ""
            lines.append(f"- **{TITLES[attack]}, {protocol}**: base {level(base)}{below}; {'; '.join(found)}.")
    return "\n".join([*_summary(auc, family_note(table)), *lines])
