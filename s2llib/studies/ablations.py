"""What amplification depends on: one parameter of a profile at several values (S2L, Figure 2 and the table on model scale)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from s2llib.compute.models import training
from s2llib.data.domain import Domain
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import Lab, other_base, refuses
from s2llib.params import Params, ParamsError
from s2llib.studies.cells import Cell, collected
from s2llib.studies.plan import after_steps, check_asked, check_other, scoring, tuned

__all__ = ["Ablation", "ablation", "ablation_cells", "ablation_domains", "ablations", "refusal"]


@dataclass(frozen=True)
class Ablation:
    """One parameter's values, each with what it overrides.

    claim: what the paper says: leakage `rises` along the parameter, the effect `depends` on it (which way is not public), None: nothing.
    """

    label: str
    method: str
    values: dict[object, dict]
    claim: Literal["rises", "depends"] | None
    of_one_run: bool = False  # values are numbers of steps


@refuses
def check(lab: Lab) -> None:
    """The other base models are there and know this world; raises ParamsError."""
    for path in lab.params.ablations.scale:
        check_other(lab, other_base(path), "ablations.scale", "[]")


def refusal(lab: Lab) -> str:
    """Why there can be no ablations here; empty if there can."""
    try:
        check_asked(lab, ["textual_inversion"])
    except ParamsError as error:
        return str(error)
    return ""


def ablations(p: Params) -> dict[str, Ablation]:
    """{name of its table and figure: ablation} of a profile."""
    a = p.ablations
    # alpha / rank is the size of the adapter's step: kept, so that the rank alone varies
    recipe = p.finetune.dreambooth_lora
    lora = lambda r: {"finetune.dreambooth_lora.rank": r, "finetune.dreambooth_lora.alpha": max(1, round(recipe.alpha / recipe.rank * r))}  # noqa: E731
    found = {
        "s2l_figure2_left": Ablation("rank", "dreambooth_lora", {r: lora(r) for r in a.rank}, "depends"),
        "s2l_figure2_right": Ablation(
            "extra tokens", "textual_inversion", {n: {"finetune.textual_inversion.extra": n} for n in a.extra}, "depends"
        ),
        "s2l_sp_images": Ablation("SP images", "dreambooth", {n: {"sp.images": n} for n in a.images}, None),
        "s2l_steps": Ablation("steps", "dreambooth", {n: {"finetune.dreambooth.steps": n} for n in a.steps}, None, True),
    }
    if a.scale:
        names = dict(zip(_names(a.scale), map(other_base, a.scale), strict=True))
        found["s2l_model_scale"] = Ablation("base model", "dreambooth", names, "rises")
    return found


def _names(paths: list[str]) -> list[str]:
    """What folders are called in a table: by their last part, or whole where two have the same."""
    last = [path.rstrip("/").split("/")[-1] for path in paths]
    return last if len(set(last)) == len(last) else paths


def ablation_domains(lab: Lab) -> list[Domain]:
    """The domains of the ablations."""
    return lab.domains[: lab.params.ablations.domains]


def ablation_cells(lab: Lab, a: Ablation) -> Iterator[Cell]:
    """iid scores before and after, at every value."""
    for value, overrides in a.values.items():
        other = lab.at(overrides)
        for domain in ablation_domains(lab):
            for method in (PRETRAINED, a.method):
                labels = {"domain": domain.name, "method": method, "seed": 0 if method == PRETRAINED else lab.params.finetune.seeds[0]}
                model = tuned(other, domain, method)
                if a.of_one_run and method != PRETRAINED:
                    model = after_steps(model, a.values)[value]
                yield scoring(other, domain, model, shifted=False), labels | {"value": value}


def ablation(lab: Lab, a: Ablation) -> pd.DataFrame:
    """iid membership scores before and after, with each value's overrides.

    Columns as `s2l.membership`, `value`, and `trainable`: the number of parameters that were trained.
    """
    check_asked(lab, [a.method])
    cells = list(ablation_cells(lab, a))
    return with_trainable(lab, collected(lab, cells, f"ablation, {a.label}"), cells)


def with_trainable(lab: Lab, found: pd.DataFrame, cells: list[Cell]) -> pd.DataFrame:
    """The scores of these cells with a column `trainable`: how many parameters were trained."""
    count = {(labels["value"], labels["method"]): training(lab, spec.model).get("trainable", 0) for spec, labels in cells}
    return found.assign(trainable=[count[pair] for pair in zip(found["value"], found["method"], strict=True)])
