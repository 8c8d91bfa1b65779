"""What the notebooks ask: each study says which specifications it needs, and gives one tidy frame back."""

from collections.abc import Callable, Iterable
from typing import Any

from s2llib.lab import Lab
from s2llib.studies import ablations, audit, blackbox, extraction, given, mixsyn, priors, s2l, zero_prior
from s2llib.studies.plan import sp_set

__all__ = ["NOTEBOOKS", "REFUSALS", "ablations", "audit", "blackbox", "extraction", "given", "mixsyn", "priors", "s2l", "zero_prior"]


def _specs(cells: Callable[[Lab], Iterable[tuple[Any, dict]]]) -> Callable[[Lab], list]:
    return lambda lab: [spec for spec, _ in cells(lab)]


def _ablated(lab: Lab) -> list:
    return [spec for a in ablations.ablations(lab.params).values() for spec, _ in ablations.ablation_cells(lab, a)]


def _transferred(lab: Lab) -> list:
    return [] if priors.no_transfer(lab) else _specs(priors.transfer_cells)(lab)


def _defended(lab: Lab) -> list:
    rows = [row for table in range(1, 6) for row in mixsyn.table_rows(lab, table)] + mixsyn.ratio_rows(lab) + mixsyn.baseline_rows(lab)
    cells = (mixsyn.score_cells(lab, rows), mixsyn.adaptive_cells(lab), mixsyn.again_cells(lab), mixsyn.extraction_cells(lab))
    return [spec for some in cells for spec, _ in some]


def _audited(lab: Lab) -> list:
    return [spec for cells in (audit.score_cells, audit.change_cells, audit.extraction_cells) for spec, _ in cells(lab)]


# kind of work: which notebook asks for it, and what that needs
NOTEBOOKS: dict[str, tuple[str, Callable[[Lab], list]]] = {
    "SP sets": ("01", lambda lab: [sp_set(lab, domain) for domain in lab.domains]),
    "fine-tuned models of the grid": ("02", s2l.models),
    "membership inference": ("03", _specs(s2l.membership_cells)),
    "timesteps": ("03", _specs(s2l.sweep_cells)),
    "extraction": ("04", lambda lab: _specs(extraction.extraction_cells)(extraction.memorising(lab))),
    "ablations": ("05", _ablated),
    "prior knowledge": ("06", _specs(priors.knowledge_cells)),
    "domain transfer": ("06", _transferred),
    "black box": ("07", blackbox.specs),
    "MixSyn": ("08", _defended),
    "audit": ("09", _audited),
}
# notebook: why it cannot run on a profile's model and images; empty if it can
REFUSALS: dict[str, Callable[[Lab], str]] = {
    "05": ablations.refusal,
    "07": blackbox.refusal,
    "08": mixsyn.refusal,
    "09": audit.refusal,
}
