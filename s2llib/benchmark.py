"""Benchmarks: what attacks, fine-tuning and the search for extracted images cost. Not part of the tests.

python -m s2llib.benchmark attack                          # SecMI and PIA on Stable Diffusion v1 at full size, random weights
python -m s2llib.benchmark attack --model models/lab --attack pia --images 64 --batch 32
python -m s2llib.benchmark finetune --method lora --precision bfloat16 --checkpointing
python -m s2llib.benchmark walk                            # every kind of work once, on the same model: seconds and peak memory
python -m s2llib.benchmark extraction 5000 400 512         # generated images, training images, pixels
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from s2llib.artifact import made
from s2llib.attacks import ATTACKS
from s2llib.attacks.extraction import crowd, nearest
from s2llib.command import guarded
from s2llib.data.domain import Domain, Photos
from s2llib.finetune.methods import METHODS, method
from s2llib.finetune.recipe import finetune
from s2llib.lab import Lab
from s2llib.models.denoiser import Denoiser
from s2llib.models.hardware import autocast, prepare
from s2llib.models.pipeline import check_folder, load_pipeline, pick_device
from s2llib.models.random_weights import SIZES, random_stable_diffusion
from s2llib.params import Finetune, Hardware, Recipe, resolved
from s2llib.studies import plan

__all__ = ["Drawn", "attack_cost", "extraction_cost", "finetune_cost", "main", "peak_memory", "seconds_of", "walk_costs"]

PROMPT = "a photo of ada abeck"
# a handful of images and steps
WALK = {
    "sp": {"images": 2, "steps": 2, "batch": 1}, "finetune.methods": ["lora"], "finetune.lora": {"steps": 2, "batch": 1, "rank": 4},
    "attacks": {"names": ["secmi", "pia"], "batch": 2, "secmi": {"k": 10, "t": 140}}, "extraction.images": 2,
    "mixsyn.perturbation": {"rounds": 1, "steps": 1, "group": 1, "surrogate": {"kind": "lora", "batch": 1, "rank": 4}},
}  # fmt: skip


class Drawn:
    """Random images that are drawn when they are read: as many as you like, none on disk."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.copies = count, seed, (1,) * count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, which: slice) -> "Drawn":
        start, stop, _ = which.indices(self.count)
        return Drawn(stop - start, self.seed + start)

    def batches(self, size: int, batch: int):
        draw = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.count, batch):
            yield torch.rand(min(batch, self.count - start), 3, size, size, generator=draw)


# the clock and the memory


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, what it started on a GPU included."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def peak_memory(device: torch.device) -> float:
    """GiB at most in use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


class _Clock:
    """Seconds that a module's forward passes take, and when each began."""

    def __init__(self, module: torch.nn.Module, device: torch.device):
        self.device, self.starts, self.seconds = device, [], 0.0
        self.hooks = [module.register_forward_pre_hook(self._start), module.register_forward_hook(self._stop)]

    def _start(self, *_) -> None:
        _wait(self.device)
        self.starts.append(time.perf_counter())

    def _stop(self, *_) -> None:
        _wait(self.device)
        self.seconds += time.perf_counter() - self.starts[-1]

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


# an attack


def attack_cost(pipeline, attack: str, setting: dict, images: int, batch: int, repeats: int) -> dict:
    """An attack on random images and the bare UNet calls it needs, batch for batch, in turns in one process; medians over the repeats.

    Keys: attack, images, batch, NFE, seconds per image of the attack, of the bare calls and of the encoding; ratio of the first two, share
    of the attack's time that is spent in the UNet, GiB.
    """
    denoiser = Denoiser(pipeline, batch)
    device = denoiser.device
    x, c = torch.rand(images, 3, denoiser.size, denoiser.size), denoiser.prompts([PROMPT])
    encoding = np.median([seconds_of(lambda: denoiser.encode(x), device) for _ in range(repeats)])
    z0 = denoiser.encode(x)
    score = lambda: ATTACKS[attack].score(denoiser, z0, c.expand(images), **setting)  # noqa: E731
    before = denoiser.evaluations
    score()  # warms up, and counts
    nfe = (denoiser.evaluations - before) // images
    calls = [(z, torch.full((len(z),), 100, device=device), c.expand(len(z)).tensors) for z in z0.split(denoiser.batch)] * nfe

    @torch.no_grad()
    def bare() -> None:
        for z, t, tensors in calls:
            pipeline.unet(z, t, **tensors)

    turns = [(seconds_of(bare, device), seconds_of(score, device)) for _ in range(repeats)]
    clock = _Clock(pipeline.unet, device)
    whole = seconds_of(score, device)
    clock.remove()
    alone, attacking = np.median(turns, axis=0)
    return {
        "attack": attack, "images": images, "batch": denoiser.batch, "NFE": nfe, "attack (s/image)": attacking / images,
        "bare UNet calls (s/image)": alone / images, "ratio": np.median([b / a for a, b in turns]),
        "share in the UNet": clock.seconds / whole,
        "encoding (s/image)": encoding / images, "memory (GiB)": peak_memory(device),
    }  # fmt: skip


