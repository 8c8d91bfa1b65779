from torch import Tensor

from s2llib.models.denoiser import Denoiser

__all__ = ["secmi"]


def _step(denoiser: Denoiser, z: Tensor, s: int, t: int, c: Tensor) -> Tensor:
    """One deterministic DDIM step from timestep s to t, in either direction; the predicted x0 is not clipped."""
    a, e = denoiser.a, denoiser.eps(z, s, c)
    x0 = (z - (1 - a[s]).sqrt() * e) / a[s].sqrt()
    return a[t].sqrt() * x0 + (1 - a[t]).sqrt() * e


def secmi(denoiser: Denoiser, z0: Tensor, c: Tensor, k: int, t: int) -> Tensor:
    """t-error of deterministic reverse and denoise steps (Duan et al. 2023, SecMI, equation 9).

    z0: [n, ch, h, w] clean latents; c: [n or 1, tokens, dim] prompt embeddings; t: a multiple of the stride k.
    Returns [n]; higher means more likely a member. Costs t/k + 2 UNet evaluations per image.
    """
    z = z0
    for s in range(0, t, k):
        z = _step(denoiser, z, s, s + k, c)
    back = _step(denoiser, _step(denoiser, z, t, t + k, c), t + k, t, c)
    return -(back - z).square().flatten(1).sum(dim=1)
