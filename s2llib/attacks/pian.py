import math

from torch import Tensor

from s2llib.attacks.attack import Attack
from s2llib.attacks.pia import Settings, distance
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser

__all__ = ["ATTACK", "pian"]


def pian(denoiser: Denoiser, z0: Tensor, c: Condition, t: int) -> Tensor:
    """PIA with the initial noise scaled to a standard normal's mean magnitude per image (Kong et al. 2024, PIAN).

    Shapes, result and cost as `pia`.
    """
    _, e0 = denoiser.start(z0, c)
    magnitude = e0.abs().flatten(1).mean(dim=1).view(-1, 1, 1, 1)
    return distance(denoiser, z0, e0 / magnitude * math.sqrt(2 / math.pi), c, t)


ATTACK = Attack("PIAN", Settings, pian, cost=lambda s: 2)
