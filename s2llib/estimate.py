"""How long a study takes and how much disk it needs, before it starts: one measured evaluation of the network, times what is to be made.

python -m s2llib.estimate --profile paper --set base.path=/models/stable-diffusion-v1-4 --set world.folder=/data/faces

The same specifications are counted that a run makes, each once, with all that they need; finished work is counted too. What is counted
are the network's evaluations, which are nearly all of the work.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s2llib.artifact import needed
from s2llib.attacks import ATTACKS
from s2llib.benchmark import seconds_of
from s2llib.command import clock, default_notebooks, guarded, overrides, selected
from s2llib.compute.models import image_size, pipeline
from s2llib.finetune.methods import TRAININGS
from s2llib.finetune.parts import ATTENTION
from s2llib.lab import Lab
from s2llib.models.denoiser import Denoiser
from s2llib.models.hardware import halved
from s2llib.specs import (
    Drawn,
    Generated,
    Learnt,
    Mixed,
    Noised,
    NoiseImages,
    Perturbed,
    PrivateTune,
    Replies,
    Scoring,
    Tune,
    UnconditionalTune,
    WeightNoise,
)  # fmt: skip
from s2llib.studies import NOTEBOOKS, blackbox

__all__ = ["Cost", "costs", "estimate", "main", "measured"]

TRAINING = 3  # a training step costs so many forward passes: one forwards, two backwards
RECOMPUTED = 4  # with gradient checkpointing
PNG = 0.7  # of an image's bytes
WHOLE = {"unet", "text_encoder", "vae_encoder", "embedding"}  # methods that train one of these save a whole pipeline
SMALL = 2**20  # tokens, scores and tables


@dataclass(frozen=True)
class Cost:
    """Evaluations of the network (of one image at one timestep) that are exact, those in the profile's precision, and bytes on disk."""

    exact: float = 0
    mixed: float = 0
    bytes: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.exact + other.exact, self.mixed + other.mixed, self.bytes + other.bytes)


# what one costs


def _drawn(lab: Lab, images: int, steps: int, guidance: float) -> Cost:
    return Cost(mixed=images * steps * (2 if guidance > 1 else 1), bytes=_images(lab, images))


def _images(lab: Lab, count: int) -> float:
    return count * 3 * image_size(lab, lab.base) ** 2 * PNG


def _generated(lab: Lab, spec: Generated | Replies) -> Cost:
    return _drawn(lab, len(spec.prompts), spec.sampling.steps, spec.sampling.guidance)


def _tuned(lab: Lab, spec: Tune) -> Cost:
    each = RECOMPUTED if lab.params.hardware.checkpointing else TRAINING
    steps = spec.recipe.steps * spec.recipe.batch * (1 if spec.prior is None else 2)
    return Cost(mixed=steps * each, bytes=_weights(lab, spec.method, spec.recipe))


def _privately_tuned(lab: Lab, spec: PrivateTune) -> Cost:
    photos = len(spec.images) if hasattr(spec.images, "__len__") else lab.params.sp.images
    r = spec.recipe
    return Cost(exact=r.steps * r.draws * r.share * photos * TRAINING, bytes=_weights(lab, spec.method, r))


def _weights(lab: Lab, method: str, recipe: Any) -> float:
    base, trains = pipeline(lab, lab.base), set(TRAININGS[method].trains)
    if WHOLE & trains:
        return 4 * sum(p.numel() for part in (base.unet, base.text_encoder, base.vae) for p in part.parameters())
    adapted = [part.removesuffix("_lora") for part in trains if part.endswith("_lora")]
    layers = [m for part in adapted for name, m in getattr(base, part).named_modules() if name.split(".")[-1] in ATTENTION[part]]
    return SMALL + sum(4 * recipe.rank * (layer.in_features + layer.out_features) for layer in layers)


def _scored(lab: Lab, spec: Scoring) -> Cost:
    d = spec.domain
    photos = [d.members, d.nonmembers, *(d.shifted.values() if spec.shifted else ())]
    images = sum(map(len, photos)) + (0 if spec.reference is None else len(spec.reference.prompts))
    return Cost(exact=images * sum(ATTACKS[name].cost(setting) for name, each in spec.settings.items() for setting in each), bytes=SMALL)


def _perturbed(lab: Lab, spec: Perturbed) -> Cost:
    p, images = spec.how, len(spec.images.prompts)
    surrogate = p.rounds * (p.surrogate.clean_steps + p.surrogate.perturbed_steps) * p.surrogate.batch
    return Cost(mixed=(images * p.rounds * p.steps * p.draws + surrogate) * TRAINING, bytes=_images(lab, images))


