"""How good the images of models are; who judges them."""

import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from s2llib.compute.models import image_size
from s2llib.data.domain import Domain
from s2llib.lab import Lab
from s2llib.metrics.clip import check_clip
from s2llib.metrics.quality import no_brisque
from s2llib.models.base import content
from s2llib.models.pipeline import base_folder
from s2llib.params import ParamsError, resolved
from s2llib.specs import Judge, Judged, Model, RealFeatures
from s2llib.studies.extraction import has_judge
from s2llib.studies.plan import samples

__all__ = ["check_judge", "judged", "real"]


def check_judge(lab: Lab) -> None:
    """Raises ParamsError if no CLIP pair can judge generated images."""
    clip = lab.params.mixsyn.clip
    if not clip:
        if not has_judge(lab.params):
            raise ParamsError(
                f"mixsyn.clip names no CLIP model and {base_folder(lab.params)} has none in clip/, which CLIP-R precision needs; set it to"
                " one, such as openai/clip-vit-base-patch32."
            )
        return
    hub = re.fullmatch(r"([\w.-]+)/[\w.-]+", clip)
    if not resolved(clip).is_dir() and not (hub and not resolved(hub[1]).is_dir()):
        raise ParamsError(f"mixsyn.clip: there is no folder {clip}; save a CLIP model there, or name one on the hub.")
    check_clip(_named(clip))


def _named(clip: str) -> Path | str:
    return resolved(clip) if resolved(clip).is_dir() else clip


def the_judge(lab: Lab) -> Judge:
    """Whose CLIP pair judges generated images: the base model's own, or mixsyn.clip."""
    clip = lab.params.mixsyn.clip
    if not clip:
        return Judge(lab.base.content, lab.base.path)
    at = _named(clip)
    return Judge(content(at) if isinstance(at, Path) else f"{at}@{_revision(at)}", at)


def _revision(name: str) -> str:
    """Of a model of the hub, as `check_clip` fetched its settings."""
    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent.name if isinstance(found, str) else "unknown"


def real(lab: Lab) -> RealFeatures:
    """Features of everybody's real photographs."""
    return RealFeatures(tuple(lab.everyone), the_judge(lab), image_size(lab, lab.base))


def judged(lab: Lab, domain: Domain, model: Model) -> Judged:
    """What the judge says of what a model draws for a domain."""
    ask = lab.params.world.condition.format
    drawn = samples(lab, domain, model, lab.params.mixsyn.quality_images)
    return Judged(drawn, domain.name, tuple(ask(name=name) for name in lab.names), ask(name=domain.name), real(lab), not no_brisque())
