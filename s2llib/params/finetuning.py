"""Fine-tuning: a recipe for every method, what it is done on, and its defence."""

from typing import Annotated, Literal

from pydantic import Field

from s2llib.params.section import Count, Distinct, Positive, Rate, Section, Share, Some

__all__ = [
    "KNOWLEDGE",
    "Defense",
    "Finetune",
    "Hypernetwork",
    "HypernetworkDreamBooth",
    "LoRA",
    "Recipe",
    "TextualInversion",
    "TextualInversionLoRA",
]


class Recipe(Section):
    """How long and how fast one method trains. schedule: of the rate after the warm-up: `constant`, or falling to 0 along a `cosine`."""

    steps: Positive = 150
    batch: Positive = 8
    lr: Rate = 1e-4
    warmup: Count = 0
    schedule: Literal["constant", "cosine"] = "constant"
    prior_weight: Annotated[float, Field(ge=0)] = 0.0
    prior_images: Positive = 48


class LoRA(Recipe):
    rank: Positive = 8
    alpha: Positive = 32


class TextualInversion(Recipe):
    """extra < 0: without that many of the prompt's first tokens; extra > 0: that many new tokens in front."""

    lr: Rate = 5e-3
    extra: int = 0


class TextualInversionLoRA(LoRA):
    """lr: of the adapters."""

    extra: int = 0
    tokens_lr: Rate = 5e-3


class Hypernetwork(Recipe):
    lr: Rate = 1e-3
    hidden: Positive = 128
    activation: Literal["relu", "silu", "gelu", "tanh", "linear"] = "relu"


class HypernetworkDreamBooth(Recipe):
    """lr: of the UNet and the text encoder."""

    hidden: Positive = 128
    activation: Literal["relu", "silu", "gelu", "tanh", "linear"] = "relu"
    hypernetwork_lr: Rate = 1e-3


KNOWLEDGE = Literal["noise", "weights", "generic", "wrong", "name", "attributes", "public"]


class Defense(Section):
    """What fine-tuning does against leakage (MixSyn): which of the SP images are perturbed, how they are mixed with the clean ones.

    images: `clean`, plain S2L; `adversarial`, perturbed as mixsyn.perturbation says; `gaussian`, noise of the same size. mixing:
    `images`, the share `ratio` of the images is perturbed (Mixup-I); `pixels`, of every image's pixels (Mixup-P), in one part if
    contiguous. decay: of the pull of every trained weight towards the base's. epsilon: of fine-tuning with DP-SGD (LoRA only, with the
    recipe of blackbox.private), which protects each SP image, not the photographs behind the base.
    """

    images: Literal["clean", "adversarial", "gaussian"] = "clean"
    mixing: Literal["images", "pixels"] = "images"
    ratio: Share = 1.0
    contiguous: bool = False
    decay: Annotated[float, Field(ge=0)] = 0.0
    epsilon: Annotated[float, Field(ge=0.1)] | None = None


class Finetune(Section):
    """knowledge: what the attacker fine-tunes on (S2L's prior knowledge); the rest is the grid of cells and each method's recipe.

    noise: Gaussian-noise images; weights: no images, Gaussian noise on the weights (sigma, in standard deviations of each
    tensor); generic: images of "a person"; wrong: SP images of another domain; name: SP images of the domain; attributes: the
    same from prompts with attributes; public: as many as public_images real photographs of the domain that are in no split.
    """

    knowledge: KNOWLEDGE = "name"
    sigma: Rate = 0.02
    public_images: Positive = 8
    attributes: Annotated[list[Annotated[list[str], Some]], Some] = [
        ["smiling", "laughing", "serious", "sad", "surprised"],
        ["in a red shirt", "in a blue jacket", "in a green sweater", "in a white shirt", "in a black jacket", "in an orange sweater"],
        ["plain background", "striped background", "dotted background", "checked background", "cluttered background"],
    ]  # of every group one is drawn
    methods: Annotated[list[str], Some, Distinct] = [
        "dreambooth", "lora", "dreambooth_lora", "textual_inversion", "textual_inversion_lora",
        "hypernetwork", "hypernetwork_dreambooth", "end_to_end",
    ]  # fmt: skip
    seeds: Annotated[list[Count], Some, Distinct] = [0]
    seed_domains: Positive = 10  # seeds after the first are run on this many domains
    fewer_domains: dict[str, Positive] = {}  # {method: on how many domains it is run}, where not on all
    defense: Defense = Defense()
    dreambooth: Recipe = Recipe()
    lora: LoRA = LoRA()
    dreambooth_lora: LoRA = LoRA()
    textual_inversion: TextualInversion = TextualInversion()
    textual_inversion_lora: TextualInversionLoRA = TextualInversionLoRA()
    hypernetwork: Hypernetwork = Hypernetwork()
    hypernetwork_dreambooth: HypernetworkDreamBooth = HypernetworkDreamBooth()
    end_to_end: Recipe = Recipe()
    denoising_network: Recipe = Recipe()
    image_encoder: Recipe = Recipe(lr=5e-6)
    embedding: Recipe = Recipe(lr=5e-3)