# fine-tuning


def _photos(folder: Path, count: int, size: int) -> Photos:
    rng, paths = np.random.default_rng(0), []
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        paths.append(folder / f"{i}.png")
    return Photos(tuple(paths), (PROMPT,) * count, (1,) * count)


def finetune_cost(pipeline, name: str, recipe: Recipe, hardware: Hardware) -> dict:
    """A fine-tuning on random images, and a bare loop of the UNet's forward and backward passes on the same parameters after it.

    Keys: method, steps, batch, steps per second of both (medians over the steps; the first is left out), ratio of their times, trainable
    parameters, GiB. The pipeline is trained in place.
    """
    denoiser = Denoiser(pipeline, recipe.batch)
    device, domain = denoiser.device, Domain("ada abeck", {}, "")
    clock = _Clock(pipeline.unet, device)
    with tempfile.TemporaryDirectory() as scratch:
        photos = _photos(Path(scratch), 4, denoiser.size)
        report = finetune(pipeline, METHODS[name], recipe, photos, domain, 0, name, encode_batch=recipe.batch, hardware=hardware)
    clock.remove()
    steps = np.diff(clock.starts)[1:]
    bare = _bare_steps(pipeline, recipe, hardware.precision, _trained(pipeline, name))[1:]
    return {
        "method": name, "precision": hardware.precision, "steps": recipe.steps, "batch": recipe.batch,
        "fine-tuning (steps/s)": 1 / np.median(steps), "bare UNet steps (steps/s)": 1 / np.median(bare),
        "ratio": np.median(steps) / np.median(bare), "trainable": report["trainable"], "memory (GiB)": peak_memory(device),
    }  # fmt: skip


def _trained(pipeline, name: str) -> list[torch.nn.Parameter]:
    """What a method trains in the UNet."""
    return [p for key, p in pipeline.unet.named_parameters() if "unet" in METHODS[name].trains or "lora_" in key or "hypernetwork" in key]


