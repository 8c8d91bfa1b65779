"""What the notebooks ask: each study says which specifications it needs, and gives one tidy frame back."""

from collections.abc import Callable, Iterable
from typing import Any

from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import Lab
from s2llib.studies import ablations, audit, blackbox, extraction, given, mixsyn, priors, s2l, zero_prior
from s2llib.studies.plan import sp_set

__all__ = ["NOTEBOOKS", "REFUSALS", "ablations", "audit", "blackbox", "extraction", "given", "mixsyn", "priors", "s2l", "zero_prior"]


def _specs(cells: Callable[[Lab], Iterable[tuple[Any, dict]]]) -> Callable[[Lab], list]:
    return lambda lab: [spec for spec, _ in cells(lab)]


def _ablated(lab: Lab) -> list:
    return [spec for a in ablations.ablations(lab.params).values() for spec, _ in ablations.ablation_cells(lab, a)]


def _transferred(lab: Lab) -> list:
    if priors.no_transfer(lab):
        return []
    return _specs(priors.transfer_cells)(lab) + _specs(priors.transfer_searches)(extraction.memorising(lab))


def _extracted(lab: Lab) -> list:
    there, method = extraction.memorising(lab), lab.params.finetune.methods[0]
    cells = [*extraction.extraction_cells(there), *extraction.option_cells(there, method)]
    if there is not lab:
        cells += extraction.extraction_cells(lab, [PRETRAINED, method], lab.domains[: lab.params.extraction.option_domains])
    return [spec for spec, _ in cells]


def _defended(lab: Lab) -> list:
    judged = [row for table in range(1, 6) for row in mixsyn.table_rows(lab, table)] + mixsyn.baseline_rows(lab)
    cells = [*mixsyn.score_cells(lab, judged + mixsyn.ratio_rows(lab)), *mixsyn.adaptive_cells(lab), *mixsyn.again_cells(lab)]
    cells += [*mixsyn.quality_cells(lab, judged), *mixsyn.extraction_cells(extraction.memorising(lab))]
    return [spec for spec, _ in cells]


def _audited(lab: Lab) -> list:
    return [spec for cells in (audit.score_cells, audit.change_cells, audit.extraction_cells) for spec, _ in cells(lab)]


# kind of work: which notebook asks for it, and what that needs
NOTEBOOKS: dict[str, tuple[str, Callable[[Lab], list]]] = {
    "SP sets": ("01", lambda lab: [sp_set(lab, domain) for domain in lab.domains]),
    "fine-tuned models of the grid": ("02", s2l.models),
    "membership inference": ("03", _specs(s2l.membership_cells)),
    "timesteps": ("03", _specs(s2l.sweep_cells)),
    "extraction": ("04", _extracted),
    "ablations": ("05", _ablated),
    "prior knowledge": (
        "06",
        lambda lab: _specs(priors.knowledge_cells)(lab) + _specs(priors.knowledge_searches)(extraction.memorising(lab)),
    ),
    "no prior knowledge": ("06", _specs(zero_prior.zero_prior_cells)),
    "domain transfer": ("06", _transferred),
    "black box": ("07", blackbox.specs),
    "MixSyn": ("08", lambda lab: [] if mixsyn.refusal(lab) else _defended(lab)),
    "audit": ("09", _audited),
}
# notebook: why it cannot run on a profile's model and images; empty if it can
REFUSALS: dict[str, Callable[[Lab], str]] = {
    "05": ablations.refusal,
    "07": blackbox.refusal,
    "08": mixsyn.refusal,
    "09": audit.refusal,
}
