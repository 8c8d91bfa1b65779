from torch import Tensor

from s2llib.attacks.attack import Attack
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.params import Section, Timestep

__all__ = ["ATTACK", "sima"]


class Settings(Section):
    t: Timestep = 100


def sima(denoiser: Denoiser, z0: Tensor, c: Condition, t: int) -> Tensor:
    """Score-norm membership score: the clean latent itself is denoised (Rao et al. 2025, SimA).

    z0: [n, ch, h, w] clean latents; c: a row an image, or one for all.
    Returns [n]; higher means more likely a member. Costs 1 evaluation per image.
    """
    return -denoiser.eps(z0, t, c).flatten(1).norm(dim=1)


ATTACK = Attack("SimA", Settings, sima, cost=lambda s: 1)
