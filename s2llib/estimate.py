"""How long a study takes and how much disk it needs, before it starts: one measured UNet evaluation, times the counts of the grid.

python -m s2llib.estimate --profile paper --set base.path=/models/stable-diffusion-v1-4 --set world.folder=/data/faces

What is counted are the UNet's evaluations, which are nearly all of the work; finished work is counted too.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from s2llib.command import guarded
from s2llib.data.domain import MEMBER, NONMEMBER, Domain
from s2llib.finetune.methods import METHODS, PRETRAINED
from s2llib.finetune.parts import ATTENTION
from s2llib.models.hardware import halved
from s2llib.params import Params, Recipe
from s2llib.run import clock, default_notebooks, overrides, selected
from s2llib.study import Study

__all__ = ["Work", "estimate", "main", "measured", "works"]

TRAINING = 3  # a training step costs so many forward passes: one forwards, two backwards
RECOMPUTED = 4  # with gradient checkpointing
PNG = 0.7  # of an image's bytes
WHOLE = {"unet", "text_encoder", "vae_encoder", "embedding"}  # methods that train one of these save a whole pipeline
SMALL = 2**20  # tokens, scores and tables


@dataclass(frozen=True)
class Work:
    """A kind of work: which notebooks need it, UNet evaluations (of one image at one timestep) that are exact, those in the profile's
    precision, and bytes on disk."""

    title: str
    notebooks: tuple[str, ...]
    exact: float = 0
    mixed: float = 0
    bytes: float = 0


def evaluations(settings: dict[str, list[dict]]) -> int:
    """UNet evaluations per image of attacks at these settings (`Study.attack_settings`, `sweep_settings`)."""
    cost = {
        "secmi": lambda s: s["t"] // s["k"] + 2,
        "pia": lambda s: 2,
        "pian": lambda s: 2,
        "sima": lambda s: 1,
        "loss": lambda s: len(s["timesteps"]) * s["draws"],
        "clid": lambda s: 2 * len(s["timesteps"]) * s["draws"],
    }
    return sum(cost[name](setting) for name, each in settings.items() for setting in each)


class _Counts:
    """What one piece of each kind of work costs in a study: (UNet evaluations, bytes)."""

    def __init__(self, study: Study):
        self.study, self.p, self.edge = study, study.params, study.image_size

    def drawn(self, images: int, guidance: float | None = None) -> tuple[float, float]:
        """Images generated."""
        guidance = self.p.sp.guidance if guidance is None else guidance
        return images * self.p.sp.steps * (2 if guidance > 1 else 1), images * 3 * self.edge**2 * PNG

    def tuned(self, recipe: Recipe, method: str) -> tuple[float, float]:
        """One fine-tuned model."""
        each = RECOMPUTED if self.p.hardware.checkpointing else TRAINING
        return recipe.steps * recipe.batch * (2 if recipe.prior_weight else 1) * each, self._weights(recipe, METHODS[method].trains)

    def _weights(self, recipe: Recipe, trains: Iterable[str]) -> float:
        base = self.study.base
        if WHOLE & set(trains):
            return 4 * sum(p.numel() for part in (base.unet, base.text_encoder, base.vae) for p in part.parameters())
        adapted = [part.removesuffix("_lora") for part in trains if part.endswith("_lora")]
        layers = [m for part in adapted for name, m in getattr(base, part).named_modules() if name.split(".")[-1] in ATTENTION[part]]
        return SMALL + sum(4 * recipe.rank * (layer.in_features + layer.out_features) for layer in layers)

    def attacked(self, domains: list[Domain], settings: dict[str, list[dict]], iid: bool) -> float:
        """The photographs of these domains, attacked under one model each."""
        splits = lambda d: [d.members, d.nonmembers, *([] if iid else d.shifted.values())]  # noqa: E731
        return sum(len(photos) for domain in domains for photos in splits(domain)) * evaluations(settings)


def works(study: Study) -> list[Work]:
    """Every kind of work of a study's notebooks."""
    count, p = _Counts(study), study.params
    cells = [(domain, method) for domain, method, _ in study.cells()]
    tuned = [(domain, method) for domain, method in cells if method != PRETRAINED]
    grid = [count.tuned(study.recipe(method), method) for _, method in tuned]
    every = ("02", "03", "04")
    sets = [count.drawn(p.sp.images) for _ in study.domains]
    e = p.extraction
    drawn = [count.drawn(_extracted(domain, p), e.guidance) for domain, _ in cells]
    before = [
        (domain, name) for domain, name, _ in study.cells([PRETRAINED, *p.attacks.sweep.methods], study.domains[: p.attacks.sweep.domains])
    ]
    return [
        Work("SP sets", ("01", *every, "05", "06", "08"), mixed=_first(sets), bytes=_second(sets)),
        Work("fine-tuned models of the grid", every, mixed=_first(grid), bytes=_second(grid)),
        Work("membership inference", ("03",), exact=sum(count.attacked([d], study.attack_settings(), False) for d, _ in cells)),
        Work("timesteps", ("03",), exact=sum(count.attacked([d], study.sweep_settings(), True) for d, _ in before)),
        Work("extraction", ("04",), mixed=_first(drawn), bytes=_second(drawn)),
        _ablations(study, count),
        _priors(study, count),
        _blackbox(study, count),
        _mixsyn(study, count),
        _audit(study, count),
    ]


