from torch import Tensor

from s2llib.models.denoiser import Denoiser

__all__ = ["sima"]


def sima(denoiser: Denoiser, z0: Tensor, c: Tensor, t: int) -> Tensor:
    """Score-norm membership score: the clean latent itself is denoised (Rao et al. 2025, SimA).

    z0: [n, ch, h, w] clean latents; c: [n or 1, tokens, dim] prompt embeddings.
    Returns [n]; higher means more likely a member. Costs 1 UNet evaluation per image.
    """
    return -denoiser.eps(z0, t, c).flatten(1).norm(dim=1)
