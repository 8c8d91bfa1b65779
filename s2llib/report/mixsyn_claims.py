"""What MixSyn's tables say about its claims, in Markdown sentences: each verdict with the values behind it.

A fall or a rise counts where the p-value that holds for the whole table shows it.
"""

import pandas as pd

from s2llib.attacks import TITLES
from s2llib.finetune.methods import PRETRAINED
from s2llib.report.membership import change, level, level_and_change, method_title, moved, shown, unseen
from s2llib.report.mixsyn import ACCURACY, ALIKE, AUC, BRISQUE, CLIP_R, KID, UNAWARE
from s2llib.studies.mixsyn import CLEAN

__all__ = ["adaptive_claim", "again_claim", "auc_claim", "gaussian_claim", "quality_claim"]

# metric: (which way is worse, how its change is written)
WORSE = {CLIP_R: (-1, "+.1f"), ACCURACY: (-1, "+.1f"), BRISQUE: (1, "+.1f"), KID: (1, "+.2f")}


def _shown(rows: pd.DataFrame, sign: int = 1, of: str = "") -> pd.DataFrame:
    """Rows whose change is shown to lie above 0; sign -1: below. of: as `shown`'s."""
    return rows[[shown(row, of=of) and sign * row[f"delta{of}"] > 0 for _, row in rows.iterrows()]]


def _way(row: pd.Series, column: str = "value") -> int:
    """Which way a difference is shown to go; 0: none is."""
    return (1 if row[column] > 0 else -1) if shown(row) else 0


def auc_claim(table: pd.DataFrame, claim: str, falls: bool = True) -> str:
    """How often AUC falls towards 0.5 (or rises away from it) against the pre-trained model, a sentence per protocol.

    claim: what is asked, such as `lower AUC`. Leakage is distance from 0.5: what moves the other way is named and not counted.
    """
    lines, wanted = [], "towards" if falls else "away"
    for protocol, part in table[table["metric"] == AUC].groupby("protocol", sort=False):
        tuned, base = part[part["delta"].notna()], part[part["method"] == PRETRAINED]
        down, up = _shown(tuned, -1), _shown(tuned)
        asked = down if falls else up
        hit = asked[[wanted in moved(row) for _, row in asked.iterrows()]]
        starts = ", ".join(f"{TITLES[row['attack']]} {level(row)}" for _, row in base.iterrows())
        each = "; ".join(f"{method_title(row['method'])} / {TITLES[row['attack']]} {change(row)}" for _, row in tuned.iterrows())
        text = f"- **{claim}? {protocol}: {len(hit)} of {len(tuned)} method and attack pairs are shown to.** Pre-trained: {starts}."
        text += f" {len(down)} are shown to fall and {len(up)} to rise{unseen(tuned['smallest_visible'])}: {each}."
        if len(other := asked.drop(hit.index)):
            where = "away from 0.5, which is more leakage" if falls else "towards 0.5, which is less leakage"
            text += f" Of those that {'fall' if falls else 'rise'}, {len(other)} move{'s' if len(other) == 1 else ''} {where}."
        lines.append(text + _beside_s2l(tuned, "lie higher", "lie lower"))
    return "\n".join(lines)


def _beside_s2l(rows: pd.DataFrame, above: str, below: str, sign: int = 1, form: str = ".3f") -> str:
    """How many differ from plain S2L by the same method. above, below: what that is called; sign -1: the other way."""
    twins = rows[rows["delta_s2l"].notna()] if "delta_s2l" in rows else rows[:0]
    if twins.empty:
        return ""
    up, down = (len(_shown(twins, way * sign, "_s2l")) for way in (1, -1))
    seen = unseen(twins["smallest_visible_s2l"], form)
    return f" Against plain S2L by the same method {up} of {len(twins)} are shown to {above} and {down} to {below}{seen}."


