from dataclasses import replace

from torch import Tensor

from s2llib.attacks.loss import ATTACK as PLAIN
from s2llib.attacks.loss import loss
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser

__all__ = ["ATTACK", "clid"]


def clid(denoiser: Denoiser, z0: Tensor, c: Condition, timesteps: list[int], draws: int = 1) -> Tensor:
    """Conditional likelihood discrepancy (Zhai et al. 2024): how much the prompt lowers the denoising loss, on the same noise.

    z0: [n, ch, h, w] clean latents; c: a row an image, or one for all; without a prompt: that of the empty text.
    Returns [n]; higher means more likely a member. Costs 2 x len(timesteps) x draws evaluations per image.
    """
    nothing = denoiser.prompts([""])
    return loss(denoiser, z0, c, timesteps, draws) - loss(denoiser, z0, nothing, timesteps, draws)


ATTACK = replace(PLAIN, title="CLiD", score=clid, cost=lambda s: 2 * PLAIN.cost(s), prompted=True)
