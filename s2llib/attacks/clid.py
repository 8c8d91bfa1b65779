from torch import Tensor

from s2llib.attacks.loss import loss
from s2llib.models.denoiser import Denoiser

__all__ = ["clid"]


def clid(denoiser: Denoiser, z0: Tensor, c: Tensor, timesteps: list[int], draws: int = 1) -> Tensor:
    """Conditional likelihood discrepancy (Zhai et al. 2024): how much the prompt lowers the denoising loss, on the same noise.

    z0: [n, ch, h, w] clean latents; c: [n or 1, tokens, dim] prompt embeddings; without a prompt: those of the empty text.
    Returns [n]; higher means more likely a member. Costs 2 x len(timesteps) x draws UNet evaluations per image.
    """
    nothing = denoiser.prompts([""])
    return loss(denoiser, z0, c, timesteps, draws) - loss(denoiser, z0, nothing, timesteps, draws)
