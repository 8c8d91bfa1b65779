"""Studies of what leakage depends on, and the audit."""

from typing import Annotated

from pydantic import Field, model_validator

from s2llib.params.defending import SETTING
from s2llib.params.finetuning import KNOWLEDGE, Recipe
from s2llib.params.section import Axis, Count, Distinct, Positive, Rate, SamplingSteps, Section, Some, Timestep, Two, multiple_of

__all__ = ["Ablations", "Audit", "Priors", "UnconditionalRecipe", "ZeroPrior"]


class Priors(Section):
    """Prior knowledge and domain transfer (S2L), on the first `domains` domains.

    public: how many of the world's other people (the last ones) are public, or their names; transfer: how the base model is
    fine-tuned on public_images real photographs of each, before the private domain's SP set is drawn.
    """

    method: str = "dreambooth"
    domains: Positive = 10
    levels: Annotated[list[KNOWLEDGE], Two, Distinct] = ["noise", "weights", "generic", "wrong", "name", "attributes", "public"]
    public: Positive | Annotated[list[str], Some, Distinct] = 8
    public_images: Positive = 16
    transfer: Recipe = Recipe(steps=300, batch=16)


class UnconditionalRecipe(Section):
    """How a small unconditional model is trained."""

    size: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    channels: Annotated[list[Positive], Field(min_length=2), multiple_of(16)] = [32, 64, 64]
    epochs: Positive = 150
    batch: Positive = 32
    lr: Rate = 1e-3


class ZeroPrior(UnconditionalRecipe):
    """No prior knowledge, on an unconditional model (S2L): its folder, or how it is trained, on the first `people` people, who are
    also those attacked; how it is shaken; timesteps.

    sigmas: of the noise on the weights, in standard deviations of each tensor; images, steps, tune_batch, tune_lr: of
    fine-tuning on noise images and on its own samples, drawn in `sampling` steps.
    """

    path: str | None = None
    people: Positive = 10
    seeds: Annotated[list[Count], Some, Distinct] = [0, 1]
    sigmas: Annotated[list[Rate], Some, Distinct] = [0.005, 0.01, 0.02]
    images: Positive = 256
    sampling: SamplingSteps = 50
    steps: Positive = 150
    tune_batch: Positive = 16
    tune_lr: Rate = 1e-4
    t: Timestep = 100
    secmi: dict[str, int] = {"k": 10, "t": 50}


class Ablations(Section):
    """Values of each ablation (S2L, Figure 2 and the table on model scale), on the first `domains` domains, iid.

    scale: folders of base models, from the smallest to the largest; none: no such comparison.
    """

    domains: Positive = 10
    rank: Annotated[list[Positive], Two, Axis] = [1, 2, 4, 8, 16, 32, 64]
    extra: Annotated[list[int], Two, Axis] = [-2, -1, 0, 2, 4, 8]
    images: Annotated[list[Positive], Two, Axis] = [12, 48, 192]
    steps: Annotated[list[Positive], Two, Axis] = [50, 150, 450]
    scale: Annotated[list[str], Distinct] = []

    @model_validator(mode="after")
    def _two_models(self):
        if len(self.scale) == 1:
            raise ValueError("scale must name at least 2 base models, or none")
        return self


class Audit(Section):
    """Were suspected images in a model's training set? The verdict is that of one attack, named here before it is run.

    level: of its one-sided permutation test of membership within domains; permutations: how many. method, defense: what the model is
    shaken and defended with, on the first `domains` domains. trials: seeded audits of a model whose members are known, each of
    trial_images suspected images and as many non-members of trial_domains people. stranger: what to override for the base model of another
    world, such as {seed: 7, world.seed: 77}, which is trained here and never saw the images; null: non-members are suspected instead.
    """

    attack: str = "sima"
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    permutations: Annotated[int, Field(ge=999)] = 9999
    method: str = "dreambooth"
    defense: SETTING = "mixup_i"
    domains: Positive = 10
    trials: Positive = 10
    trial_domains: Positive = 16
    trial_images: Positive = 256
    stranger: dict[str, int] | None = None

    @model_validator(mode="after")
    def _whole(self):
        if self.trial_images % self.trial_domains:
            raise ValueError(f"trial_images is {self.trial_images}; it must be a multiple of trial_domains ({self.trial_domains})")
        if self.level * (self.permutations + 1) < 1:
            raise ValueError(f"{self.permutations} permutations cannot reach a level of {self.level:g}; raise permutations or level")
        return self
