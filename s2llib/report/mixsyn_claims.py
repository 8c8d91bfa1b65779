"""What MixSyn's tables say about its claims, in Markdown sentences: each verdict with the values behind it."""

import pandas as pd

from s2llib.attacks import TITLES
from s2llib.report.membership import change, level, level_and_change, method_title, moved
from s2llib.report.mixsyn import ACCURACY, ALIKE, BRISQUE, CLIP_R, KID, UNAWARE
from s2llib.stages.mixsyn import AGAIN, CLEAN
from s2llib.study import PRETRAINED

__all__ = ["adaptive_claim", "again_claim", "auc_claim", "gaussian_claim", "quality_claim"]

# metric: (which way is worse, how its change is written)
WORSE = {CLIP_R: (-1, "+.1f"), ACCURACY: (-1, "+.1f"), BRISQUE: (1, "+.1f"), KID: (1, "+.2f")}


def _beyond(rows: pd.DataFrame, column: str = "delta", sign: int = 1) -> pd.DataFrame:
    """Rows whose change lies above 0 beyond its interval; sign -1: below."""
    return rows[(sign * rows[[f"{column}_low", f"{column}_high"]]).min(axis=1) > 0]


def auc_claim(table: pd.DataFrame, claim: str, falls: bool = True) -> str:
    """How often AUC falls towards 0.5 (or rises away from it) against the pre-trained model, a sentence per protocol.

    claim: what is asked, such as `lower AUC`. Leakage is distance from 0.5: what moves the other way is named and not counted.
    """
    lines, wanted = [], "towards" if falls else "away"
    for protocol, part in table[table["metric"] == "AUC"].groupby("protocol", sort=False):
        tuned, base = part[part["delta"].notna()], part[part["method"] == PRETRAINED]
        down, up = _beyond(tuned, sign=-1), _beyond(tuned)
        asked = down if falls else up
        hit = asked[[wanted in moved(row) for _, row in asked.iterrows()]]
        starts = ", ".join(f"{TITLES[row['attack']]} {level(row)}" for _, row in base.iterrows())
        each = "; ".join(f"{method_title(row['method'])} / {TITLES[row['attack']]} {change(row)}" for _, row in tuned.iterrows())
        text = f"- **{claim}? {protocol}: {len(hit)} of {len(tuned)} method and attack pairs do.** Pre-trained: {starts}. Beyond their"
        text += f" intervals {len(down)} fall and {len(up)} rise ({each})."
        if len(other := asked.drop(hit.index)):
            where = "away from 0.5, which is more leakage" if falls else "towards 0.5, which is less leakage"
            text += f" Of those that {'fall' if falls else 'rise'}, {len(other)} move{'s' if len(other) == 1 else ''} {where}."
        lines.append(text + _beside_s2l(tuned))
    return "\n".join(lines)


def _beside_s2l(tuned: pd.DataFrame) -> str:
    """How many AUCs differ from those of plain S2L by the same method."""
    twins = tuned[tuned["delta_s2l"].notna()] if "delta_s2l" in tuned else tuned[:0]
    if twins.empty:
        return ""
    lower, higher = len(_beyond(twins, "delta_s2l", -1)), len(_beyond(twins, "delta_s2l"))
    return f" Against plain S2L by the same method {lower} of {len(twins)} lie lower and {higher} higher, beyond their intervals."


def quality_claim(table: pd.DataFrame, claim: str) -> str:
    """How often quality is lost, against the pre-trained model and against plain S2L, a sentence per metric."""
    lines = []
    for metric, (worse, form) in WORSE.items():
        rows = table[(table["metric"] == metric) & ~table["method"].isin([PRETRAINED, "no model"])].drop_duplicates("method")
        if rows["value"].isna().any():
            lines.append(f"- **{claim}? {metric}: not measured.**")
            continue
        lost, gained = _beyond(rows, sign=worse), _beyond(rows, sign=-worse)
        each = "; ".join(f"{method_title(row['method'])} {change(row, form)}" for _, row in rows.iterrows())
        text = f"- **{claim}? {metric}: {len(lost)} of {len(rows)} methods are worse than the pre-trained model beyond their intervals**"
        text += f", {len(gained)} better ({each})."
        if lost.empty:
            most = worse * (worse * rows[["delta_low", "delta_high"]]).max(axis=None)
            text += f" No loss is shown, but one of {most:{form}} is not excluded."
        twins = rows[rows["delta_s2l"].notna()] if "delta_s2l" in rows else rows[:0]
        if len(twins):
            more, less = len(_beyond(twins, "delta_s2l", worse)), len(_beyond(twins, "delta_s2l", -worse))
            text += f" Against plain S2L by the same method {more} of {len(twins)} are worse and {less} better."
        lines.append(text)
    return "\n".join(lines)


