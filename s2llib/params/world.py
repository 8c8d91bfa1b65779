"""Whose images there are, the base model, and what it generates."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from s2llib.params.section import Count, Distinct, Positive, Rate, SamplingSteps, Section, Share, Some, multiple_of

__all__ = ["CLIP", "SP", "VAE", "Base", "Template", "UNet", "World"]


def _named(text: str) -> None:
    try:
        if text.format(name="ada") == text:
            raise KeyError
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"a prompt must contain {{name}} and no other braces, unlike {text!r}") from None


class Template(Section):
    """One prompt template and the probability with which it is drawn."""

    text: str
    weight: Rate

    @model_validator(mode="after")
    def _has_name(self):
        _named(self.text)
        return self


class World(Section):
    """Whose images there are, and how many of each kind a domain has.

    folder: images listed in a metadata.jsonl or metadata.csv. folders: instead, {split: a folder of images}, one for `member` and one for
    `nonmember` at least; subfolders are called by their domain, images beside them are of `subject`. data_home: of Olivetti.
    """

    kind: Literal["portraits", "olivetti", "folder"]
    seed: Count = 0
    people: Positive = 40
    bystanders: Count = 0
    domains: Positive | Annotated[list[str], Some, Distinct] = 40
    members: Annotated[int, Field(ge=2)] = 40
    nonmembers: Annotated[int, Field(ge=2)] = 32
    shifted: Count = 32
    duplicated: Share = 0.2
    copies: list[Annotated[int, Field(ge=2)]] = [2, 4, 8]
    folder: str | None = None
    folders: dict[str, str] = {}
    subject: str = "person"
    data_home: str | None = None
    instance: str = "photo of {name}"
    condition: str = "a photo of {name}"

    @model_validator(mode="after")
    def _consistent(self):
        if self.kind == "folder" and not self.folder and not self.folders:
            raise ValueError("kind is 'folder' but `folder` names no image folder")
        if self.folder and self.folders:
            raise ValueError("give `folder` or `folders`, not both")
        if self.folders and not {"member", "nonmember"} <= set(self.folders):
            raise ValueError(f"folders names {', '.join(self.folders)}; it must name a folder for member and one for nonmember")
        if isinstance(self.domains, int) and self.kind == "portraits" and self.domains > self.people:
            raise ValueError(f"domains is {self.domains} but only {self.people} people are in the training set")
        if self.kind == "portraits" and self.people + self.bystanders > 1600:
            raise ValueError("people + bystanders must be at most 1600: names run out")
        if self.kind == "portraits" and self.members - round(self.duplicated * self.members) < 2:
            raise ValueError("duplicated leaves fewer than 2 single-copy members; lower it or raise members")
        if self.duplicated and not self.copies:
            raise ValueError("duplicated is above 0 but copies is empty; say how often duplicated members occur, such as [2, 4, 8]")
        _named(self.instance)
        _named(self.condition)
        return self


class VAE(Section):
    """precision: of its training; bfloat16 takes half the time where the processor computes it, and far longer where it does not."""

    channels: Annotated[list[Positive], Field(min_length=3, max_length=3)] = [32, 64, 64]
    steps: Positive = 4500
    batch: Positive = 8
    lr: Rate = 1e-3
    kl: Annotated[float, Field(ge=0)] = 1e-4
    precision: Literal["float32", "bfloat16"] = "float32"


class CLIP(Section):
    width: Annotated[int, Field(ge=4, multiple_of=4)] = 128
    text_layers: Positive = 2
    image_width: Annotated[int, Field(ge=4, multiple_of=4)] = 128
    image_layers: Positive = 3
    patch: Positive = 8
    steps: Positive = 600
    batch: Annotated[int, Field(ge=2)] = 128
    lr: Rate = 1e-3


class UNet(Section):
    """people: the UNet trains on the first that many people's members; None: on everybody's."""

    people: Positive | None = None
    channels: Annotated[list[Positive], Field(min_length=2), multiple_of(16)] = [48, 96, 128]
    layers: Positive = 1
    epochs: Positive = 40
    batch: Positive = 32
    lr: Rate = 1e-3
    full_caption: Share = 0.5
    empty_prompt: Share = 0.1

    @model_validator(mode="after")
    def _shares(self):
        if self.full_caption + self.empty_prompt > 1:
            raise ValueError("full_caption + empty_prompt must be at most 1")
        return self


class Base(Section):
    """The model under attack: a diffusers folder (`path`), a hub model (`hub`), or one trained here.

    lora: a LoRA's file or folder, fused into that folder's or hub model's weights at lora_scale before anything is computed.
    """

    path: str | None = None
    hub: str | None = None
    lora: str | None = None
    lora_scale: Annotated[float, Field(gt=0, le=10)] = 1.0
    auxiliary: Positive = 100
    vae: VAE = VAE()
    clip: CLIP = CLIP()
    unet: UNet = UNet()

    @model_validator(mode="after")
    def _one_source(self):
        if self.path and self.hub:
            raise ValueError("give `path` or `hub`, not both")
        if self.lora and not (self.path or self.hub):
            raise ValueError("lora is given but no base that it was trained on; set base.path or base.hub as well")
        if self.lora_scale != 1 and not self.lora:
            raise ValueError("lora_scale is given but no LoRA; set base.lora as well, or leave it out")
        return self


class SP(Section):
    """The self-generated private-domain images (S2L, section 4.1).

    sampler: of every image that is drawn: `own`, the model's scheduler, or `multistep`: DPM-Solver++, which needs half the steps.
    """

    images: Positive = 48
    steps: SamplingSteps = 25
    sampler: Literal["own", "multistep"] = "own"
    guidance: Annotated[float, Field(ge=0)] = 3.0
    templates: Annotated[list[Template], Some] = [Template(text="photo of {name}", weight=0.7), Template(text="face of {name}", weight=0.3)]
    suffix: str = ""
    negative: str = ""
    batch: Positive = 64
