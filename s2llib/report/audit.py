"""The report of an audit: the verdict and its grounds, what fine-tuning does to it, and one paragraph that claims no more than that."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from s2llib.attacks import TITLES
from s2llib.compute.images import photos
from s2llib.compute.models import image_size
from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import Lab
from s2llib.metrics.images import Sample
from s2llib.params import Params, Statistics
from s2llib.report.estimate import POOL_BELOW, REFERENCE, Entry, Least, Mean, estimated, family_note, measures, weighted
from s2llib.report.extraction import FALSE, extraction_table, printed_extraction
from s2llib.report.membership import blind_entries, change, level, moved, printed_membership, shown, unseen
from s2llib.report.reading import what_was_read
from s2llib.studies.audit import AFTER, DEFENDED, EVIDENCE, Verdict, extraction, models
from s2llib.studies.plan import generations

__all__ = [
    "BEYOND_BLIND", "audit_extraction_table", "audit_note", "audit_report", "audit_table", "conclusion", "gallery", "headline",
    "trials_line",
]  # fmt: skip

BEYOND_BLIND = "AUC beyond blind"


def audit_note(table: pd.DataFrame) -> str:
    """What stands under a table of an audit."""
    alone = table["domains"].max() == 1
    over = "Intervals are over images: one domain has nothing to say of others." if alone else "Intervals are over domains."
    return (
        f"Value [95 % interval] (paired change against the model as it is [interval]). {over} TPR@1%FPR is computed on scores pooled over"
        " domains, standardised within each by those of generated images, where a domain has fewer than 100 non-members, and left out where"
        " all together have fewer. blind: a classifier on image features that never queries the model; AUC beyond blind: the smaller of two"
        " leads, an attack's AUC less 0.5 and less the classifier's on the same images. An AUC below 0.5 is leakage with the other sign, or"
        f" another difference. Only the attack that was named beforehand has a say in the verdict. {family_note(table)}"
    ).rstrip()


def audit_table(scores: pd.DataFrame, blind: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy iid AUC and TPR@1%FPR of every attack, on the model as it is and after what was done to it, with the blind baseline.

    AUC beyond blind: how much more an attack on the model as it is tells than guessing, and than the baseline: the smaller of the two.
    """
    blind = blind[(blind["against"] == NONMEMBER) & blind["domain"].isin(scores["domain"])]
    scores = scores[scores["split"].isin([MEMBER, NONMEMBER, REFERENCE])]
    few = len(scores[scores["split"] == NONMEMBER].groupby(["domain", "image"])) < POOL_BELOW
    (unasked,) = blind_entries(blind)
    entries, leads = [], []
    for attack, part in scores.groupby("attack", sort=False):
        found = measures(part, metrics=["auc"] if few else ["auc", "tpr"])
        for method, each in found.items():
            for metric, measure in each.items():
                labels = {"method": method, "attack": attack, "protocol": "iid", "metric": metric}
                entries.append(Entry(labels, measure, None if method == PRETRAINED else found[PRETRAINED][metric]))
        lead = _lead(found[PRETRAINED]["AUC"], unasked.measure)
        leads.append(Entry({"method": PRETRAINED, "attack": attack, "protocol": "iid", "metric": BEYOND_BLIND}, lead))
    return estimated([*entries, unasked, *leads], p)


def _lead(attack: Mean, blind: Mean) -> Least:
    """Over guessing, and over a classifier that never asks the model: one that does worse than guessing lends the attack no lead."""
    half = Mean(dict.fromkeys(attack.grid, np.array([0.5])), lambda _: Sample(0.5, {}))
    over_half = replace(weighted([attack, half], [1, -1]), bounds=(-0.5, 0.5), unit=attack.unit)
    return Least(over_half, weighted([attack, blind], [1, -1]))


def audit_extraction_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """Tidy counts of suspected images that generated ones match, of false alarms among non-members, and of the difference."""
    table = extraction_table(found, p)
    return table[~table["method"].str.startswith("best: ")].drop(columns="paper")


def gallery(lab: Lab, rows: int = 4) -> dict[str, Tensor]:
    """{label: [suspected image, the nearest that the model generated, the nearest after S2L]} of the closest matches."""
    near = extraction(lab)
    near, asked = near[near["split"] == MEMBER], {(labels["domain"], labels["method"]): each for *each, labels in models(lab)}
    after = near[near["method"] == AFTER].set_index(["domain", "image"])
    found = {}
    for match in near[near["method"] == PRETRAINED].nsmallest(rows, "distance").itertuples():
        later = after.loc[(match.domain, match.image)]
        chosen = [asked[match.domain, PRETRAINED][1].splits[MEMBER][match.image : match.image + 1]]
        for method, nearest in ((PRETRAINED, match.nearest), (AFTER, int(later["nearest"]))):
            model, domain = asked[match.domain, method]
            chosen.append(photos(lab, generations(lab, domain, model))[nearest : nearest + 1])
        label = f"{match.domain} {match.image}\nRMS {match.distance:.3f}, {later['distance']:.3f}"
        found[label] = torch.cat([some.pixels(image_size(lab, lab.base)) for some in chosen])
    return found


