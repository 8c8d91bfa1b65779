"""The models that a profile names: each is tried before anything is computed, once as long as its files stay."""

from pathlib import Path

from s2llib.artifact import made
from s2llib.attacks import last_timestep
from s2llib.data.domain import MEMBER
from s2llib.data.worlds import domain_names, load_domains
from s2llib.lab import Lab, other_base, refuses
from s2llib.models.base import check_drawn, content
from s2llib.models.fit import check_timesteps
from s2llib.models.pipeline import base_folder
from s2llib.params import resolved
from s2llib.specs import Base, Soundness
from s2llib.studies import ablations, zero_prior  # noqa: F401  whose checks come first: what is there is a model of the kind and of this world
from s2llib.studies.extraction import memorising_overrides

__all__: list[str] = []

# what to do about a model whose members are drawn in other pixels here
WITHOUT = {
    "base.path": "set retrain_base=true",
    "ablations.scale": "leave it out of ablations.scale",
    "extraction.base": "set extraction.base=null",
    "zero_prior.path": "set zero_prior.path=null",
}


@refuses
def check(lab: Lab) -> None:
    """Every model that is not trained here is sound, predicts what it says, knows all timesteps, and was trained on what is drawn here.

    Raises ParamsError.
    """
    p = lab.params
    others = [("ablations.scale", other_base(path)) for path in p.ablations.scale]
    others += [("extraction.base", memorising_overrides(lab))] if p.extraction.base else []
    given = [] if p.trains_base else [("base.path", base_folder(p))]  # as it is named: a LoRA is not fused for a check
    for key, folder in given + [(key, base_folder(p.changed(overrides))) for key, overrides in others]:
        check_timesteps(folder, *last_timestep(p), key)
        _try(lab, folder, key)
    if p.zero_prior.path and not p.retrain_base:
        folder, secmi = resolved(p.zero_prior.path), {"k": 10, "t": 140} | p.zero_prior.secmi
        for asked in (("zero_prior.t", p.zero_prior.t), ("zero_prior.secmi.t + k", secmi["t"] + secmi["k"])):
            check_timesteps(folder, *asked, "zero_prior.path")
        _try(lab, folder, "zero_prior.path")


def _try(lab: Lab, folder: Path, key: str) -> None:
    world = lab.params.world.model_copy(update={"domains": domain_names(lab.params.world)[:1]})
    (domain,) = load_domains(world, lab.store)
    if world.kind != "folder":
        check_drawn(folder, [domain], WITHOUT[key])
    made(lab, Soundness(Base(content(folder), folder), domain.splits[MEMBER][:2], domain.condition_prompt, f"{key}: {folder}"))
