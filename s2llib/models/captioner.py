"""Captions for an attacker who has none (Attack-II and IV): retrieved by CLIP, or written by BLIP."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from s2llib.loop import train
from s2llib.models.encoders import CLIP_MOMENTS, normalised
from s2llib.models.finite import finite
from s2llib.models.loading import check_part, load_part
from s2llib.models.tokens import load_tokenizer
from s2llib.params import ParamsError, resolved

__all__ = ["check_blip", "load_blip", "retrieve_captions", "slot_accuracy", "tune_blip", "write_captions"]


@torch.no_grad()
def retrieve_captions(base: Path, x: Tensor, known: list[str], own: list[str] | None = None) -> list[str]:
    """For each image [n, 3, h, w] in [0, 1] the one of the known captions that the base model's CLIP pair finds most similar.

    own: a caption for each image that it must not be given.
    """
    from transformers import CLIPModel

    clip = load_part(CLIPModel, base / "clip", "base.path")
    tokenizer, known = load_tokenizer(base / "tokenizer", clip.config.text_config.to_dict(), "base.path"), sorted(set(known))
    ids = tokenizer(known, padding="max_length", truncation=True, return_tensors="pt").input_ids
    texts = torch.cat([clip.text_projection(clip.text_model(input_ids=some).pooler_output) for some in ids.split(256)])
    images = torch.cat([clip.visual_projection(clip.vision_model(pixel_values=some * 2 - 1).pooler_output) for some in x.split(256)])
    similar = finite(F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T, "Similarities by the base model's CLIP pair")
    for row, text in zip(similar, own or [], strict=False):
        row[[i for i, one in enumerate(known) if one == text]] = -2  # below every cosine
    return [known[i] for i in similar.argmax(1).tolist()]


def slot_accuracy(written: list[str], true: list[str]) -> list[float]:
    """For each image the share of the true caption's phrases (between commas) that the written one has too."""
    pairs = [({*a.split(", ")}, {*b.split(", ")}) for a, b in zip(written, true, strict=True)]
    return [len(a & b) / len(b) for a, b in pairs]


def check_blip(folder: str) -> Path:
    """Raises ParamsError unless the folder holds a whole BLIP captioner with safetensors weights."""
    from transformers import BlipForConditionalGeneration

    path = resolved(folder)
    try:
        kind = json.loads((path / "config.json").read_text()).get("model_type")
    except (OSError, ValueError):
        kind = None
    if kind != "blip" or not list(path.glob("*.safetensors")):
        raise ParamsError(
            f"blackbox.captioner: {path} is no BLIP model with .safetensors weights; get one with"
            f" `hf download Salesforce/blip-image-captioning-base --local-dir {path}`, or set blackbox.captioner to null."
        )
    check_part(BlipForConditionalGeneration, path, "blackbox.captioner")
    return path


def load_blip(folder: Path):
    """(model, tokenizer) of a BLIP folder, without the network."""
    from transformers import AutoTokenizer, BlipForConditionalGeneration

    model = load_part(BlipForConditionalGeneration, folder, "blackbox.captioner")
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _pixels(model, x: Tensor) -> Tensor:
    """As BLIP's own preprocessing: resized, normalised with CLIP's moments."""
    return normalised(x, model.config.vision_config.image_size, *CLIP_MOMENTS)


@torch.no_grad()
def write_captions(model, tokenizer, x: Tensor, batch: int = 16, longest: int = 30) -> list[str]:
    """A caption by BLIP for each image [n, 3, h, w] in [0, 1]; the most likely word at every place."""
    ids = [
        model.generate(pixel_values=_pixels(model, some), max_new_tokens=longest, num_beams=1, do_sample=False) for some in x.split(batch)
    ]
    return [text.strip() for some in ids for text in tokenizer.batch_decode(some, skip_special_tokens=True)]


def tune_blip(model, tokenizer, x: Tensor, captions: list[str], steps: int, lr: float, seed: int, batch: int = 8) -> list[float]:
    """Fine-tune BLIP in place on the attacker's own photographs and captions; returns the loss of every step."""
    ids = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")

    def loss(step: int, draw: torch.Generator) -> Tensor:
        which = torch.randint(len(x), (batch,), generator=draw)
        words, mask = ids.input_ids[which], ids.attention_mask[which]
        labels = words.masked_fill(mask == 0, -100)
        return model(pixel_values=_pixels(model, x[which]), input_ids=words, attention_mask=mask, labels=labels).loss

    model.train().requires_grad_(True)
    losses = train(list(model.parameters()), loss, steps=steps, lr=lr, seed=seed, what="captioner")
    model.eval().requires_grad_(False)
    return losses
