"""What MixSyn's tables say about its claims, in Markdown sentences: each verdict with the value behind it."""

import pandas as pd

from s2llib.attacks import TITLES
from s2llib.report.membership import change, level, level_and_change, method_title
from s2llib.report.mixsyn import ACCURACY, ALIKE, BRISQUE, CLIP_R, KID, UNAWARE
from s2llib.stages.mixsyn import CLEAN
from s2llib.study import PRETRAINED

__all__ = ["adaptive_claim", "again_claim", "auc_claim", "gaussian_claim", "quality_claim"]

# metric: (which way is worse, how its change is written)
WORSE = {CLIP_R: (-1, "+.1f"), ACCURACY: (-1, "+.1f"), BRISQUE: (1, "+.1f"), KID: (1, "+.2f")}


def _name(row: pd.Series) -> str:
    return f"{method_title(row['method'])} / {TITLES[row['attack']]}"


def _share(count: int, of: int) -> str:
    return "yes" if count == of else "in part" if count else "no"


def auc_claim(table: pd.DataFrame, claim: str, falls: bool = True) -> str:
    """Whether AUC falls (or rises) against the pre-trained model, a sentence per protocol. claim: what is asked, such as `lower AUC`."""
    lines = []
    for protocol, part in table[table["metric"] == "AUC"].groupby("protocol", sort=False):
        tuned, base = part[part["delta"].notna()], part[part["method"] == PRETRAINED]
        down, up = tuned[tuned["delta_high"] < 0], tuned[tuned["delta_low"] > 0]
        hit, against = (down, up) if falls else (up, down)
        starts = ", ".join(f"{TITLES[row['attack']]} {level(row)}" for _, row in base.iterrows())
        text = f"- **{claim}? {protocol}: {_share(len(hit), len(tuned))}.** Pre-trained: {starts}. Of {len(tuned)} method and attack pairs"
        text += f" {len(down)} fall beyond their intervals and {len(up)} rise"
        text += f" ({'; '.join(f'{_name(row)} {change(row)}' for _, row in tuned.iterrows())})."
        if len(below := tuned[tuned["high"] < 0.5]):
            text += f" Below 0.5, which is leakage with the other sign: {', '.join(_name(row) for _, row in below.iterrows())}."
        lines.append(
            text + (" It goes the other way for " + ", ".join(_name(row) for _, row in against.iterrows()) + "." if len(against) else "")
        )
    return "\n".join(lines)


def quality_claim(table: pd.DataFrame, claim: str) -> str:
    """Whether quality is lost against the pre-trained model, a sentence per metric."""
    lines = []
    for metric, (worse, form) in WORSE.items():
        rows = table[(table["metric"] == metric) & (table["method"] != PRETRAINED)].drop_duplicates("method")
        if rows["value"].isna().any():
            lines.append(f"- **{claim}? {metric}: not measured.**")
            continue
        lost = rows[(worse * rows[["delta_low", "delta_high"]]).min(axis=1) > 0]
        gained = rows[(worse * rows[["delta_low", "delta_high"]]).max(axis=1) < 0]
        each = "; ".join(f"{method_title(row['method'])} {change(row, form)}" for _, row in rows.iterrows())
        lines.append(
            f"- **{claim}? {metric}: {_share(len(lost), len(rows))}.** Of {len(rows)} methods {len(lost)} are worse beyond their intervals"
            f" and {len(gained)} better ({each})."
        )
    return "\n".join(lines)


def gaussian_claim(contrasts: pd.DataFrame) -> str:
    """Whether Gaussian noise of the same size does as well as the adversarial perturbation."""
    lines = []
    for _, row in contrasts.iterrows():
        needed, better = row["high"] < 0, row["low"] > 0
        says = (
            "no: the adversarial part lowers AUC further" if needed else "yes, and lowers it further" if better else "no clear difference"
        )
        lines.append(
            f"- **Does Gaussian noise do as well? {TITLES[row['attack']]}, {row['protocol']}: {says}.** {row['of']} against"
            f" {row['against']}: {level(row, '+.3f')}."
        )
    return "\n".join(lines)


def adaptive_claim(table: pd.DataFrame) -> str:
    """Whether an attacker who chose attack, timestep and sign after the defence undoes it."""
    lines, base = [], table[table["method"] == PRETRAINED].iloc[0]
    for method, rows in table[~table["method"].isin([PRETRAINED, CLEAN])].groupby("method", sort=False):
        aware, unaware = (rows[rows["chosen on"] == when].iloc[0] for when in (ALIKE, UNAWARE))
        holds = aware["delta_high"] < 0
        says = "no: less leaks than from the pre-trained model" if holds else "yes: as much leaks as from the pre-trained model"
        more = ", or more" if aware["delta_low"] > 0 else ""
        lines.append(
            f"- **Does the adaptive attacker undo it? {method}: {says}{more}.** {TITLES[aware['attack']]}, {level_and_change(aware)};"
            f" chosen without knowing of the defence {level(unaware)}; the pre-trained model {level(base)}."
        )
    return "\n".join(lines)


def again_claim(contrasts: pd.DataFrame) -> str:
    """Whether Shake-to-Leak on top of a defended model brings the leak back: its AUC against the defended model's, and the base's."""
    lines = []
    for (of, attack, protocol), rows in contrasts.groupby(["of", "attack", "protocol"], sort=False):
        sides = rows.set_index("against")
        before = sides.loc[PRETRAINED]
        defended = sides.drop(PRETRAINED).iloc[0]
        says = "yes" if defended["low"] > 0 else "no, it falls further" if defended["high"] < 0 else "not beyond its interval"
        lines.append(
            f"- **Does the leak come back? {of}, {TITLES[attack]}, {protocol}: {says}.** {level(defended, '+.3f')} against the defended"
            f" model, {level(before, '+.3f')} against the pre-trained one."
        )
    return "\n".join(lines)
