"""Membership inference and extraction."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from s2llib.params.section import Distinct, Positive, Rate, Section, Some, Timestep

__all__ = ["Attacks", "Extraction", "Sweep"]


class Sweep(Section):
    """Attack score against its timestep, iid, before and after: a figure, and how t is calibrated.

    A further key is an attack's name, with a list of its settings in place of the timesteps.
    """

    model_config = ConfigDict(extra="allow")

    timesteps: Annotated[list[Timestep], Some, Distinct] = [50, 100, 200, 300, 400]
    secmi: Annotated[list[dict[str, int]], Some, Distinct] = [{"k": 10, "t": t} for t in (20, 40, 60, 80, 100, 140)]
    methods: Annotated[list[str], Some, Distinct] = ["dreambooth"]
    domains: Positive = 4


class Attacks(Section):
    """names: of `s2llib.attacks`; a further key is an attack's name, with its settings (the defaults stand in its file).

    clid costs twice what loss does and is in no reported table; add it to names to run it.
    """

    model_config = ConfigDict(extra="allow")

    names: Annotated[list[str], Some, Distinct] = ["secmi", "pia", "pian", "loss", "sima"]
    caption: bool = False
    batch: Positive = 128
    sweep: Sweep = Sweep()


class Extraction(Section):
    """(k, l2, delta)-eidetic memorisation; deltas and ks: the axes of S2L's Figure 4.

    base: the folder of the base model that is attacked, trained on the first `people` people, of whom the first `domains` are
    attacked; None: the profile's own, and all its domains. prompts: `sp`, images SP prompts for each model; `captions`, every
    photograph's own caption, draws times; guidance: of these images, None: sp.guidance. The rest are other ways to look for
    a match, on option_domains domains.
    """

    base: str | None = None
    people: Positive = 10
    domains: Positive = 10
    prompts: Literal["sp", "captions"] = "sp"
    images: Positive = 96
    draws: Positive = 2
    guidance: Annotated[float, Field(ge=0)] | None = None
    k: Positive = 10
    delta: Rate = 0.1
    deltas: Annotated[list[Rate], Some, Distinct] = [0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2]
    ks: Annotated[list[Positive], Some, Distinct] = [1, 2, 5, 10, 20, 50]
    tiles: Positive = 1
    option_domains: Positive = 10
    candidates: Positive = 8
    other_tiles: Annotated[int, Field(ge=2)] = 4
    clique: Annotated[int, Field(ge=2)] = 3

    @model_validator(mode="after")
    def _on_the_axes(self):
        if self.delta not in self.deltas or self.k not in self.ks:
            raise ValueError(f"deltas must hold delta ({self.delta}) and ks must hold k ({self.k})")
        if self.prompts == "captions" and self.clique > self.draws:
            raise ValueError(
                f"clique is {self.clique} and draws is {self.draws}: no caption could have so many images that agree; raise draws"
            )
        return self
