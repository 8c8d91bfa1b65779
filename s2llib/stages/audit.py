"""Stage 8 of a study: an audit. Were suspected images in a model's training set?

The verdict is that of one attack, named in the profile before anything is run, by a one-sided permutation test of membership within
domains. On a world whose members are known, seeded trials show how often that verdict is right.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2llib.data.domain import MEMBER, NONMEMBER, Domain
from s2llib.finetune.methods import PRETRAINED, method
from s2llib.metrics.permutation import permutation_test, smallest_p
from s2llib.params import Audit, ParamsError
from s2llib.progress import track
from s2llib.scale import precompute
from s2llib.stages.mixsyn import Row

__all__ = ["AFTER", "DEFENDED", "EVIDENCE", "NO_EVIDENCE", "AuditStage", "Verdict", "verdict"]

AFTER, DEFENDED = "after S2L", "after S2L on MixSyn's set"
AUDIT_VERSION = 1  # raised when verdict or trials come out otherwise: they are not stored
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


def verdict(members: list[np.ndarray], nonmembers: list[np.ndarray], p: Audit, seed: int) -> Verdict:
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


class AuditStage:
    """What `Study` knows about auditing a model."""

    def check_audit(self) -> None:
        """Refuse what cannot run: raises ParamsError."""
        p = self.params
        method(p.audit.method, "audit.method")
        if not p.audit.stranger or p.world.kind == "folder":  # which has no trials
            return
        p.changed(p.audit.stranger)
        if p.world.kind != "portraits":
            raise ParamsError(f"audit.stranger: another seed of a world of kind '{p.world.kind}' has the same people; set it to null.")
        if p.audit.stranger.get("world.seed", p.world.seed) == p.world.seed:
            raise ParamsError("audit.stranger keeps world.seed, so that its model would be trained on these people too; give it another.")

    def no_audit(self) -> str:
        """Why there can be no audit here; empty if there can."""
        p = self.params.audit
        if p.attack not in self.params.attacks.names:
            return f"audit.attack is '{p.attack}', which attacks.names lacks; add it there, or name another."
        return _too_few([(len(domain.members), len(domain.nonmembers)) for domain in self.domains], p)

    @property
    def audit_domains(self) -> list[Domain]:
        """The domains on which the model is shaken and defended."""
        return self.domains[: self.params.audit.domains]

    def audit_rows(self) -> list[Row]:
        """What is done to the model: Shake-to-Leak, and the same on MixSyn's mix of clean and perturbed images."""
        p = self.params.audit
        return [Row(AFTER, p.method), self.setting_row(p.defense, p.method, DEFENDED)]

    # the verdict

    def _of_attack(self) -> dict[str, dict[str, np.ndarray]]:
        """{domain: {split: scores}} of the named attack on the model as it is; raises ParamsError (`no_audit`)."""
        if reason := self.no_audit():
            raise ParamsError(reason)
        scores = self.membership([PRETRAINED])
        found: dict = {}
        for (domain, split), part in scores[scores["attack"] == self.params.audit.attack].groupby(["domain", "split"], sort=False):
            found.setdefault(domain, {})[split] = part["score"].to_numpy()
        return found

    def audit_verdict(self) -> Verdict:
        """What the named attack says of all suspected images; raises ParamsError where there are too few."""
        found = self._of_attack().values()
        sides = ([splits[split] for splits in found] for split in (MEMBER, NONMEMBER))
        return verdict(*sides, self.params.audit, self.params.seed)

    # before and after

    def audit_changes(self) -> pd.DataFrame:
        """Membership scores of the model as it is and after each of `audit_rows`; columns as `membership`, method: title."""
        return self._audited("scores", self.membership([PRETRAINED]))

    def audit_extraction(self) -> pd.DataFrame:
        """Columns as `extraction`, method: title, of the model as it is and after each of `audit_rows`."""
        return self._audited("extracted", self.extraction([PRETRAINED], self.audit_domains))

    def _audited(self, stage: str, before: pd.DataFrame) -> pd.DataFrame:
        parts = [before[before["domain"].isin([domain.name for domain in self.audit_domains])]]
        for row in track(self.audit_rows(), "audit"):
            study, cells = self.defended(row), [(domain, row.method, self._seed) for domain in self.audit_domains]
            precompute(study, stage, cells)
            parts += [getattr(study, stage)(*cell).assign(method=row.title) for cell in track(cells, row.title)]
        return pd.concat(parts, ignore_index=True)

    # trials

    def no_trials(self) -> str:
        """Why there can be no trials here; empty if there can."""
        p = self.params.audit
        if self.params.world.kind == "folder":
            return "Whether the suspected images are members is what is asked here: trials need a model whose members are known."
        if len(self._trial_people()) < p.trial_domains:
            each = p.trial_images // p.trial_domains
            return (
                f"audit.trial_domains is {p.trial_domains} but {len(self._trial_people())} people have {each} members and {2 * each}"
                " non-members; lower trial_domains or trial_images."
            )
        return ""

    def _trial_people(self) -> list[str]:
        """Those with enough photographs: of suspected images that are no members, and as many others."""
        each = self.params.audit.trial_images // self.params.audit.trial_domains
        return [d.name for d in self.domains if len(d.members) >= each and len(d.nonmembers) >= 2 * each]

    def stranger(self) -> "AuditStage | None":
        """The study of the same images under a model of another world, which never saw them (audit.stranger)."""
        from s2llib.study import NO_BASE, other_base

        if not self.params.audit.stranger:
            return None
        elsewhere = self.variant(NO_BASE | self.params.audit.stranger)
        return self.variant(other_base(str(elsewhere.base_folder)))

    def audit_trials(self, seen: bool) -> pd.DataFrame:
        """Audits of people and images drawn anew by each seed; columns trial, domains, images, nonmembers, auc, p, verdict, right.

        seen: the suspected images are members of the audited model. Else the model never saw them: they are asked of `stranger`, or are
        non-members too where there is none. Trials share one model and its images: they are not independent. Raises ParamsError
        (`no_trials`).
        """
        if reason := self.no_trials():
            raise ParamsError(reason)
        p, rows, stranger = self.params.audit, [], None if seen else self.stranger()
        found = (stranger or self)._of_attack()
        each = p.trial_images // p.trial_domains
        for trial in range(p.trials):
            rng = np.random.default_rng([self.params.seed, trial, seen])
            people = rng.choice(self._trial_people(), p.trial_domains, replace=False)
            draws = [_draw(found[name], each, seen or stranger is not None, rng) for name in people]
            result = verdict([a for a, _ in draws], [b for _, b in draws], p, seed=trial)
            row = {"trial": trial, "domains": result.domains, "images": result.members, "nonmembers": result.nonmembers}
            right = result.says == (EVIDENCE if seen else NO_EVIDENCE)
            rows.append(row | {"auc": result.auc, "p": result.p, "verdict": result.says, "right": right})
        return pd.DataFrame(rows)


def _draw(splits: dict[str, np.ndarray], count: int, members: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of so many suspected images (members, or non-members too) and of as many others of one person, none in both."""
    others = rng.permutation(splits[NONMEMBER])
    suspected = rng.permutation(splits[MEMBER])[:count] if members else others[count : 2 * count]
    return suspected, others[:count]
