from typing import Annotated

import torch
from torch import Tensor

from s2llib.attacks.attack import Attack
from s2llib.loop import generator
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.params import Distinct, Positive, Section, Some, Timestep

__all__ = ["ATTACK", "Settings", "at_one_timestep", "loss"]


class Settings(Section):
    timesteps: Annotated[list[Timestep], Some, Distinct] = [50, 100, 200, 300, 400]
    draws: Positive = 1


def at_one_timestep(setting: Settings, t: int) -> Settings:
    """The same at timestep t alone."""
    return setting.model_copy(update={"timesteps": [t]})


def loss(denoiser: Denoiser, z0: Tensor, c: Condition, timesteps: list[int], draws: int = 1) -> Tensor:
    """Denoising-loss threshold (Hu & Pang 2023; Matsumoto et al. 2023), with the same noise for every image.

    z0: [n, ch, h, w] clean latents; c: a row an image, or one for all.
    Returns [n]; higher means more likely a member. Costs len(timesteps) x draws evaluations per image.
    """
    errors = []
    for t in timesteps:
        for draw in range(draws):
            noise = torch.randn(z0[:1].shape, generator=generator(t, draw)).to(z0)
            errors.append((denoiser.eps(denoiser.join(z0, noise, t), t, c) - noise).square().flatten(1).mean(dim=1))
    return -torch.stack(errors).mean(dim=0)


ATTACK = Attack("loss", Settings, loss, cost=lambda s: len(s.timesteps) * s.draws, last=lambda s: max(s.timesteps), sweep=at_one_timestep)
