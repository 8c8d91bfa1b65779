"""Tables on what the attacker knows: levels of prior knowledge, none at all, and public domains first."""

import pandas as pd

from s2llib.attacks import TITLES
from s2llib.finetune.methods import PRETRAINED
from s2llib.params import Statistics
from s2llib.report.ablations import changes_by_value
from s2llib.report.estimate import Entry, estimated, family_note, measures, weighted
from s2llib.report.membership import change, level, level_and_change, moved, shown
from s2llib.report.paper import S2L_TRANSFER_DE
from s2llib.studies.priors import PLAIN, PUBLIC_ALONE, PUBLIC_FIRST

__all__ = ["contrast_table", "contrasts", "printed_changes", "transfer_paper", "zero_table", "zero_verdict"]


def contrast_table(scores: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy: by how much public photographs and then S2L gain more than S2L, and than public photographs alone; paired, iid AUC."""
    entries = []
    for attack, part in scores.groupby("attack", sort=False):
        changes = changes_by_value(part)
        for other in (PLAIN, PUBLIC_ALONE):
            labels = {"of": PUBLIC_FIRST, "against": other, "attack": attack, "protocol": "iid", "metric": "AUC change"}
            entries.append(Entry(labels, weighted([changes[PUBLIC_FIRST], changes[other]], [1, -1]), null=0.0))
    return estimated(entries, p)


def contrasts(table: pd.DataFrame) -> str:
    """What the contrasts say, in Markdown sentences."""
    lines = []
    for _, row in table.iterrows():
        more, less = shown(row) and row["value"] > 0, shown(row) and row["value"] < 0
        says = "more, as in the paper" if more else "less, the paper's order reversed" if less else "no difference is shown"
        lines.append(f"- **{TITLES[row['attack']]}**: {row['of']} against {row['against']}: {level(row, '+.3f')}, {says}.")
    return "\n".join([*lines, "", family_note(table)])


def transfer_paper(table: pd.DataFrame) -> pd.DataFrame:
    """The extraction table of domain transfer with the paper's value beside its row."""
    here = (table["method"] == PUBLIC_FIRST) & (table["metric"] == "DE")
    return table[~table["method"].str.startswith("best: ")].assign(paper=pd.Series(S2L_TRANSFER_DE, index=table.index).where(here))


def zero_table(scores: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy iid AUC of the unconditional model before and after each change, with paired changes."""
    entries = []
    for attack, part in scores.groupby("attack", sort=False):
        found = measures(part, metrics=["auc"])
        for method, each in found.items():
            labels = {"method": method, "attack": attack, "protocol": "iid", "metric": "AUC"}
            entries.append(Entry(labels, each["AUC"], None if method == PRETRAINED else found[PRETRAINED]["AUC"]))
    return estimated(entries, p)


def printed_changes(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row per value of `column`, a column per attack: AUC [interval] (change [interval])."""
    base = table[table["method"] == PRETRAINED].drop_duplicates("attack").assign(**{column: "pre-trained"})
    rows = pd.concat([base, table[table["delta"].notna()]])
    cells = [level_and_change(row) for _, row in rows.iterrows()]
    wide = rows.assign(cell=cells, attack=rows["attack"].map(TITLES)).pivot(index=column, columns="attack", values="cell")
    order = [list(dict.fromkeys(rows[name])) for name in (column, "attack")]
    return wide.loc[order[0], [TITLES[attack] for attack in order[1]]].rename_axis(columns=None)


def zero_verdict(table: pd.DataFrame) -> str:
    """What the zero-prior table says, in Markdown sentences."""
    tuned, lines = table[table["delta"].notna()], []
    best = lambda part: f"{part['value'].max():.3f} ({TITLES[part.loc[part['value'].idxmax(), 'attack']]})"  # noqa: E731
    before = best(table[table["method"] == PRETRAINED])
    for method, part in tuned.groupby("method", sort=False):
        found = [f"{TITLES[row['attack']]}: {moved(row)} ({change(row)})" for _, row in part.iterrows()]
        lines.append(f"- **{method}**: {'; '.join(found)}. The highest AUC of any attack: {best(part)}, before: {before}.")
    return "\n".join([*lines, "", f"{family_note(table)} The paper: Gaussian noise amplifies."])
