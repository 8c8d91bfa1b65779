"""Train a shipped model and write it to its folder in half precision, with its card.

python -m s2llib.ship                 # models/lab
python -m s2llib.ship lab-large       # the base of params/lab-large.yaml
python -m s2llib.ship --unconditional # the small DDPM of zero_prior.path
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import CLIPModel

from s2llib.artifact import made
from s2llib.command import guarded
from s2llib.compute.models import folder as folder_of
from s2llib.compute.models import loaded
from s2llib.data.domain import Domain
from s2llib.lab import Lab
from s2llib.models.base import PIXELS, WORLD, pixel_digest
from s2llib.models.pipeline import base_folder
from s2llib.models.unconditional import load_unconditional
from s2llib.params import ParamsError, load_params, resolved
from s2llib.report.base import base_metrics
from s2llib.report.provenance import provenance
from s2llib.studies.zero_prior import unconditional_model

CARD = """# A base model of the lab (`{profile}`)

A `StableDiffusionPipeline` in half precision that plain diffusers loads, and the CLIP pair (`clip/`) whose text tower is its text encoder.
Made by `python -m s2llib.ship {profile}`; `--profile {profile} --set retrain_base=true` trains it again.

## Data

Procedural portraits of {people} invented people (world seed {world_seed}); no real person. UNet: {members} members of
{trained} people each, {duplicated:.0%} of them in {copies} copies. VAE and CLIP: {auxiliary} other photographs a person,
in no split of any study.

## Training

Seed {seed}. {stages}

Card written on {processor}, torch {torch}.

## Metrics

On non-members, which no part of the model was trained on.

{metrics}

{log}
"""
OWN_LOG = "How its settings and those of attacks and fine-tuning were found: [calibration.md](calibration.md)."
OTHER_LOG = "Its settings are those of [the lab](../lab/README.md), but for what `params/{profile}.yaml` says."
UNCONDITIONAL_CARD = """# An unconditional model of the lab

A `DDPMPipeline` of {size} x {size} pixels in half precision, for the study without prior knowledge (notebook 06). Made by
`python -m s2llib.ship --unconditional`; `--set zero_prior.path=null` trains it again in any run of the `lab` profiles.

Data: {members} members of each of {people} invented people of the lab (world seed {world_seed}),
{duplicated:.0%} of them in {copies} copies; no real person.
Training: seed {seed}, {steps} steps of {batch}, {epochs} epochs, loss {first:.3f} to {last:.3f}.

How its settings were found: [calibration.md](../lab/calibration.md).
"""


def card(lab: Lab, metrics: dict[str, float], log: str) -> str:
    """The model card: data, seeds, steps, metrics, and where its settings come from."""
    p, source = lab.params, provenance(lab.params)
    training = json.loads((folder_of(lab, lab.base) / "training.json").read_text())
    stages = [
        f"{name}: {report['steps']} steps, loss {report['loss'][0]:.3f} to {report['loss'][-1]:.3f}" for name, report in training.items()
    ]
    return CARD.format(
        profile=p.profile,
        people=p.world.people,
        trained=p.base.unet.people or p.world.people,
        world_seed=p.world.seed,
        members=p.world.members,
        duplicated=p.world.duplicated,
        copies=", ".join(map(str, p.world.copies)),
        auxiliary=p.base.auxiliary,
        seed=p.seed,
        stages="; ".join(stages) + f"; UNet: {p.base.unet.epochs} epochs.",
        processor=source["hardware"]["processor"],
        torch=source["packages"]["torch"],
        metrics="\n".join(f"- {name}: {value:.4g}" for name, value in metrics.items()),
        log=log,
    )


def ship_unconditional() -> Path:
    p = load_params("lab-full")
    shipped, zero = resolved(p.zero_prior.path), p.zero_prior
    lab = Lab.open("lab-full", {"zero_prior.path": None})
    folder = made(lab, unconditional_model(lab))
    pipeline = load_unconditional(folder)
    pipeline.unet.to(torch.float16)
    pipeline.save_pretrained(shipped)
    _write_world(folder, shipped, lab.everyone[: zero.people])
    shutil.copy(folder / "training.json", shipped / "training.json")
    report = json.loads((folder / "training.json").read_text())
    data = p.world.model_dump(include={"members", "duplicated"}) | zero.model_dump(include={"size", "people", "batch", "epochs"})
    training = {
        "steps": report["steps"],
        "first": report["loss"][0],
        "last": report["loss"][-1],
        "seed": p.seed,
        "world_seed": p.world.seed,
    }
    (shipped / "README.md").write_text(UNCONDITIONAL_CARD.format(copies=", ".join(map(str, p.world.copies)), **data, **training))
    return shipped


def _write_world(folder: Path, shipped: Path, people: list[Domain]) -> None:
    """What a model was trained on, down to the pixels, which other machines may draw otherwise."""
    world = json.loads((folder / WORLD).read_text()) | {PIXELS: {person.name: pixel_digest(person) for person in people}}
    (shipped / WORLD).write_text(json.dumps(world, indent=1) + "\n")


def ship_base(profile: str) -> Path:
    shipped = base_folder(load_params(profile))
    if not shipped:
        raise ParamsError(f"params/{profile}.yaml: base.path names no folder to ship to; set it.")
    lab = Lab.open(profile, {"retrain_base": True})
    folder, base = folder_of(lab, lab.base), loaded(lab, lab.base)
    log = OWN_LOG if (shipped / "calibration.md").is_file() else OTHER_LOG.format(profile=profile)
    metrics = base_metrics(lab)
    for part in ("vae", "unet", "text_encoder"):
        getattr(base, part).to(torch.float16).save_pretrained(shipped / part)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(folder / part, shipped / part, dirs_exist_ok=True)
    for name in ("model_index.json", "training.json"):
        shutil.copy(folder / name, shipped / name)
    _write_world(folder, shipped, lab.everyone)
    CLIPModel.from_pretrained(folder / "clip", dtype=torch.float16).save_pretrained(shipped / "clip")
    for part in ("vae", "unet", "text_encoder", "clip"):
        path = shipped / part / "config.json"
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}  # a folder of this machine
        if part in ("text_encoder", "clip"):  # so that plain from_pretrained loads every part in one precision
            config |= {"dtype": "float32"}
        path.write_text(json.dumps(config, indent=2) + "\n")
    (shipped / "README.md").write_text(card(lab, metrics, log))
    return shipped


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else "lab-full"
    return guarded(lambda: _ship(wanted))


def _ship(wanted: str) -> int:
    shipped = ship_unconditional() if wanted == "--unconditional" else ship_base(wanted)
    print(f"{shipped}: {sum(path.stat().st_size for path in shipped.rglob('*') if path.is_file()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
