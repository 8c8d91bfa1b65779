"""CLIP retrieval: is an image closest to the prompt it belongs to?"""

from pathlib import Path

import torch
from torch import Tensor

from s2llib.models.encoders import CLIP_MOMENTS, no_weights, normalised
from s2llib.models.finite import finite
from s2llib.models.loading import check_part, load_part
from s2llib.models.tokens import load_tokenizer
from s2llib.params import ParamsError

__all__ = ["check_clip", "image_features", "retrieved"]


def _own(judge: Path | str) -> bool:
    """Whether the judge is a base model's folder with a CLIP pair of its own, for images of its own size and scale."""
    return (Path(judge) / "clip").is_dir()


def check_clip(judge: Path | str) -> None:
    """Raises ParamsError unless a CLIP model's folder is whole, or the hub has one of that name, whose weights are fetched when needed."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    if isinstance(judge, str):
        try:
            CLIPConfig.from_pretrained(judge)
            CLIPTokenizer.from_pretrained(judge)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ParamsError(f"mixsyn.clip: {judge} cannot be downloaded ({reason}); check its name and the network.") from None
    elif reason := no_weights(judge):
        raise ParamsError(f"mixsyn.clip: {reason}.")
    elif not any((judge / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ParamsError(f"mixsyn.clip: {judge} has no tokenizer.json and no vocab.json; copy the model's folder again.")
    else:
        check_part(CLIPModel, judge, "mixsyn.clip")
        load_tokenizer(judge, CLIPConfig.from_pretrained(judge, local_files_only=True).text_config.to_dict(), "mixsyn.clip")


def _clip(judge: Path | str):
    from transformers import CLIPModel

    return load_part(CLIPModel, Path(judge) / "clip", "base.path") if _own(judge) else load_part(CLIPModel, judge, "mixsyn.clip")


def _inputs(judge: Path | str, clip, pixels: Tensor) -> Tensor:
    """Pixels [n, 3, h, w] in [0, 1] as the judge takes them."""
    if _own(judge):
        return pixels * 2 - 1
    return normalised(pixels, clip.config.vision_config.image_size, *CLIP_MOMENTS)


@torch.no_grad()
def retrieved(judge: Path | str, pixels: Tensor, truth: Tensor, prompts: list[str]) -> Tensor:
    """[n] of 1 where an image's true prompt is the most similar of all candidates; the mean is CLIP-R precision.

    judge: a base model's folder with its CLIP pair in `clip/`, or a CLIP model's folder or hub name; pixels: [n, 3, h, w] in [0, 1];
    truth: [n] index into prompts.
    """
    clip = _clip(judge)
    at, key = (Path(judge) / "tokenizer", "base.path") if _own(judge) else (judge, "mixsyn.clip")
    tokenizer = load_tokenizer(at, clip.config.text_config.to_dict(), key)
    ids = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    logits = torch.cat([clip(input_ids=ids, pixel_values=_inputs(judge, clip, x)).logits_per_image for x in pixels.split(256)])
    return (finite(logits, f"Similarities by the CLIP pair of {judge}").argmax(1) == truth).double()


@torch.no_grad()
def image_features(judge: Path | str, pixels: Tensor) -> Tensor:
    """[n, d] image features of pixels [n, 3, h, w] in [0, 1] by the CLIP pair of a judge (`retrieved`)."""
    clip = _clip(judge)
    chunks = [clip.vision_model(pixel_values=_inputs(judge, clip, x)).pooler_output for x in pixels.split(256)]
    return finite(clip.visual_projection(torch.cat(chunks)), f"Features by the CLIP pair of {judge}")
