"""What an attacker with more or less prior knowledge fine-tunes on (Shake-to-Leak, the study of prior knowledge)."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from s2llib.data.domain import Domain
from s2llib.finetune.methods import Method
from s2llib.finetune.parts import PARTS
from s2llib.loop import generator
from s2llib.params import Recipe

__all__ = ["ANYBODY", "LEVELS", "NAMELESS", "add_noise", "alias", "noise_images", "perturb"]

ANYBODY = "a person"
# level: title, from the least knowledge to the most
LEVELS = {
    "noise": "no prior: noise images",
    "weights": "no prior: noise on weights",
    "generic": "a person",
    "wrong": "a wrong name",
    "name": "the name",
    "attributes": "name and attributes",
    "public": "public photographs",
}
NAMELESS = ("noise", "weights", "generic", "wrong")


def alias(domain: Domain, level: str, others: list[str]) -> Domain:
    """The domain as the attacker calls it: by its name, by another domain's (the next in `others`), or "a person"."""
    if level not in NAMELESS:
        return domain
    wrong = others[(others.index(domain.name) + 1) % len(others)]
    return replace(domain, name=wrong if level == "wrong" else ANYBODY)


def noise_images(count: int, size: int, seed: int) -> np.ndarray:
    """Images of Gaussian noise, mean 0.5, standard deviation 0.25: [count, size, size, 3] uint8."""
    drawn = torch.randn(count, size, size, 3, generator=generator(seed, 0)) * 0.25 + 0.5
    return (drawn.clamp(0, 1) * 255).round().byte().numpy()


@torch.no_grad()
def add_noise(parameters: list[Tensor], sigma: float, seed: int) -> None:
    """Add Gaussian noise to each tensor in place: of sigma times the standard deviation of its values."""
    for i, p in enumerate(parameters):
        p.add_(torch.randn(p.shape, generator=generator(seed, i)).to(p), alpha=sigma * p.std(correction=0).item())


def perturb(pipeline, how: Method, recipe: Recipe, domain: Domain, sigma: float, seed: int) -> int:
    """Add noise to what a method would train, in place; returns how many parameters that is."""
    parameters = [p for part in how.trains for p in PARTS[part](pipeline, recipe, domain.name, domain.instance_prompt)]
    add_noise(parameters, sigma, seed)
    for p in parameters:
        p.requires_grad_(False)
    return sum(p.numel() for p in parameters)