def _first(pairs: list[tuple[float, float]]) -> float:
    return sum(a for a, _ in pairs)


def _second(pairs: list[tuple[float, float]]) -> float:
    return sum(b for _, b in pairs)


def _extracted(domain: Domain, p: Params) -> int:
    """Images that are generated to find a domain's photographs in."""
    e = p.extraction
    return e.images if e.prompts == "sp" else e.draws * sum(len(domain.splits[split]) for split in (MEMBER, NONMEMBER))


def _shaken(study: Study, count: _Counts, domains: list[Domain], models: list[tuple[Recipe, str]], images: int) -> dict[str, float]:
    """So many models of each domain: fine-tuned, attacked, and `images` drawn from each."""
    tuned = [count.tuned(recipe, method) for recipe, method in models for _ in domains]
    drawn = [count.drawn(images) for _ in tuned]
    exact = len(models) * count.attacked(domains, study.attack_settings(), True)
    return {"exact": exact, "mixed": _first(tuned) + _first(drawn), "bytes": _second(tuned) + _second(drawn)}


def _ablations(study: Study, count: _Counts) -> Work:
    from s2llib.report.ablations import ablations

    models, more = [], []
    for ablation in ablations(study.params).values():
        for values in ablation.values.values():
            changed = study.params.changed(values)
            models.append((getattr(changed.finetune, ablation.method), ablation.method))
            more.append(count.drawn(changed.sp.images if "sp.images" in values else 0))
    found, domains = _shaken(study, count, study.ablation_domains, models, 0), len(study.ablation_domains)
    found["mixed"] += domains * _first(more)
    found["bytes"] += domains * _second(more)
    return Work("ablations", ("05",), **found)


def _priors(study: Study, count: _Counts) -> Work:
    p = study.params.priors
    levels = study.prior_levels() + ([] if study.no_transfer() else ["public first"])
    models = [(study.recipe(p.method), p.method)] * len(levels)
    found = _shaken(study, count, study.prior_domains, models, study.params.extraction.images)
    first = count.tuned(p.transfer, p.method)
    return Work(
        "prior knowledge, domain transfer", ("06",), **found | {"mixed": found["mixed"] + first[0], "bytes": found["bytes"] + first[1]}
    )


def _blackbox(study: Study, count: _Counts) -> Work:
    p = study.params.blackbox
    steps = [p.tune.steps] * (p.targets + p.shadows) + [p.overfitted.steps] + p.epochs + [p.tune.steps] * len(p.sizes)
    tuned = [count.tuned(p.tune.model_copy(update={"steps": some}), "lora") for some in steps]
    private = len(p.private.epsilons) * p.private.steps * p.private.draws * p.private.share * p.members * TRAINING
    asked = (len(steps) + len(p.private.epsilons)) * 4 * p.members * p.queries
    guided = 2 if p.guidance > 1 else 1
    images = asked * 3 * count.edge**2 * PNG
    mixed = _first(tuned) + asked * p.steps * guided
    return Work("black box", ("07",), exact=private, mixed=mixed, bytes=_second(tuned) + images)


