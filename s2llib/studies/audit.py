"""An audit: were suspected images in a model's training set?

The verdict is that of one attack, named in the profile before anything is run, by a one-sided permutation test of membership within
domains. On a world whose members are known, seeded trials show how often that verdict is right.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2llib.data.domain import MEMBER, NONMEMBER, Domain
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import NO_BASE, Lab, refuses
from s2llib.metrics.permutation import permutation_test, smallest_p
from s2llib.models.base import base_key, base_model
from s2llib.params import Audit, ParamsError
from s2llib.scores import tables_only
from s2llib.specs import Base, Model
from s2llib.studies.cells import Cell, collected
from s2llib.studies.extraction import searched
from s2llib.studies.mixsyn import Row, row_model, setting_row
from s2llib.studies.plan import scoring, search

__all__ = [
    "AFTER", "DEFENDED", "EVIDENCE", "NO_EVIDENCE", "Verdict", "audit_domains", "audit_rows", "changes", "check", "extraction", "models",
    "no_trials", "refusal", "scores", "stranger", "trials", "verdict", "verdict_of",
]  # fmt: skip

AFTER, DEFENDED = "after S2L", "after S2L on MixSyn's set"
EVIDENCE, NO_EVIDENCE = "evidence of membership", "no evidence"


@dataclass(frozen=True)
class Verdict:
    """What the named attack says of so many suspected images and non-members, and on what grounds."""

    attack: str
    auc: float
    p: float
    level: float
    members: int
    nonmembers: int
    domains: int

    @property
    def says(self) -> str:
        return EVIDENCE if self.p <= self.level else NO_EVIDENCE


def verdict_of(members: list[np.ndarray], nonmembers: list[np.ndarray], p: Audit, seed: int) -> Verdict:
    """The verdict on scores of suspected images and of non-members, one array for each domain.

    Raises ParamsError where there are too few images for any evidence to reach the level, or where a score is no number.
    """
    if lost := sum(int((~np.isfinite(x)).sum()) for x in [*members, *nonmembers]):
        raise ParamsError(
            f"{p.attack} gives {lost} image{'' if lost == 1 else 's'} a score that is no number, so that there is no verdict; look at those"
            " images and at the model's weights."
        )
    sizes = [(len(a), len(b)) for a, b in zip(members, nonmembers, strict=True)]
    if reason := _too_few(sizes, p):
        raise ParamsError(reason)
    auc, found = permutation_test(members, nonmembers, p.permutations, seed)
    return Verdict(p.attack, auc, found, p.level, sum(n for n, _ in sizes), sum(m for _, m in sizes), len(sizes))


def _too_few(sizes: list[tuple[int, int]], p: Audit) -> str:
    """Why (suspected images, non-members) of so many in each domain cannot be evidence at the level; empty if they can."""
    if (least := smallest_p(sizes, p.permutations)) <= p.level:
        return ""
    return (
        f"audit.level is {p.level:g} but {sum(n for n, _ in sizes)} suspected images and {sum(m for _, m in sizes)} non-members cannot"
        f" give a p-value below {least:.2g}; add images, or raise audit.level."
    )


@refuses
def check(lab: Lab) -> None:
    """Refuse what cannot run: raises ParamsError."""
    p = lab.params
    if not p.audit.stranger or p.world.kind == "folder":  # which has no trials
        return
    p.changed(p.audit.stranger)
    if p.world.kind != "portraits":
        raise ParamsError(f"audit.stranger: another seed of a world of kind '{p.world.kind}' has the same people; set it to null.")
    if p.audit.stranger.get("world.seed", p.world.seed) == p.world.seed:
        raise ParamsError("audit.stranger keeps world.seed, so that its model would be trained on these people too; give it another.")


def refusal(lab: Lab) -> str:
    """Why there can be no audit here; empty if there can."""
    p = lab.params.audit
    if p.attack not in lab.params.attacks.names:
        return f"audit.attack is '{p.attack}', which attacks.names lacks; add it there, or name another."
    return _too_few([(len(domain.members), len(domain.nonmembers)) for domain in lab.domains], p)


def audit_domains(lab: Lab) -> list[Domain]:
    """The domains on which the model is shaken and defended."""
    return lab.domains[: lab.params.audit.domains]


def audit_rows(lab: Lab) -> list[Row]:
    """What is done to the model: Shake-to-Leak, and the same on MixSyn's mix of clean and perturbed images."""
    p = lab.params.audit
    return [Row(AFTER, p.method), setting_row(lab, p.defense, p.method, DEFENDED)]


# the verdict


def score_cells(lab: Lab, model: Model | None = None) -> Iterator[Cell]:
    """All photographs, scored under the model as it is."""
    for domain in lab.domains:
        yield scoring(lab, domain, model or lab.base), {"domain": domain.name, "method": PRETRAINED, "seed": 0}


def scores(lab: Lab, model: Model | None = None) -> pd.DataFrame:
    """Membership scores of the model as it is; columns as `s2l.membership`."""
    return collected(lab, score_cells(lab, model), "membership")


