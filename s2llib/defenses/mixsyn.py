"""Mixing clean and perturbed images (MixSyn): by image, or by pixel."""

import torch
from torch import Tensor

from s2llib.loop import generator
from s2llib.params import ParamsError

__all__ = ["mix", "mixup_i", "mixup_p", "pixel_mask"]


def _check(clean: Tensor, perturbed: Tensor, ratio: float) -> None:
    if not 0 <= ratio <= 1:
        raise ParamsError(f"ratio is {ratio}; it must be between 0 and 1.")
    if clean.shape != perturbed.shape:
        raise ParamsError(
            f"{len(clean)} clean images of {tuple(clean.shape[1:])} and {len(perturbed)} perturbed ones of"
            f" {tuple(perturbed.shape[1:])} cannot be mixed; perturb the same images."
        )


def mixup_i(clean: Tensor, perturbed: Tensor, ratio: float, seed: int) -> Tensor:
    """Mixup-I: round(ratio x n) of the n images [n, 3, h, w] are the perturbed ones; a larger ratio keeps those of a smaller."""
    _check(clean, perturbed, ratio)
    chosen = torch.randperm(len(clean), generator=generator(seed))[: round(ratio * len(clean))]
    mixed = clean.clone()
    mixed[chosen] = perturbed[chosen]
    return mixed


def mixup_p(clean: Tensor, perturbed: Tensor, ratio: float, seed: int, contiguous: bool = False) -> Tensor:
    """Mixup-P: in every image [n, 3, h, w] round(ratio x h x w) pixels, all channels, are those of the perturbed one."""
    _check(clean, perturbed, ratio)
    h, w = clean.shape[2:]
    masks = [pixel_mask(h, w, round(ratio * h * w), generator(seed, i), contiguous) for i in range(len(clean))]
    return torch.where(torch.stack(masks)[:, None], perturbed, clean)


def pixel_mask(h: int, w: int, count: int, draw: torch.Generator, contiguous: bool = False) -> Tensor:
    """[h, w] of bool with exactly `count` pixels set: any, or those nearest to a drawn one, which hang together."""
    if contiguous:
        centre = torch.randint(h, (1,), generator=draw), torch.randint(w, (1,), generator=draw)
        order = ((torch.arange(h)[:, None] - centre[0]) ** 2 + (torch.arange(w) - centre[1]) ** 2).flatten().argsort(stable=True)
    else:
        order = torch.randperm(h * w, generator=draw)
    mask = torch.zeros(h * w, dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(h, w)


def mix(clean: Tensor, perturbed: Tensor, mixing: str, ratio: float, contiguous: bool, seed: int) -> Tensor:
    """Mixup-I (`images`) or Mixup-P (`pixels`)."""
    if mixing == "images":
        return mixup_i(clean, perturbed, ratio, seed)
    return mixup_p(clean, perturbed, ratio, seed, contiguous)