def _perturbed(study: Study, count: _Counts, domains: int) -> tuple[float, float]:
    """The perturbed SP sets of so many domains."""
    p, images = study.params.mixsyn.perturbation, study.params.sp.images
    ascent = images * p.rounds * p.steps * p.draws * TRAINING
    surrogate = p.rounds * (p.surrogate.clean_steps + p.surrogate.perturbed_steps) * p.surrogate.batch * TRAINING
    return domains * (ascent + surrogate), domains * count.drawn(images)[1]


def _mixsyn(study: Study, count: _Counts) -> Work:
    p, domains = study.params.mixsyn, study.mixsyn_domains
    rows = [row for table in range(1, 6) for row in study.mixsyn_rows(table)] + study.ratio_rows() + study.baseline_rows()
    models = [(study.recipe(row.method), row.method) for row in {(row.method, str(row.overrides)): row for row in rows}.values()]
    found, (mixed, taken) = _shaken(study, count, domains, models, p.quality_images), _perturbed(study, count, len(domains) + p.calibration)
    return Work("MixSyn", ("08",), **found | {"mixed": found["mixed"] + mixed, "bytes": found["bytes"] + taken})


def _audit(study: Study, count: _Counts) -> Work:
    p, domains = study.params.audit, study.audit_domains
    found = _shaken(study, count, domains, [(study.recipe(p.method), p.method)] * 2, study.params.extraction.images)
    mixed, taken = _perturbed(study, count, len(domains))
    drawn = [count.drawn(study.params.extraction.images + study.params.sp.images) for _ in domains]
    exact = found["exact"] + count.attacked(study.domains, study.attack_settings(), False)
    return Work("audit", ("09",), exact, found["mixed"] + mixed + _first(drawn), found["bytes"] + taken + _second(drawn))


def measured(study: Study, precision: str) -> float:
    """Seconds of one UNet evaluation of one image, in the batches of attacks (4 at most)."""
    from s2llib.benchmark import seconds_of
    from s2llib.models.denoiser import Denoiser

    denoiser, config = Denoiser(study.base, precision=precision), study.base.unet.config
    c, n = denoiser.prompts(["a photo"]), min(4, study.params.attacks.batch)

    @torch.no_grad()
    def once() -> None:
        z = torch.zeros(n, config.in_channels, config.sample_size, config.sample_size, device=denoiser.device)
        denoiser.predict(z, torch.full((n,), 100, device=denoiser.device), c.expand(n, -1, -1))

    while True:
        try:
            once()
            return seconds_of(once, denoiser.device) / n
        except (RuntimeError, MemoryError) as error:
            n = halved(n, error)


def estimate(study: Study, notebooks: Iterable[str] | None = None) -> str:
    """Time and disk of a study's notebooks (all, if not given) in Markdown lines."""
    wanted = None if notebooks is None else set(notebooks)
    chosen = [work for work in works(study) if wanted is None or wanted & set(work.notebooks)]
    exact = measured(study, "float32")
    precision = study.params.hardware.precision
    mixed = exact if precision == "float32" else measured(study, precision)
    seconds = [work.exact * exact + work.mixed * mixed for work in chosen]
    free = shutil.disk_usage(_existing(study.store.root)).free
    total = sum(work.bytes for work in chosen)
    lines = [f"- {work.title}: {clock(some)}, {_size(work.bytes)}" for work, some in zip(chosen, seconds, strict=True)]
    lines.append(
        f"\nAbout {clock(sum(seconds))} of computing on one device ({1000 * exact:.3g} ms an evaluation of the UNet) and {_size(total)} on"
        f" disk, of which {_size(free)} are free; finished work is not done again."
    )
    if total > free:
        lines.append(f"The disk of {study.store.root} is too small for all of it; set $S2L_HOME to a folder on a larger one.")
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
    study = Study.from_profile(args.profile, overrides(args.set))
    print(estimate(study, args.only or default_notebooks(study.params.profile)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
