from torch import Tensor

from s2llib.attacks.attack import Attack
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.params import Section, Timestep

__all__ = ["ATTACK", "distance", "pia"]


class Settings(Section):
    t: Timestep = 200


def distance(denoiser: Denoiser, z0: Tensor, e0: Tensor, c: Condition, t: int) -> Tensor:
    """How far the noise seen at timestep t lies from the e0 that was put in: minus the l4 norm to the fourth power, [n]."""
    return -(denoiser.eps(denoiser.join(z0, e0, t), t, c) - e0).abs().pow(4).flatten(1).sum(dim=1)


def pia(denoiser: Denoiser, z0: Tensor, c: Condition, t: int) -> Tensor:
    """Proximal initialisation (Kong et al. 2024, PIA, equation 11 with the l4 norm to the fourth power).

    z0: [n, ch, h, w] clean latents; c: a row an image, or one for all.
    Returns [n]; higher means more likely a member. Costs 2 evaluations per image.
    """
    _, e0 = denoiser.start(z0, c)
    return distance(denoiser, z0, e0, c, t)


ATTACK = Attack("PIA", Settings, pia, cost=lambda s: 2)
