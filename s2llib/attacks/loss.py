import torch
from torch import Tensor

from s2llib.loop import generator
from s2llib.models.denoiser import Denoiser

__all__ = ["loss"]


def loss(denoiser: Denoiser, z0: Tensor, c: Tensor, timesteps: list[int], draws: int = 1) -> Tensor:
    """Denoising-loss threshold (Hu & Pang 2023; Matsumoto et al. 2023), with the same noise for every image.

    z0: [n, ch, h, w] clean latents; c: [n or 1, tokens, dim] prompt embeddings.
    Returns [n]; higher means more likely a member. Costs len(timesteps) x draws UNet evaluations per image.
    """
    errors = []
    for t in timesteps:
        for draw in range(draws):
            noise = torch.randn(z0[:1].shape, generator=generator(t, draw)).to(z0)
            a = denoiser.a[t]
            zt = a.sqrt() * z0 + (1 - a).sqrt() * noise
            errors.append((denoiser.eps(zt, t, c) - noise).square().flatten(1).mean(dim=1))
    return -torch.stack(errors).mean(dim=0)