def _bare_steps(pipeline, recipe: Recipe, precision: str, parameters: list[torch.nn.Parameter]) -> list[float]:
    """Seconds of forward and backward passes of the UNet alone, as many as the recipe has steps."""
    unet, denoiser = pipeline.unet, Denoiser(pipeline, recipe.batch)
    for p in parameters:
        p.requires_grad_(True)
    shape = (recipe.batch, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    z = torch.randn(shape, device=denoiser.device, requires_grad=not parameters)  # where nothing in the UNet trains, it passes gradients on
    t, c = torch.full((recipe.batch,), 100, device=z.device), denoiser.prompts([PROMPT]).expand(recipe.batch)

    def step() -> None:
        with autocast(z.device, precision):
            predicted = unet(z, t, **c.tensors).sample
        predicted.float().square().mean().backward()
        unet.zero_grad(set_to_none=True)

    return [seconds_of(step, z.device) for _ in range(recipe.steps)]


# the search for extracted images


def extraction_cost(generated: int, training: int, size: int) -> str:
    """Time and memory of the search among so many random images, in two lines."""
    before, start = peak_memory(torch.device("cpu")), time.perf_counter()
    drawn, known = Drawn(generated, 0), Drawn(training, 10**9)
    distance, _ = nearest(known, drawn, size)  # the images in training order: the larger set is the one that is held
    crowd(drawn, known, size, [0.1])
    seconds, peak = time.perf_counter() - start, peak_memory(torch.device("cpu"))
    return (
        f"{generated:,} x {training:,} images of {size} pixels: {seconds:.0f} s, smallest distance {distance.min():.3f}\n"
        f"peak memory {peak:.2f} GiB, of which {before:.2f} GiB before the search"
    )


# everything once


def walk_costs(model: Path, folder: Path, hardware: Hardware, device: str) -> list[dict]:
    """What each kind of work costs on a model's folder with a handful of images and steps, everything made below `folder`.

    SP generation, LoRA, SecMI and PIA (16 and 2 evaluations), extraction, MixSyn's perturbation with a LoRA surrogate.
    """
    for split, count in (("member", 2), ("nonmember", 2)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng([i, count, split == "member"]).integers(0, 256, (96, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{i}.png")
    lab = Lab.open("tiny", WALK | {
        "world": {"kind": "folder", "folders": {split: str(folder / split) for split in ("member", "nonmember")}, "domains": 1},
        "base.path": str(model), "hardware": hardware.model_dump(), "device": device,
    }, root=folder / "artifacts")  # fmt: skip
    (domain,) = lab.domains
    tuned = plan.tuned(lab, domain, "lora")
    work = {
        "SP generation": plan.sp_set(lab, domain),
        "LoRA": tuned,
        "SecMI and PIA": plan.scoring(lab, domain, tuned, shifted=False),
        "extraction": plan.search(lab, domain, tuned),
        "MixSyn's perturbation": plan.perturbed_set(lab, domain),
    }
    rows = []
    for name, spec in work.items():
        seconds = seconds_of(lambda spec=spec: made(lab, spec), lab.device)
        rows.append({"work": name, "precision": hardware.precision, "seconds": seconds, "peak memory (GiB)": peak_memory(lab.device)})
    return rows


# the command


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m s2llib.benchmark", description="What attacks, fine-tuning and extraction cost.")
    kinds = p.add_subparsers(dest="what", required=True)
    attack, tune = kinds.add_parser("attack", help="attacks, and the bare UNet calls they need"), kinds.add_parser("finetune")
    for kind in (attack, tune):
        kind.add_argument("--model", help="a diffusers folder (default: Stable Diffusion v1 with random weights)")
        kind.add_argument("--size", choices=SIZES, default="full", help="of the model with random weights")
        kind.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
        kind.add_argument("--batch", type=int, default=2)
        kind.add_argument("--attention", choices=("auto", "flash", "efficient", "math"), default="auto")
    attack.add_argument("--attack", choices=ATTACKS, action="append", help="may be repeated (default: secmi and pia)")
    attack.add_argument("--images", type=int, default=2)
    attack.add_argument("--repeats", type=int, default=3)
    tune.add_argument("--method", default="lora")
    tune.add_argument("--steps", type=int, default=5)
    tune.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    tune.add_argument("--optimizer", choices=("adamw", "adamw8bit"), default="adamw")
    tune.add_argument("--checkpointing", action="store_true")
    walk = kinds.add_parser("walk", help="SP generation, LoRA, attacks, extraction and perturbation, once each")
    walk.add_argument("--model", help="a diffusers folder (default: Stable Diffusion v1 with random weights)")
    walk.add_argument("--size", choices=SIZES, default="full", help="of the model with random weights")
    walk.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    walk.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    walk.add_argument("--scratch", help="where its files go (5 GB), until it ends")
    search = kinds.add_parser("extraction", help="the search for extracted images")
    search.add_argument("counts", type=int, nargs="*", metavar="N", help="generated images, training images, pixels: 5000 100000 64")
    return p


def _model(args: argparse.Namespace, hardware: Hardware, trains: bool):
    device = pick_device(args.device)
    if args.model:
        check_folder(resolved(args.model))
    pipeline = load_pipeline(resolved(args.model)) if args.model else random_stable_diffusion(args.size)
    return prepare(pipeline, hardware, device, trains)


def _attacks(args: argparse.Namespace) -> list[dict]:
    pipeline = _model(args, Hardware(attention=args.attention), trains=False)
    names = args.attack or ["secmi", "pia"]
    return [attack_cost(pipeline, name, ATTACKS[name].settings().model_dump(), args.images, args.batch, args.repeats) for name in names]


def _finetune(args: argparse.Namespace) -> list[dict]:
    given = {name: getattr(args, name) for name in ("precision", "optimizer", "checkpointing", "attention")}
    method(args.method, "--method")
    recipe = getattr(Finetune(), args.method).model_copy(update={"steps": max(args.steps, 3), "batch": args.batch})
    return [finetune_cost(_model(args, Hardware(**given), trains=True), args.method, recipe, Hardware(**given))]


def _walk(args: argparse.Namespace) -> list[dict]:
    hardware = Hardware(precision=args.precision, checkpointing=True)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        model = resolved(args.model) if args.model else Path(scratch) / "model"
        if not args.model:
            random_stable_diffusion(args.size).save_pretrained(model)
        return walk_costs(model, Path(scratch) / "walk", hardware, args.device)


def main() -> int:
    args = parser().parse_args()
    return guarded(lambda: _measure(args))


def _measure(args: argparse.Namespace) -> int:
    if args.what == "extraction":
        if len(args.counts) > 3:
            parser().error("extraction takes three numbers at most: generated images, training images, pixels")
        print(extraction_cost(*args.counts, *(5000, 100000, 64)[len(args.counts) :]))
        return 0
    rows = {"attack": _attacks, "finetune": _finetune, "walk": _walk}[args.what](args)
    if args.what == "walk":
        print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4g"))
    else:
        print(pd.DataFrame(rows).T.to_markdown(headers=[], floatfmt=".4g"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
