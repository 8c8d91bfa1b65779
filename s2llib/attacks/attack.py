"""What a membership attack is: one object in one file of this folder."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.models.finite import finite
from s2llib.params import Section

__all__ = ["Attack"]


@dataclass(frozen=True)
class Attack:
    """score(denoiser, z0 [n, ch, h, w], c, **setting) -> [n], higher: more likely a member.

    settings: what it is asked with, and the defaults; cost: evaluations of the network per image at a setting; last: the latest timestep
    that it asks at; sweep: its setting at a timestep, from the one that the profile has; several: the scores of many settings, where that
    costs less than one after another; prompted: it needs a prompt.
    """

    title: str
    settings: type[Section]
    score: Callable[..., Tensor]
    cost: Callable[[Section], int]
    last: Callable[[Section], int] = lambda setting: setting.t
    sweep: Callable[[Section, int], Section] = lambda setting, t: setting.model_copy(update={"t": t})
    several: Callable[[Denoiser, Tensor, Condition, list[Section]], list[Tensor]] | None = None
    prompted: bool = False

    def scores(self, denoiser: Denoiser, z0: Tensor, c: Condition, settings: list[Section]) -> list[Tensor]:
        """The scores [n] at each of these settings; raises ParamsError if one is no number."""
        if self.several:
            found = self.several(denoiser, z0, c, settings)
        else:
            found = [self.score(denoiser, z0, c, **setting.model_dump()) for setting in settings]
        named = (f"Scores of {self.title} at {setting.model_dump()}" for setting in settings)
        return [finite(each, name, denoiser.pipeline) for each, name in zip(found, named, strict=True)]