def _learnt(lab: Lab, spec: Learnt) -> Cost:
    return Cost(exact=(len(spec.members) + len(spec.others)) * ATTACKS["loss"].cost(spec.setting))


# what is known only when it is made: counted, not run
WRITTEN = {"black box, by written captions": ("07", blackbox.written_specs)}
COSTS: dict[type, Callable[[Lab, Any], Cost]] = {
    Generated: _generated,
    Replies: _generated,
    Tune: _tuned,
    PrivateTune: _privately_tuned,
    WeightNoise: lambda lab, spec: Cost(bytes=_weights(lab, spec.method, spec.recipe)),
    Scoring: _scored,
    Perturbed: _perturbed,
    Learnt: _learnt,
    Noised: lambda lab, spec: Cost(bytes=_images(lab, len(spec.images.prompts))),
    Mixed: lambda lab, spec: Cost(bytes=_images(lab, len(spec.clean.prompts))),
    NoiseImages: lambda lab, spec: Cost(bytes=_images(lab, spec.count)),
    Drawn: lambda lab, spec: Cost(),  # of the small unconditional model: nothing beside the others
    UnconditionalTune: lambda lab, spec: Cost(),
}


def costs(lab: Lab, notebooks: Iterable[str] | None = None) -> dict[str, Cost]:
    """{kind of work: its cost} of the notebooks (all, if not given), each piece counted where it is first needed."""
    wanted, seen, found = None if notebooks is None else set(notebooks), set(), {}
    for title, (notebook, specs) in (NOTEBOOKS | WRITTEN).items():
        if wanted is None or notebook in wanted:
            found[title] = sum((COSTS[type(s)](lab, s) for s in needed(lab, specs(lab), seen) if type(s) in COSTS), Cost())
    return found


def measured(lab: Lab, precision: str) -> float:
    """Seconds of one evaluation of the network for one image, in the batches of attacks (4 at most)."""
    denoiser = Denoiser(pipeline(lab, lab.base), precision=precision)
    config = denoiser.pipeline.unet.config
    c, n = denoiser.prompts(["a photo"]), min(4, lab.params.attacks.batch)

    @torch.no_grad()
    def once() -> None:
        z = torch.zeros(n, config.in_channels, config.sample_size, config.sample_size, device=denoiser.device)
        denoiser.predict(z, torch.full((n,), 100, device=denoiser.device), c.expand(n))

    while True:
        try:
            once()
            return seconds_of(once, denoiser.device) / n
        except (RuntimeError, MemoryError) as error:
            n = halved(n, error)


def estimate(lab: Lab, notebooks: Iterable[str] | None = None) -> str:
    """Time and disk of a study's notebooks (all, if not given) in Markdown lines."""
    found, exact = costs(lab, notebooks), measured(lab, "float32")
    precision = lab.params.hardware.precision
    mixed = exact if precision == "float32" else measured(lab, precision)
    seconds = {title: cost.exact * exact + cost.mixed * mixed for title, cost in found.items()}
    free, total = shutil.disk_usage(_existing(lab.store.root)).free, sum(cost.bytes for cost in found.values())
    lines = [f"- {title}: {clock(seconds[title])}, {_size(cost.bytes)}" for title, cost in found.items()]
    lines.append(
        f"\nAbout {clock(sum(seconds.values()))} of computing on one device ({1000 * exact:.3g} ms an evaluation of the UNet) and"
        f" {_size(total)} on disk, of which {_size(free)} are free; finished work is not done again."
    )
    if total > free:
        lines.append(f"The disk of {lab.store.root} is too small for all of it; set $S2L_HOME to a folder on a larger one.")
    return "\n".join(lines)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m s2llib.estimate", description="Time and disk of a study, before it starts.")
    p.add_argument("--profile", help="a file of params/ without its ending (default: $S2L_PROFILE, or lab)")
    p.add_argument("--only", action="append", metavar="NN", help="this notebook alone, and what it needs (may be repeated)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a parameter (may be repeated)")
    args = p.parse_args()
    return guarded(lambda: _print(args))


def _print(args: argparse.Namespace) -> int:
    if args.only:
        selected(args.only, None)
    lab = Lab.open(args.profile, overrides(args.set))
    print(estimate(lab, args.only or default_notebooks(lab.params.profile)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
