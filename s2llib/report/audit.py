"""The report of an audit: the verdict and its grounds, what fine-tuning does to it, and one paragraph that claims no more than that."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from s2llib.attacks import TITLES
from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.metrics.bootstrap import POOL_BELOW, Estimate
from s2llib.params import Params, Statistics
from s2llib.report.extraction import BEYOND, FALSE, extraction_table
from s2llib.report.membership import Paired, change, collect, estimate_row, level, membership_table, moved, printed_membership
from s2llib.report.reading import what_was_read
from s2llib.stages.audit import AFTER, DEFENDED, EVIDENCE, Verdict
from s2llib.study import PRETRAINED, Study

__all__ = [
    "AUDIT_NOTE",
    "BEYOND_BLIND",
    "audit_extraction_table",
    "audit_report",
    "audit_table",
    "conclusion",
    "gallery",
    "headline",
    "trials_line",
]

BEYOND_BLIND = "AUC beyond blind"
AUDIT_NOTE = (
    "Value [95 % interval] (paired change against the model as it is [interval]); hierarchical bootstrap over domains, then images."
    " TPR@1%FPR is computed on scores pooled over domains where a domain has fewer than 100 non-members, and left out where all together"
    " have fewer. blind: a classifier on image features that never queries the model; AUC beyond blind: an attack's AUC less the"
    " classifier's, which counts as at least 0.5, on the same resamples. An AUC"
    " below 0.5 is leakage with the other sign, or another difference. Only the attack that was named beforehand has a say in the verdict."
)


def audit_table(scores: pd.DataFrame, blind: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy iid AUC and TPR@1%FPR of every attack, on the model as it is and after what was done to it, with the blind baseline."""
    blind = blind[(blind["against"] == NONMEMBER) & blind["domain"].isin(scores["domain"])]
    rows = membership_table(scores[scores["split"].isin([MEMBER, NONMEMBER])], blind, p)
    rows = rows[~rows["method"].str.startswith("largest change")].drop(columns=["paper", "mixsyn_table1"])
    if len(scores[scores["split"] == NONMEMBER].groupby(["domain", "image"])) < POOL_BELOW:
        rows = rows[rows["metric"] != "TPR@1%FPR"]
    return pd.concat([rows, pd.DataFrame(_beyond_blind(scores, blind, p))], ignore_index=True)


def _beyond_blind(scores: pd.DataFrame, blind: pd.DataFrame, p: Statistics) -> list[dict]:
    """How much more an attack on the model as it is tells than a classifier that never asks it: the difference of their AUCs.

    The classifier's counts as at least 0.5: one that does worse than guessing, by chance, must not lend the attack a lead.
    """
    asked = scores[(scores["method"] == PRETRAINED) & scores["split"].isin([MEMBER, NONMEMBER])]
    unasked = blind.assign(method="blind", seed=0)
    unasked["image"] = unasked.groupby(["domain", "split"]).cumcount()
    rows = []
    for attack, part in asked.groupby("attack", sort=False):
        paired = Paired(collect(part) | collect(unasked), NONMEMBER, p)
        domains = paired.domains(PRETRAINED)
        theirs, without = (paired.estimates(method, domains, ("auc",))["auc"] for method in (PRETRAINED, "blind"))
        names = {"method": PRETRAINED, "attack": attack, "protocol": "iid", "metric": BEYOND_BLIND}
        chance = Estimate(max(without.value, 0.5), np.maximum(without.replicates, 0.5))
        rows.append(names | estimate_row(theirs - chance, None, p.level) | {"domains": len(domains), "seeds": "1"})
    return rows


def audit_extraction_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """Tidy counts of suspected images that generated ones match, of false alarms among non-members, and of the difference."""
    table = extraction_table(found, p)
    return table[~table["method"].str.startswith("best: ")].drop(columns="paper")