def _row(table: pd.DataFrame, method: str, attack: str, metric: str = "AUC") -> pd.Series:
    return table[(table["method"] == method) & (table["attack"] == attack) & (table["metric"] == metric)].iloc[0]


def _grounds(found: Verdict, table: pd.DataFrame) -> str:
    auc = _row(table, PRETRAINED, found.attack)
    people, over = ("domain", " (interval over its images)") if found.domains == 1 else (f"{found.domains} domains", "")
    return (
        f"{TITLES[found.attack]}, the attack named beforehand, gives {found.members} suspected images against {found.nonmembers}"
        f" non-members of the same {people} an AUC of {level(auc)}{over}; a one-sided permutation test within domains gives"
        f" p = {found.p:.2g} at a level of {found.level:g}."
    )


def _separates(table: pd.DataFrame) -> bool:
    """Whether a classifier that never asks the model tells suspected images from the others."""
    return _row(table, "no model", "blind")["low"] > 0.5


def _is_beyond_blind(found: Verdict, table: pd.DataFrame) -> bool:
    """Whether the attack tells more than such a classifier, and than guessing, beyond the interval of the smaller lead."""
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
        why = "One domain has" if found.domains == 1 else "The AUC's interval, which is over domains, holds 0.5: it has"
        return f"{says} {why} nothing to say of others."
    many = "images" if found.domains == 1 else "domains"
    return f"That is no proof of absence: with so many {many} an AUC of up to {auc['high']:.3f} remains possible."


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
        says = f"{who} is not shown to tell them apart (blind AUC {blind})"
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
    count, false = (_row(table, PRETRAINED, "extraction", metric) for metric in ("DE", FALSE))
    if count["value"] == 0:
        return f"Of {int(count['images'])} images that the model generates for a domain, none matches a suspected image."
    says = "more than" if shown(count, of="_chance") and count["delta_chance"] > 0 else "not shown to be more than"
    return (
        f"Of {int(count['images'])} images that the model generates for a domain, some match {level(count, '.2f')} suspected images,"
        f" {says} the {level(false, '.2f')} non-members that are matched by chance."
    )


def _changed(found: Verdict, table: pd.DataFrame) -> str:
    parts = []
    for method in (AFTER, DEFENDED):
        row = _row(table, method, found.attack)
        says = f"it {moved(row)} ({change(row)})" if shown(row) else f"{moved(row)} ({change(row)}){unseen([row['smallest_visible']])}"
        parts.append(f"{method} {says}")
    domains = int(_row(table, AFTER, found.attack)["domains"])
    on = "On 1 domain (intervals over its images)" if domains == 1 else f"On {domains} domains"
    return f"{on} the AUC was measured again: {'; '.join(parts)}."


def conclusion(found: Verdict, table: pd.DataFrame, changes: pd.DataFrame, matched: pd.DataFrame) -> str:
    """The audit in one paragraph of Markdown. table: of the model as it is; changes: on the domains where it was fine-tuned."""
    sentences = [_grounds(found, table), _limits(found, table), _blind(found, table), _extracted(matched), _changed(found, changes)]
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


def audit_report(lab: Lab, text: str, table: pd.DataFrame, changes: pd.DataFrame, matched: pd.DataFrame) -> str:
    """The whole audit as one Markdown page: conclusion, tables, gallery, and what it rests on."""
    p = lab.params
    parts = [
        f"# Audit of {lab.base_name}",
        text,
        "## Membership inference",
        printed_membership(table).reset_index().to_markdown(index=False),
        audit_note(table),
        "## Before and after",
        f"Fine-tuned on self-generated images ({p.audit.method}), and on MixSyn's mix of clean and perturbed ones ({p.audit.defense}).",
        printed_membership(changes).reset_index().to_markdown(index=False),
        audit_note(changes),
        "## What comes out",
        printed_extraction(matched).reset_index().to_markdown(index=False),
        "![closest matches](audit_gallery.png)",
        "The closest matches: suspected image, the nearest that the model generated, the nearest after S2L.",
        "## What was read",
        what_was_read(lab, most=None),
    ]
    return "\n\n".join(parts) + "\n"