def _of_attack(lab: Lab, model: Model | None = None) -> dict[str, dict[str, np.ndarray]]:
    """{domain: {split: scores}} of the named attack; raises ParamsError (`refusal`)."""
    if reason := refusal(lab):
        raise ParamsError(reason)
    table, found = scores(lab, model), {}
    for (domain, split), part in table[table["attack"] == lab.params.audit.attack].groupby(["domain", "split"], sort=False):
        found.setdefault(domain, {})[split] = part["score"].to_numpy()
    return found


def verdict(lab: Lab) -> Verdict:
    """What the named attack says of all suspected images; raises ParamsError where there are too few."""
    found = _of_attack(lab).values()
    sides = ([splits[split] for splits in found] for split in (MEMBER, NONMEMBER))
    return verdict_of(*sides, lab.params.audit, lab.params.seed)


# before and after


def models(lab: Lab) -> Iterator[tuple[Model, Domain, dict]]:
    """The model as it is and after each of `audit_rows`, with labels."""
    for row in [Row(PRETRAINED, PRETRAINED), *audit_rows(lab)]:
        for domain in audit_domains(lab):
            labels = {"domain": domain.name, "method": row.title, "seed": 0 if row.method == PRETRAINED else lab.params.finetune.seeds[0]}
            yield row_model(lab, row, domain), domain, labels


def change_cells(lab: Lab) -> Iterator[Cell]:
    """The model as it is and after each of `audit_rows`, scored."""
    return ((scoring(lab, domain, model), labels) for model, domain, labels in models(lab))


def changes(lab: Lab) -> pd.DataFrame:
    """Membership scores of the model as it is and after each of `audit_rows`; columns as `s2l.membership`, method: title."""
    return collected(lab, change_cells(lab), "audit")


def extraction_cells(lab: Lab) -> Iterator[Cell]:
    """The model as it is and after each of `audit_rows`, searched for photographs."""
    return ((search(lab, domain, model), labels) for model, domain, labels in models(lab))


def extraction(lab: Lab) -> pd.DataFrame:
    """Columns as `extraction.extracted`, method: title, of the model as it is and after each of `audit_rows`."""
    return searched(lab, extraction_cells(lab))


# trials


def no_trials(lab: Lab) -> str:
    """Why there can be no trials here; empty if there can."""
    p = lab.params.audit
    if lab.params.world.kind == "folder":
        return "Whether the suspected images are members is what is asked here: trials need a model whose members are known."
    if len(_trial_people(lab)) < p.trial_domains:
        each = p.trial_images // p.trial_domains
        return (
            f"audit.trial_domains is {p.trial_domains} but {len(_trial_people(lab))} people have {each} members and {2 * each}"
            " non-members; lower trial_domains or trial_images."
        )
    return ""


def _trial_people(lab: Lab) -> list[str]:
    """Those with enough photographs: of suspected images that are no members, and as many others."""
    each = lab.params.audit.trial_images // lab.params.audit.trial_domains
    return [d.name for d in lab.domains if len(d.members) >= each and len(d.nonmembers) >= 2 * each]


def stranger(lab: Lab) -> Base | None:
    """A model of another world, which never saw the images (audit.stranger), trained here."""
    if not lab.params.audit.stranger:
        return None
    elsewhere = lab.params.changed(NO_BASE | lab.params.audit.stranger)
    return Base(base_key(elsewhere), None if tables_only() else base_model(elsewhere, lab.store))


def trials(lab: Lab, seen: bool) -> pd.DataFrame:
    """Audits of people and images drawn anew by each seed; columns trial, domains, images, nonmembers, auc, p, verdict, right.

    seen: the suspected images are members of the audited model. Else the model never saw them: they are asked of `stranger`, or are
    non-members too where there is none. Trials share one model and its images: they are not independent. Raises ParamsError
    (`no_trials`).
    """
    if reason := no_trials(lab):
        raise ParamsError(reason)
    p, rows, other = lab.params.audit, [], None if seen else stranger(lab)
    found = _of_attack(lab, other)
    each = p.trial_images // p.trial_domains
    for trial in range(p.trials):
        rng = np.random.default_rng([lab.params.seed, trial, seen])
        people = rng.choice(_trial_people(lab), p.trial_domains, replace=False)
        dealt = [_draw(found[name], each, seen or other is not None, rng) for name in people]
        result = verdict_of([a for a, _ in dealt], [b for _, b in dealt], p, seed=trial)
        row = {"trial": trial, "domains": result.domains, "images": result.members, "nonmembers": result.nonmembers}
        right = result.says == (EVIDENCE if seen else NO_EVIDENCE)
        rows.append(row | {"auc": result.auc, "p": result.p, "verdict": result.says, "right": right})
    return pd.DataFrame(rows)


def _draw(splits: dict[str, np.ndarray], count: int, members: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of so many suspected images (members, or non-members too) and of as many others of one person, none in both."""
    others = rng.permutation(splits[NONMEMBER])
    suspected = rng.permutation(splits[MEMBER])[:count] if members else others[count : 2 * count]
    return suspected, others[:count]