def gallery(study: Study, rows: int = 4) -> dict[str, Tensor]:
    """{label: [suspected image, the nearest that the model generated, the nearest after S2L]} of the closest matches."""
    before = pd.concat([study.extracted(domain, PRETRAINED) for domain in study.audit_domains])
    closest = before[before["split"] == MEMBER].nsmallest(rows, "distance")
    domains, row = {domain.name: domain for domain in study.audit_domains}, study.audit_rows()[0]
    shown = {}
    for match in closest.itertuples():
        domain, seed = domains[match.domain], study.params.finetune.seeds[0]
        after = study.extracted(domain, row.method, seed)
        after = after[(after["split"] == MEMBER) & (after["image"] == match.image)].iloc[0]
        drawn = study.generations(domain), study.generations(domain, row.method, seed)
        chosen = [domain.splits[MEMBER][match.image : match.image + 1]]
        chosen += [photos[i : i + 1] for photos, i in zip(drawn, (match.nearest, int(after["nearest"])), strict=True)]
        label = f"{match.domain} {match.image}\nRMS {match.distance:.3f}, {after['distance']:.3f}"
        shown[label] = torch.cat([photos.pixels(study.image_size) for photos in chosen])
    return shown


def _row(table: pd.DataFrame, method: str, attack: str, metric: str = "AUC") -> pd.Series:
    return table[(table["method"] == method) & (table["attack"] == attack) & (table["metric"] == metric)].iloc[0]


def _grounds(found: Verdict, table: pd.DataFrame) -> str:
    auc = _row(table, PRETRAINED, found.attack)
    people = "domain" if found.domains == 1 else f"{found.domains} domains"
    return (
        f"{TITLES[found.attack]}, the attack named beforehand, gives {found.members} suspected images against {found.nonmembers}"
        f" non-members of the same {people} an AUC of {level(auc)}; a one-sided permutation test within domains gives"
        f" p = {found.p:.2g} at a level of {found.level:g}."
    )


def _separates(table: pd.DataFrame) -> bool:
    """Whether a classifier that never asks the model tells suspected images from the others."""
    return _row(table, "no model", "blind")["low"] > 0.5


def _is_beyond_blind(found: Verdict, table: pd.DataFrame) -> bool:
    """Whether the attack tells more than such a classifier, beyond the interval of the difference."""
    return _row(table, PRETRAINED, found.attack, BEYOND_BLIND)["low"] > 0


def _carries_over(found: Verdict, table: pd.DataFrame) -> bool:
    """Whether the AUC is above 0.5 beyond an interval over domains too; the permutation test is of these domains alone."""
    return found.domains > 1 and _row(table, PRETRAINED, found.attack)["low"] > 0.5


def headline(found: Verdict, table: pd.DataFrame) -> str:
    """The verdict in a few words: a difference that style may explain is not called membership."""
    if found.says != EVIDENCE:
        return found.says.capitalize()
    if _separates(table) or not _is_beyond_blind(found, table):
        return "A difference, which style may explain"
    if _carries_over(found, table):
        return found.says.capitalize()
    return found.says.capitalize() + (" in this domain alone" if found.domains == 1 else " in these domains alone")


def _limits(found: Verdict, table: pd.DataFrame) -> str:
    """What the verdict does not say."""
    auc = _row(table, PRETRAINED, found.attack)
    if auc["high"] < 0.5:
        return (
            "The AUC lies below 0.5: the attack tells the two apart with the other sign, which is leakage of some kind or another"
            " difference between the images, and not what the verdict asks for."
        )
    if found.says == EVIDENCE:
        says = f"This speaks of the images as a whole, not of any one of them: {_single_images(found, table)}."
        if _carries_over(found, table):
            return says
        why = "One domain has" if found.domains == 1 else "The AUC's interval, which is over domains too, holds 0.5: it has"
        return f"{says} {why} nothing to say of others."
    return f"That is no proof of absence: with so many images an AUC of up to {auc['high']:.3f} remains possible."


def _single_images(found: Verdict, table: pd.DataFrame) -> str:
    """What share of the suspected images the attack finds at a false-positive rate that so many non-members can show."""
    if found.nonmembers < POOL_BELOW:
        return f"{found.nonmembers} non-members are too few for a false-positive rate of 1 %"
    tpr = _row(table, PRETRAINED, found.attack, "TPR@1%FPR")
    found_share = f"{100 * tpr['value']:.1f} % [{100 * tpr['low']:.1f}, {100 * tpr['high']:.1f}]"
    return f"at a false-positive rate of 1 % the attack finds {found_share} of the suspected images"


