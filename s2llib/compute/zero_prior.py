"""Unconditional models (S2L's study without prior knowledge): trained, shaken by noise or by their own samples."""

import json
from pathlib import Path

import torch

from s2llib.artifact import artifact, scratch
from s2llib.compute.images import photos
from s2llib.compute.models import loaded
from s2llib.data.domain import MEMBER, Photos
from s2llib.finetune.knowledge import add_noise
from s2llib.generate import write_generated
from s2llib.lab import Lab
from s2llib.models.base import WORLD
from s2llib.models.unconditional import new_unconditional, sample_unconditional, train_unconditional
from s2llib.specs import Drawn, Unconditional, UnconditionalNoise, UnconditionalTune

__all__: list[str] = []


@artifact(Unconditional, "unconditional", 1)
def train(lab: Lab, spec: Unconditional, folder: Path) -> None:
    """A DDPM on the members of some people, as often as the training set holds each."""
    p, members = spec.how, Photos.join(person.splits[MEMBER] for person in spec.people)
    x = torch.repeat_interleave(members.pixels(p.size) * 2 - 1, torch.tensor(members.copies), dim=0)
    pipeline = new_unconditional(p, spec.seed).to(lab.device)
    losses = train_unconditional(
        pipeline, x, steps=p.epochs * -(-len(x) // p.batch), batch=p.batch, lr=p.lr, seed=spec.seed, cosine=True,
        what="unconditional model", checkpoint=scratch(lab, spec),
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    (folder / WORLD).write_text(json.dumps(spec.world, indent=1))
    (folder / "training.json").write_text(json.dumps({"steps": len(losses), "loss": losses[:: max(1, len(losses) // 200)]}))


@artifact(Drawn, "drawn", 1)
def draw(lab: Lab, spec: Drawn, folder: Path) -> None:
    """What the model draws of itself."""
    images = sample_unconditional(loaded(lab, spec.model).to(lab.device), spec.count, spec.steps, spec.seed)
    write_generated(folder, images, [""] * spec.count, "its own samples")


@artifact(UnconditionalTune, "unconditional_tuned", 1)
def shake(lab: Lab, spec: UnconditionalTune, folder: Path) -> None:
    """Fine-tuning with the same loss, on images that no photograph went into."""
    pipeline, x = loaded(lab, spec.base).to(lab.device), photos(lab, spec.images).pixels(spec.size) * 2 - 1
    recipe = {"steps": spec.steps, "batch": spec.batch, "lr": spec.lr, "seed": spec.seed}
    train_unconditional(pipeline, x, **recipe, what="fine-tuning without prior knowledge", checkpoint=scratch(lab, spec))
    pipeline.save_pretrained(folder)


@artifact(UnconditionalNoise, "unconditional_noise", 1)
def shake_weights(lab: Lab, spec: UnconditionalNoise, folder: Path) -> None:
    """Noise on every weight."""
    pipeline = loaded(lab, spec.base)
    add_noise(list(pipeline.unet.parameters()), spec.sigma, spec.seed)
    pipeline.save_pretrained(folder)
