"""CLIP retrieval: is an image closest to the prompt it belongs to?"""

from pathlib import Path

import torch
from torch import Tensor

__all__ = ["image_features", "retrieved"]


@torch.no_grad()
def retrieved(folder: Path, pixels: Tensor, truth: Tensor, prompts: list[str]) -> Tensor:
    """[n] of 1 where an image's true prompt is the most similar of all candidates; the mean is CLIP-R precision.

    folder: a base model with its CLIP pair in `clip/`; pixels: [n, 3, h, w] in [0, 1]; truth: [n] index into prompts.
    """
    from transformers import CLIPModel, CLIPTokenizer

    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    length = clip.config.text_config.max_position_embeddings
    ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
    chosen = [clip(input_ids=ids, pixel_values=x * 2 - 1).logits_per_image.argmax(1) for x in pixels.split(256)]
    return (torch.cat(chosen) == truth).double()


@torch.no_grad()
def image_features(folder: Path, pixels: Tensor) -> Tensor:
    """[n, d] image features of pixels [n, 3, h, w] in [0, 1] by the CLIP pair of a base model."""
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    chunks = [clip.vision_model(pixel_values=x * 2 - 1).pooler_output for x in pixels.split(256)]
    return clip.visual_projection(torch.cat(chunks))