def _blind(found: Verdict, table: pd.DataFrame) -> str:
    """What the blind baseline means for the verdict."""
    blind = level(_row(table, "no model", "blind"))
    if not _separates(table):
        who = "A classifier on simple image features that never asks the model"
        says = f"{who} does not tell them apart beyond its interval (blind AUC {blind})"
        if found.says != EVIDENCE:
            return f"{says}; differences up to that interval's end, and such that it cannot see, are not excluded."
        lead = level(_row(table, PRETRAINED, found.attack, BEYOND_BLIND), "+.3f")
        than = "tells more than it" if _is_beyond_blind(found, table) else "is not shown to tell more than it, so style is not excluded"
        return f"{says}, and the attack {than} ({lead}); differences that it cannot see are not excluded."
    means = (
        "so what the attack reads may be style and not membership"
        if found.says == EVIDENCE
        else "so the two kinds differ in style, which may hide membership as well as feign it"
    )
    return (
        f"**Warning:** a classifier that never asks the model tells the two kinds of images apart (blind AUC {blind}), {means}; a sound"
        " verdict needs non-members from the suspected images' own source."
    )


def _extracted(table: pd.DataFrame) -> str:
    count, false, beyond = (_row(table, PRETRAINED, "extraction", metric) for metric in ("DE", FALSE, BEYOND))
    if count["value"] == 0:
        return f"Of {int(count['images'])} images that the model generates for a domain, none matches a suspected image."
    says = "more than" if beyond["low"] > 0 else "not clearly more than"
    return (
        f"Of {int(count['images'])} images that the model generates for a domain, some match {level(count, '.2f')} suspected images,"
        f" {says} the {level(false, '.2f')} non-members that are matched by chance."
    )


def _changed(found: Verdict, table: pd.DataFrame) -> str:
    parts = []
    for method in (AFTER, DEFENDED):
        row = _row(table, method, found.attack)
        parts.append(f"{method} it {moved(row)} ({change(row)})")
    domains = int(_row(table, AFTER, found.attack)["domains"])
    return f"On {domains} domain{'' if domains == 1 else 's'} the AUC was measured again: {'; '.join(parts)}."


def conclusion(found: Verdict, table: pd.DataFrame, changes: pd.DataFrame, extraction: pd.DataFrame) -> str:
    """The audit in one paragraph of Markdown. table: of the model as it is; changes: on the domains where it was fine-tuned."""
    sentences = [_grounds(found, table), _limits(found, table), _blind(found, table), _extracted(extraction), _changed(found, changes)]
    return f"**{headline(found, table)}.** {' '.join(sentences)}"


def trials_line(seen: pd.DataFrame, unseen: pd.DataFrame, attack: str, stranger: bool) -> str:
    """How often the verdict was right where the truth is known, in Markdown. stranger: `unseen` are the same images, another model."""
    how = "the same images were asked of a model of another world" if stranger else "non-members were suspected"
    first = seen.iloc[0]
    return (
        f"{TITLES[attack]}, {first['images']} suspected images and {first['nonmembers']} non-members of {first['domains']} people:"
        f" **{seen['right'].sum()} of {len(seen)}** trials find evidence where the images were trained on, and"
        f" **{unseen['right'].sum()} of {len(unseen)}** find none where the model never saw them ({how}). This counts the attack's own"
        " test, without the blind baseline; trials draw from one model's images, so they are not independent."
    )


def audit_report(study: Study, text: str, table: pd.DataFrame, changes: pd.DataFrame, extraction: pd.DataFrame) -> str:
    """The whole audit as one Markdown page: conclusion, tables, gallery, and what it rests on."""
    from s2llib.report.extraction import printed_extraction

    p = study.params
    parts = [
        f"# Audit of {study.base_name}",
        text,
        "## Membership inference",
        printed_membership(table).reset_index().to_markdown(index=False),
        "## Before and after",
        f"Fine-tuned on self-generated images ({p.audit.method}), and on MixSyn's mix of clean and perturbed ones ({p.audit.defense}).",
        printed_membership(changes).reset_index().to_markdown(index=False),
        AUDIT_NOTE,
        "## What comes out",
        printed_extraction(extraction).reset_index().to_markdown(index=False),
        "![closest matches](audit_gallery.png)",
        "The closest matches: suspected image, the nearest that the model generated, the nearest after S2L.",
        "## What was read",
        what_was_read(study, most=None),
    ]
    return "\n\n".join(parts) + "\n"
