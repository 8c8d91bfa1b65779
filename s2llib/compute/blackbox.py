"""Models fine-tuned on private photographs, from outside: what they draw, captions for photographs, encoders, and what they learnt."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from s2llib.artifact import artifact, described, key, made, scratch
from s2llib.attacks.blackbox import AGGREGATES, Evidence, inferred, similarity
from s2llib.attacks.loss import loss
from s2llib.compute.models import judge_folder, pipeline
from s2llib.data.domain import Photos
from s2llib.data.worlds import auxiliary_images
from s2llib.generate import draw, read_generated, write_generated
from s2llib.lab import Lab
from s2llib.loop import generator
from s2llib.models import encoders
from s2llib.models.captioner import load_blip, retrieve_captions, tune_blip, write_captions
from s2llib.models.denoiser import Denoiser
from s2llib.models.encoders import SimCLR, load_selfsupervised, save_selfsupervised, train_selfsupervised
from s2llib.specs import Captioner, Captions, Features, Inferred, Learnt, Replies, Seen, SelfSupervised
from s2llib.store import digest, number

__all__ = ["drawn", "encoder", "replies"]

KEPT = 48  # feature tensors kept in memory


@artifact(Replies, "replies", 1, rounds=("precision",))
def reply(lab: Lab, spec: Replies, folder: Path) -> None:
    """An image a prompt; its noise is that of the prompt, not of its place."""
    noise = lambda i: generator(number(spec.prompts[i]), spec.seed + 1)  # noqa: E731
    s, p = spec.sampling, lab.params
    images = draw(
        pipeline(lab, spec.model),
        list(spec.prompts),
        noise,
        s.steps,
        s.guidance,
        s.negative,
        p.blackbox.batch,
        p.hardware.precision,
        s.sampler,
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
    """captions.parquet: a caption for each photograph."""
    x = spec.photos.pixels(spec.size)
    if isinstance(spec.writer, Captioner):
        texts = write_captions(*load_blip(made(lab, spec.writer)), x)
    else:
        texts = retrieve_captions(judge_folder(lab, spec.writer), x, list(spec.known), list(spec.photos.captions) if spec.own else None)
    pd.DataFrame({"caption": texts}).to_parquet(folder / "captions.parquet")


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


def encoded(lab: Lab, features: Features, x: torch.Tensor) -> torch.Tensor:
    """Features [n, tokens, channels] of images [n, 3, h, w] in [0, 1]."""
    batch, network = lab.params.attacks.batch, features.network
    if features.name == "pixels":
        return encoders.dct_tokens(x)
    if features.name == "vae":
        return encoders.vae_tokens(pipeline(lab, network), x, batch)
    if features.name == "clip":
        return encoders.clip_tokens(judge_folder(lab, network), x, batch)
    if features.name == "selfsupervised":
        return encoder(lab, network).tokens(x, batch)
    return encoders.transformers_tokens(network.at, x, batch)


def _kept(lab: Lab, features: Features, what: str, images: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Features of images, kept in memory: several measures ask for the same ones."""
    kept, name = lab.resident("features", dict), digest([described(lab, features), what])
    if name not in kept:
        kept[name] = encoded(lab, features, images()).float()
        if len(kept) > KEPT:
            del kept[next(iter(kept))]  # the oldest
    return kept[name]


def drawn(lab: Lab, questions: Sequence[Replies], texts: Sequence[str], size: int) -> torch.Tensor:
    """[n, m, 3, size, size] in [0, 1]: what was drawn for each of these texts, for each of m questions."""
    place = {text: i for i, text in enumerate(questions[0].prompts)}
    which = torch.tensor([place[text] for text in texts])
    return torch.stack([replies(lab, question, size)[which] for question in questions], 1)


@artifact(Seen, "evidence", 1)
def see(lab: Lab, spec: Seen, folder: Path) -> None:
    """evidence.parquet: a row a photograph, a column a channel."""
    query = _kept(lab, spec.features, digest([str(path) for path in spec.photos.paths]), lambda: spec.photos.pixels(spec.size))
    name = digest([spec.texts, *(key(lab, question) for question in spec.replies)])
    found = _kept(lab, spec.features, name, lambda: drawn(lab, spec.replies, spec.texts, spec.size).flatten(0, 1))
    generated = found.view(len(spec.photos), len(spec.replies), *query.shape[1:])
    alike = AGGREGATES[spec.aggregate](similarity(query, generated, spec.measure, spec.form)).numpy()
    pd.DataFrame(alike, columns=[f"c{i}" for i in range(alike.shape[1])]).to_parquet(folder / "evidence.parquet")


@artifact(Inferred, "inferred", 1)
def infer(lab: Lab, spec: Inferred, folder: Path) -> None:
    """scores.parquet: model, split, image, score, fitted."""
    of = lambda sides: Evidence(*(pd.read_parquet(made(lab, side) / "evidence.parquet").to_numpy() for side in sides))  # noqa: E731
    found = inferred(of(spec.target), [of(sides) for sides in spec.shadows], spec, spec.seed, spec.most)
    found.to_parquet(folder / "scores.parquet")


@artifact(Learnt, "learnt", 1)
def measure(lab: Lab, spec: Learnt, folder: Path) -> None:
    """loss.parquet: split, loss: the error of each photograph."""
    denoiser, tables = Denoiser(pipeline(lab, spec.model), lab.params.attacks.batch), []
    for split, photos in (("member", spec.members), ("nonmember", spec.others)):
        z0, c = denoiser.encode_photos(photos), denoiser.prompts(list(photos.captions))
        tables.append(pd.DataFrame({"split": split, "loss": -loss(denoiser, z0, c, **spec.setting.model_dump()).cpu().numpy()}))
    pd.concat(tables, ignore_index=True).to_parquet(folder / "loss.parquet")
