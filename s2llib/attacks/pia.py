import math

from torch import Tensor

from s2llib.models.denoiser import Denoiser

__all__ = ["pia", "pian"]


def _distance(denoiser: Denoiser, z0: Tensor, e0: Tensor, c: Tensor, t: int) -> Tensor:
    a = denoiser.a[t]
    zt = a.sqrt() * z0 + (1 - a).sqrt() * e0
    return -(denoiser.eps(zt, t, c) - e0).abs().pow(4).flatten(1).sum(dim=1)


def pia(denoiser: Denoiser, z0: Tensor, c: Tensor, t: int) -> Tensor:
    """Proximal initialisation (Kong et al. 2024, PIA, equation 11 with the l4 norm to the fourth power).

    z0: [n, ch, h, w] clean latents; c: [n or 1, tokens, dim] prompt embeddings.
    Returns [n]; higher means more likely a member. Costs 2 UNet evaluations per image.
    """
    return _distance(denoiser, z0, denoiser.eps(z0, 0, c), c, t)


def pian(denoiser: Denoiser, z0: Tensor, c: Tensor, t: int) -> Tensor:
    """PIA with the initial noise scaled to a standard normal's mean magnitude per image (Kong et al. 2024, PIAN).

    Shapes, result and cost as `pia`.
    """
    e0 = denoiser.eps(z0, 0, c)
    magnitude = e0.abs().flatten(1).mean(dim=1).view(-1, 1, 1, 1)
    return _distance(denoiser, z0, e0 / magnitude * math.sqrt(2 / math.pi), c, t)
