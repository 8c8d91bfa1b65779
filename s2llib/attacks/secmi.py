from pydantic import model_validator
from torch import Tensor

from s2llib.attacks.attack import Attack
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.params import Positive, Section

__all__ = ["ATTACK", "secmi"]


class Settings(Section):
    k: Positive = 10
    t: Positive = 140

    @model_validator(mode="after")
    def _whole_steps(self):
        if self.t % self.k:
            raise ValueError(f"k is {self.k} and t is {self.t}; t must be a multiple of k")
        if self.t + self.k > 999:
            raise ValueError("t + k must be at most 999")
        return self


def _step(denoiser: Denoiser, z: Tensor, s: int, t: int, c: Condition) -> Tensor:
    """One deterministic DDIM step from timestep s to t, in either direction; the predicted x0 is not clipped."""
    return denoiser.join(*denoiser.split(z, s, c), t)


def _error(denoiser: Denoiser, z: Tensor, k: int, t: int, c: Condition) -> Tensor:
    """How far a step up and back down again leads from z at timestep t."""
    back = _step(denoiser, _step(denoiser, z, t, t + k, c), t + k, t, c)
    return -(back - z).square().flatten(1).sum(dim=1)


def secmi(denoiser: Denoiser, z0: Tensor, c: Condition, k: int, t: int) -> Tensor:
    """t-error of deterministic reverse and denoise steps (Duan et al. 2023, SecMI, equation 9).

    z0: [n, ch, h, w] clean latents; c: a row an image, or one for all; t: a multiple of the stride k.
    Returns [n]; higher means more likely a member. Costs t/k + 2 evaluations per image.
    """
    z = denoiser.join(*denoiser.start(z0, c), k)
    for s in range(k, t, k):
        z = _step(denoiser, z, s, s + k, c)
    return _error(denoiser, z, k, t, c)


def several(denoiser: Denoiser, z0: Tensor, c: Condition, settings: list[Settings]) -> list[Tensor]:
    """`secmi` at many t along one way up for every stride."""
    found = {}
    for k in {each.k for each in settings}:
        z, wanted = denoiser.join(*denoiser.start(z0, c), k), {each.t for each in settings if each.k == k}
        for t in range(k, max(wanted) + 1, k):
            if t in wanted:
                found[k, t] = _error(denoiser, z, k, t, c)
            if t < max(wanted):
                z = _step(denoiser, z, t, t + k, c)
    return [found[each.k, each.t] for each in settings]


ATTACK = Attack("SecMI", Settings, secmi, cost=lambda s: s.t // s.k + 2, last=lambda s: s.t + s.k, several=several)