def quality_claim(table: pd.DataFrame, claim: str) -> str:
    """How often quality is lost, against the pre-trained model and against plain S2L, a sentence per metric."""
    lines = []
    for metric, (worse, form) in WORSE.items():
        rows = table[(table["metric"] == metric) & ~table["method"].isin([PRETRAINED, "no model"])].drop_duplicates("method")
        if rows["value"].isna().any():
            lines.append(f"- **{claim}? {metric}: not measured.**")
            continue
        lost, gained = _shown(rows, worse), _shown(rows, -worse)
        each = "; ".join(f"{method_title(row['method'])} {change(row, form)}" for _, row in rows.iterrows())
        text = f"- **{claim}? {metric}: {len(lost)} of {len(rows)} methods are shown to be worse than the pre-trained model**,"
        text += f" {len(gained)} to be better{unseen(rows['smallest_visible'], form[1:])}: {each}."
        most = worse * (worse * rows[["delta_low", "delta_high"]]).max(axis=None)
        if lost.empty and pd.notna(most):
            text += f" No loss is shown, but one of {most:{form}} is not excluded."
        lines.append(text + _beside_s2l(rows, "be worse", "be better", worse, form[1:]))
    return "\n".join(lines)


def gaussian_claim(contrasts: pd.DataFrame, baselines: pd.DataFrame) -> str:
    """Whether the adversarial perturbation does better than Gaussian noise of its size, iid; baselines: the table of both."""
    lines, auc = [], baselines[(baselines["metric"] == AUC) & (baselines["protocol"] == "iid")].set_index(["method", "attack"])
    says = {-1: "the adversarial set's AUC lies lower", 1: "the adversarial set's AUC lies higher", 0: "no difference is shown"}
    for _, row in contrasts[contrasts["protocol"] == "iid"].iterrows():
        mine, noisy = (change(auc.loc[(row[side], row["attack"])]) for side in ("of", "against"))
        lines.append(
            f"- **Does Gaussian noise do as well? {TITLES[row['attack']]}: {says[_way(row)]}.** {row['of']} against {row['against']}:"
            f" {level(row, '+.3f')}{_unless_shown(row)}; against the pre-trained model {mine} and {noisy}."
        )
    return "\n".join(lines)


def _unless_shown(row: pd.Series) -> str:
    return "" if shown(row) else unseen([row["smallest_visible"]])


def adaptive_claim(table: pd.DataFrame) -> str:
    """Whether an attacker who chose attack, timestep and sign after the defence undoes it."""
    of = lambda method, when: table[(table["method"] == method) & (table["chosen on"] == when)].iloc[0]  # noqa: E731
    lines, base = [], of(PRETRAINED, ALIKE)
    says = {
        -1: "no: less leaks than from the pre-trained model, to this attacker too",
        1: "more leaks to this attacker than from the pre-trained model",
        0: "no difference from the pre-trained model is shown",
    }
    for method in table["method"].unique():
        if method in (PRETRAINED, CLEAN):
            continue
        aware, unaware = of(method, ALIKE), of(method, UNAWARE)
        nothing = " There was nothing to undo: no fall is shown to the unaware attacker either." if _way(unaware, "delta") >= 0 else ""
        lines.append(
            f"- **Does the adaptive attacker undo it? {method}: {says[_way(aware, 'delta')]}.** {TITLES[aware['attack']]},"
            f" {level_and_change(aware)}{_unless_shown(aware)}; chosen without knowing of the defence {level_and_change(unaware)}; plain"
            f" S2L {level(of(CLEAN, ALIKE))}, the pre-trained model {level(base)}, each under its own best.{nothing}"
        )
    return "\n".join(lines)


def again_claim(contrasts: pd.DataFrame) -> str:
    """Whether Shake-to-Leak on top of a defended model brings the leak back, iid: its AUC against the defended model's and the base's."""
    lines, iid = [], contrasts[contrasts["protocol"] == "iid"].set_index(["of", "against", "attack"])
    for again, defence, attack in iid.index:
        if defence == PRETRAINED:
            continue
        fell, back, left = (iid.loc[(*pair, attack)] for pair in ((defence, PRETRAINED), (again, defence), (again, PRETRAINED)))
        if _way(fell) >= 0:
            says = "no fall is shown that could come back"
        elif _way(back) > 0:
            rest = {-1: "in part: still below", 0: "yes: no difference is shown any more from", 1: "yes: it is above"}
            says = f"{rest[_way(left)]} the pre-trained model"
        else:
            says = "no, it falls further" if _way(back) < 0 else "no rise is shown"
        lines.append(
            f"- **Does the leak come back? {again}, {TITLES[attack]}: {says}.** The defence {level(fell, '+.3f')}{_unless_shown(fell)}"
            f" against the pre-trained model; S2L on top {level(back, '+.3f')}{_unless_shown(back)} against the defended model,"
            f" {level(left, '+.3f')} against the pre-trained one."
        )
    return "\n".join(lines)