def gaussian_claim(contrasts: pd.DataFrame, baselines: pd.DataFrame) -> str:
    """Whether the adversarial perturbation does better than Gaussian noise of its size, iid; baselines: the table of both."""
    lines, auc = [], baselines[(baselines["metric"] == "AUC") & (baselines["protocol"] == "iid")].set_index(["method", "attack"])
    for _, row in contrasts[contrasts["protocol"] == "iid"].iterrows():
        says = (
            "the adversarial set's AUC lies lower" if row["high"] < 0 else "the adversarial set's AUC lies higher"
            if row["low"] > 0 else "no difference is shown"
        )  # fmt: skip
        mine, noisy = (change(auc.loc[(row[side], row["attack"])]) for side in ("of", "against"))
        lines.append(
            f"- **Does Gaussian noise do as well? {TITLES[row['attack']]}: {says}.** {row['of']} against {row['against']}:"
            f" {level(row, '+.3f')}; against the pre-trained model {mine} and {noisy}."
        )
    return "\n".join(lines)


def adaptive_claim(table: pd.DataFrame) -> str:
    """Whether an attacker who chose attack, timestep and sign after the defence undoes it."""
    of = lambda method, when: table[(table["method"] == method) & (table["chosen on"] == when)].iloc[0]  # noqa: E731
    lines, base = [], of(PRETRAINED, ALIKE)
    for method in table["method"].unique():
        if method in (PRETRAINED, CLEAN):
            continue
        aware, unaware = of(method, ALIKE), of(method, UNAWARE)
        if aware["delta_high"] < 0:
            says = "no: less leaks than from the pre-trained model, to this attacker too"
        elif aware["delta_low"] > 0:
            says = "more leaks to this attacker than from the pre-trained model"
        else:
            says = "no difference from the pre-trained model is shown"
        nothing = " There was nothing to undo: no fall is shown to the unaware attacker either." if unaware["delta_high"] >= 0 else ""
        lines.append(
            f"- **Does the adaptive attacker undo it? {method}: {says}.** {TITLES[aware['attack']]}, {level_and_change(aware)}; chosen"
            f" without knowing of the defence {level_and_change(unaware)}; plain S2L {level(of(CLEAN, ALIKE))}, the pre-trained model"
            f" {level(base)}, each under its own best.{nothing}"
        )
    return "\n".join(lines)


def again_claim(contrasts: pd.DataFrame) -> str:
    """Whether Shake-to-Leak on top of a defended model brings the leak back, iid: its AUC against the defended model's and the base's."""
    lines, iid = [], contrasts[contrasts["protocol"] == "iid"].set_index(["of", "against", "attack"])
    for of, against, attack in iid.index:
        if against != PRETRAINED or not of.endswith(AGAIN):
            continue
        defence = of.removesuffix(AGAIN)
        fell, back, left = (iid.loc[(*pair, attack)] for pair in ((defence, PRETRAINED), (of, defence), (of, PRETRAINED)))
        if fell["high"] >= 0:
            says = "there was no fall to bring back"
        elif back["low"] > 0:
            says = "in part: still below the pre-trained model" if left["high"] < 0 else "yes"
        else:
            says = "no, it falls further" if back["high"] < 0 else "no rise is shown"
        lines.append(
            f"- **Does the leak come back? {of}, {TITLES[attack]}: {says}.** The defence {level(fell, '+.3f')} against the pre-trained"
            f" model; S2L on top {level(back, '+.3f')} against the defended model, {level(left, '+.3f')} against the pre-trained one."
        )
    return "\n".join(lines)
