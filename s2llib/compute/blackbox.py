"""Models fine-tuned on private photographs, from outside: what they draw, captions for photographs, encoders, and what they learnt."""

import json
from pathlib import Path

import numpy as np
import torch

from s2llib.artifact import artifact, made, scratch
from s2llib.attacks.loss import loss
from s2llib.compute.models import pipeline
from s2llib.data.domain import Photos
from s2llib.data.worlds import auxiliary_images
from s2llib.generate import draw, read_generated, write_generated
from s2llib.lab import Lab
from s2llib.loop import generator
from s2llib.models.captioner import load_blip, retrieve_captions, tune_blip, write_captions
from s2llib.models.denoiser import Denoiser
from s2llib.models.encoders import SimCLR, load_selfsupervised, save_selfsupervised, train_selfsupervised
from s2llib.specs import Captioner, Captions, Learnt, Replies, SelfSupervised
from s2llib.store import number

__all__ = ["captions", "encoder", "learnt", "replies"]


@artifact(Replies, "replies", 1, rounds=("precision",))
def reply(lab: Lab, spec: Replies, folder: Path) -> None:
    """An image a prompt; its noise is that of the prompt, not of its place."""
    noise = lambda i: generator(number(spec.prompts[i]), spec.seed + 1)  # noqa: E731
    s, p = spec.sampling, lab.params
    images = draw(
        pipeline(lab, spec.model), list(spec.prompts), noise, s.steps, s.guidance, s.negative, p.blackbox.batch, p.hardware.precision
    )
    write_generated(folder, images, list(spec.prompts), "replies")


def replies(lab: Lab, spec: Replies, size: int) -> torch.Tensor:
    """[prompts, 3, size, size] in [0, 1]."""
    return read_generated(made(lab, spec)).pixels(size)


@artifact(Captioner, "captioner", 1)
def tune_captioner(lab: Lab, spec: Captioner, folder: Path) -> None:
    """BLIP, fine-tuned on the attacker's own photographs and captions."""
    model, tokenizer = load_blip(spec.at)
    if spec.steps:
        tune_blip(model, tokenizer, spec.photos.pixels(spec.size), list(spec.photos.captions), spec.steps, spec.lr, spec.seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@artifact(Captions, "captions", 1)
def write(lab: Lab, spec: Captions, folder: Path) -> None:
    """captions.json: a caption for each photograph."""
    x = spec.photos.pixels(spec.size)
    if isinstance(spec.writer, Captioner):
        texts = write_captions(*load_blip(made(lab, spec.writer)), x)
    else:
        texts = retrieve_captions(spec.writer.at, x, list(spec.known), list(spec.photos.captions) if spec.own else None)
    (folder / "captions.json").write_text(json.dumps(texts))


def captions(lab: Lab, spec: Captions) -> list[str]:
    """What was written for each photograph."""
    return json.loads((made(lab, spec) / "captions.json").read_text())


@artifact(SelfSupervised, "encoder", 1)
def train_encoder(lab: Lab, spec: SelfSupervised, folder: Path) -> None:
    """SimCLR on photographs that are in no set of the study."""
    images = _auxiliary(lab, spec.photos, spec.size)
    x = torch.from_numpy(images[:: max(1, len(images) // spec.how.images)]).permute(0, 3, 1, 2).float() / 255
    model, losses = train_selfsupervised(x, spec.how, spec.seed, scratch(lab, spec))
    save_selfsupervised(model, folder)
    (folder / "training.json").write_text(json.dumps({"loss": losses}))


def _auxiliary(lab: Lab, photos: Photos | None, size: int) -> np.ndarray:
    """[n, h, w, 3] uint8."""
    if photos is None:
        return auxiliary_images(lab.params.world, lab.params.base.auxiliary, lab.store)[0]
    return (photos.pixels(size).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


def encoder(lab: Lab, spec: SelfSupervised) -> SimCLR:
    """The trained encoder."""
    return load_selfsupervised(made(lab, spec), spec.how.channels)


@artifact(Learnt, "learnt", 1)
def measure(lab: Lab, spec: Learnt, folder: Path) -> None:
    """loss.json: {member, nonmember: the error of each photograph}."""
    denoiser, found = Denoiser(pipeline(lab, spec.model), lab.params.attacks.batch), {}
    for split, photos in (("member", spec.members), ("nonmember", spec.others)):
        z0, c = denoiser.encode_photos(photos), denoiser.prompts(list(photos.captions))
        found[split] = (-loss(denoiser, z0, c, **spec.setting.model_dump())).tolist()
    (folder / "loss.json").write_text(json.dumps(found))


def learnt(lab: Lab, spec: Learnt) -> dict[str, list[float]]:
    """{member, nonmember: noise-prediction error of each photograph}."""
    return json.loads((made(lab, spec) / "loss.json").read_text())
