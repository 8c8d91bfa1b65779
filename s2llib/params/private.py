"""The black-box attack on models that were fine-tuned on private photographs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from s2llib.params.finetuning import LoRA
from s2llib.params.section import Axis, Count, Distinct, Positive, Rate, SamplingSteps, Section, Some, Two

__all__ = ["BlackBox", "Encoder", "Overfitted", "PrivateLoRA"]


class PrivateLoRA(LoRA):
    """Fine-tuning with DP-SGD. clip: norm to which each photograph's gradient is cut; draws: (noise, timestep) draws that are averaged
    into one photograph's gradient before that; share: of the photographs in a step, each drawn by itself; delta: of the guarantee.
    batch and warmup have no meaning here."""

    steps: Positive = 150
    lr: Rate = 1e-3
    rank: Positive = 4
    alpha: Positive = 4
    clip: Rate = 0.01
    draws: Positive = 1
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-3


class PrivateStudy(PrivateLoRA):
    """What is asked of DP-SGD: at each of these epsilons. looks: noise draws per timestep with which what was learnt is measured."""

    looks: Positive = 4
    epsilons: Annotated[list[Annotated[float, Field(ge=0.1)]], Some, Distinct] = [10000.0, 1000.0, 100.0, 10.0, 1.0]


class Overfitted(Section):
    """The control model that is to leak: the first few members, trained on for too long."""

    members: Annotated[int, Field(ge=4, multiple_of=2)] = 40
    steps: Positive = 2000


class Encoder(Section):
    """The self-supervised encoder, trained on auxiliary photographs (SimCLR)."""

    images: Annotated[int, Field(ge=2)] = 2000
    steps: Positive = 300
    batch: Annotated[int, Field(ge=2)] = 64
    lr: Rate = 1e-3
    channels: Positive = 32


class BlackBox(Section):
    """Black-box membership inference (Pang & Wang 2025) against models fine-tuned on private photographs.

    folder: an image folder whose photographs are dealt into the sets; None: the world's own that no UNet saw. members: photographs in
    a fine-tuning set, half of them known to the attacker of Attack-I and II; targets, shadows: models of either kind (two are trained on
    each other's non-members); study_targets: of those that are asked more or made anew (steps, queries, wording, DP-SGD). queries: m,
    generations per query; budget: generated images a target may be asked for. encoder: pixels, vae, clip, selfsupervised, or a key of
    encoder_folders ({name: folder of a transformers vision model}). form: `vector`, one similarity per channel of the features
    (threshold: the mean of the standardised vector), or `scalar`. captioner: folder of a BLIP model; None: the most similar caption of
    auxiliary photographs by the base's CLIP. epochs: fine-tuning steps of Figure 4; sizes: of the fine-tuning set, at equal epochs.
    """

    folder: str | None = None
    members: Annotated[int, Field(ge=4, multiple_of=2)] = 80
    targets: Annotated[int, Field(ge=1, le=2)] = 2
    shadows: Annotated[int, Field(ge=1, le=2)] = 2
    tune: LoRA = LoRA(steps=1500, batch=16, lr=1e-3, rank=32, alpha=32)
    queries: Positive = 3
    budget: Positive = 1000
    steps: SamplingSteps = 30
    guidance: Annotated[float, Field(ge=0)] = 7.5
    batch: Positive = 80
    encoder: str = "vae"
    encoders: Annotated[list[str], Some, Distinct] = ["pixels", "vae", "clip", "selfsupervised"]
    encoder_folders: dict[str, str] = {}
    measure: Literal["cosine", "l1", "l2", "hamming"] = "cosine"
    form: Literal["vector", "scalar"] = "vector"
    aggregate: Literal["mean", "max", "median"] = "mean"
    captioner: str | None = None
    captioner_steps: Count = 0
    captioner_lr: Rate = 1e-5
    networks: Positive = 5
    hidden: Positive = 32
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.25
    epochs: Annotated[list[Positive], Two, Axis] = [375, 750, 1500, 3000]
    sizes: Annotated[list[Annotated[int, Field(ge=4, multiple_of=2)]], Two, Axis] = [40, 80]
    sampling: Annotated[list[SamplingSteps], Two, Axis] = [30, 50, 100, 200]
    repeats: Annotated[list[Positive], Two, Axis] = [1, 2, 3, 6]
    wordings: Annotated[dict[str, str], Some] = {
        "another opening": "a picture of {name}{rest}",
        "no opening": "{name}{rest}",
        "the name alone": "a photo of {name}",
    }  # {title: how a caption "a photo of NAME, and so on" is asked for instead}
    overfitted: Overfitted = Overfitted()
    selfsupervised: Encoder = Encoder()
    private: PrivateStudy = PrivateStudy()
    study_targets: Annotated[int, Field(ge=1, le=2)] = 1

    @model_validator(mode="after")
    def _consistent(self):
        images = 2 * self.members * self.queries * 2  # members and non-members, own captions and those that the attacker writes
        if images > self.budget:
            raise ValueError(
                f"budget is {self.budget} but {2 * self.members} photographs with 2 captions each and {self.queries} generations for each"
                f" need {images}; raise budget, or lower queries or members"
            )
        for title, text in self.wordings.items():
            try:
                if text.format(name="ada", rest="") == text.format(name="bela", rest=""):
                    raise KeyError
            except (KeyError, IndexError, ValueError):
                raise ValueError(f"wordings '{title}' is {text!r}; it must contain {{name}} and no other braces but {{rest}}") from None
        smallest = min([self.members, self.overfitted.members, *self.sizes])
        if round(self.validation * smallest) < 2 or smallest - round(self.validation * smallest) < 4:
            raise ValueError(
                f"the classifier is fitted on {smallest} photographs of the smallest set and stopped on {round(self.validation * smallest)}"
                " of them; it needs at least 4 and 2: raise members, overfitted.members and sizes, or change validation"
            )
        if max(self.sizes) > self.members or self.overfitted.members > self.members:
            raise ValueError(f"sizes and overfitted.members must be at most members ({self.members})")
        if self.study_targets > self.targets:
            raise ValueError(f"study_targets is {self.study_targets}; it must be at most targets ({self.targets})")
        builtin = ("pixels", "vae", "clip", "selfsupervised")
        for name in (self.encoder, *self.encoders):
            if name not in builtin and name not in self.encoder_folders:
                known = ", ".join((*builtin, *self.encoder_folders))
                raise ValueError(f"unknown encoder '{name}'; known: {known}; name its folder in encoder_folders")
        return self
