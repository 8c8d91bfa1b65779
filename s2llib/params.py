"""Typed parameters: a profile file becomes one frozen object, or one sentence that says what is wrong.

`params/NAME.yaml` may start from another profile (`extends: lab`) and change some of its keys.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["Params", "ParamsError", "load_params", "profiles", "resolved"]

PARAMS_DIR = Path(__file__).resolve().parent.parent / "params"

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Timestep = Annotated[int, Field(ge=0, le=999)]


class ParamsError(ValueError):
    """A parameter that cannot be used; the message names the key and what is allowed."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _named(text: str) -> None:
    try:
        if text.format(name="ada") == text:
            raise KeyError
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"a prompt must contain {{name}} and no other braces, unlike {text!r}") from None


def _distinct(values: list) -> list:
    if len(set(map(str, values))) < len(values):
        raise ValueError("its entries must differ")
    return values


def _multiple_of(number: int):
    def check(values: list[int]) -> list[int]:
        if any(value % number for value in values):
            raise ValueError(f"every entry must be a multiple of {number}")
        return values

    return AfterValidator(check)


Distinct = AfterValidator(_distinct)
Some = Field(min_length=1)


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

    folder: images listed in a metadata.jsonl. folders: instead, {split: a folder of images}, one for `member` and one for `nonmember` at
    least; subfolders are called by their domain, images beside them are of `subject`.
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
    channels: Annotated[list[Positive], Field(min_length=3, max_length=3)] = [32, 64, 64]
    steps: Positive = 4500
    batch: Positive = 8
    lr: Rate = 1e-3
    kl: Annotated[float, Field(ge=0)] = 1e-4


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
    channels: Annotated[list[Positive], Field(min_length=2), _multiple_of(16)] = [48, 96, 128]
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
    """The model under attack: a diffusers folder (`path`), a hub model (`hub`), or one trained here."""

    path: str | None = None
    hub: str | None = None
    auxiliary: Positive = 100
    vae: VAE = VAE()
    clip: CLIP = CLIP()
    unet: UNet = UNet()

    @model_validator(mode="after")
    def _one_source(self):
        if self.path and self.hub:
            raise ValueError("give `path` or `hub`, not both")
        return self


class SP(Section):
    """The self-generated private-domain images (S2L, section 4.1)."""

    images: Positive = 48
    steps: Positive = 25
    guidance: Annotated[float, Field(ge=0)] = 3.0
    templates: Annotated[list[Template], Some] = [Template(text="photo of {name}", weight=0.7), Template(text="face of {name}", weight=0.3)]
    suffix: str = ""
    negative: str = ""
    batch: Positive = 64


class Recipe(Section):
    """How long and how fast one method trains."""

    steps: Positive = 150
    batch: Positive = 8
    lr: Rate = 1e-4
    warmup: Count = 0
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
ATTACK = Literal["secmi", "pia", "pian", "loss", "sima"]


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


class SecMI(Section):
    k: Positive = 10
    t: Positive = 140

    @model_validator(mode="after")
    def _whole_steps(self):
        if self.t % self.k:
            raise ValueError(f"k is {self.k} and t is {self.t}; t must be a multiple of k")
        if self.t + self.k > 999:
            raise ValueError("t + k must be at most 999")
        return self


class AtTimestep(Section):
    t: Timestep = 100


class Loss(Section):
    timesteps: Annotated[list[Timestep], Some, Distinct] = [50, 100, 200, 300, 400]
    draws: Positive = 1


class Sweep(Section):
    """Attack score against its timestep, iid, before and after: a figure, and how t is calibrated."""

    timesteps: Annotated[list[Timestep], Some, Distinct] = [50, 100, 200, 300, 400]
    secmi: Annotated[list[SecMI], Some, Distinct] = [SecMI(k=10, t=t) for t in (20, 40, 60, 80, 100, 140)]
    methods: Annotated[list[str], Some, Distinct] = ["dreambooth"]
    domains: Positive = 4


class Attacks(Section):
    names: Annotated[list[ATTACK], Some, Distinct] = ["secmi", "pia", "pian", "loss", "sima"]
    caption: bool = False
    batch: Positive = 128
    secmi: SecMI = SecMI()
    pia: AtTimestep = AtTimestep(t=200)
    pian: AtTimestep = AtTimestep(t=200)
    sima: AtTimestep = AtTimestep(t=100)
    loss: Loss = Loss()
    sweep: Sweep = Sweep()


def _rising(values: list) -> list:
    if values != sorted(set(values)):
        raise ValueError("its entries must rise")
    return values


Axis = AfterValidator(_rising)
Two = Field(min_length=2)


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


class ZeroPrior(Section):
    """No prior knowledge, on an unconditional model (S2L): its folder, or how it is trained, on the first `people` people, who are
    also those attacked; how it is shaken; timesteps.

    sigmas: of the noise on the weights, in standard deviations of each tensor; images, steps, tune_batch, tune_lr: of
    fine-tuning on noise images and on its own samples, drawn in `sampling` steps.
    """

    path: str | None = None
    size: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    channels: Annotated[list[Positive], Field(min_length=2), _multiple_of(16)] = [32, 64, 64]
    people: Positive = 10
    epochs: Positive = 150
    batch: Positive = 32
    lr: Rate = 1e-3
    seeds: Annotated[list[Count], Some, Distinct] = [0, 1]
    sigmas: Annotated[list[Rate], Some, Distinct] = [0.005, 0.01, 0.02]
    images: Positive = 256
    sampling: Positive = 50
    steps: Positive = 150
    tune_batch: Positive = 16
    tune_lr: Rate = 1e-4
    t: Timestep = 100
    secmi: SecMI = SecMI(k=10, t=50)


class PrivateLoRA(LoRA):
    """Fine-tuning with DP-SGD. clip: norm to which each photograph's gradient is cut; draws: (noise, timestep) draws that are averaged
    into one photograph's gradient before that; share: of the photographs in a step, each drawn by itself; delta: of the guarantee;
    looks: noise draws per timestep with which what was learnt is measured. batch and warmup have no meaning here."""

    steps: Positive = 150
    lr: Rate = 1e-3
    rank: Positive = 4
    alpha: Positive = 4
    clip: Rate = 0.01
    draws: Positive = 1
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-3
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
    steps: Positive = 30
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
    sampling: Annotated[list[Positive], Two, Axis] = [30, 50, 100, 200]
    repeats: Annotated[list[Positive], Two, Axis] = [1, 2, 3, 6]
    wordings: Annotated[dict[str, str], Some] = {
        "another opening": "a picture of {name}{rest}",
        "no opening": "{name}{rest}",
        "the name alone": "a photo of {name}",
    }  # {title: how a caption "a photo of NAME, and so on" is asked for instead}
    overfitted: Overfitted = Overfitted()
    selfsupervised: Encoder = Encoder()
    private: PrivateLoRA = PrivateLoRA()
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


class Surrogate(Section):
    """The model whose loss the perturbation raises, and how it trains between the rounds; rank, alpha: of its adapters, if it is `lora`.

    clean_steps: of each round's copy on the clean images; perturbed_steps: of the surrogate itself on the perturbed ones.
    """

    kind: Literal["full", "lora"] = "full"
    clean_steps: Count = 3
    perturbed_steps: Count = 3
    batch: Positive = 8
    lr: Rate = 1e-4
    rank: Positive = 8
    alpha: Positive = 32
    prior_weight: Annotated[float, Field(ge=0)] = 0.0
    prior_images: Positive = 48


class Perturbation(Section):
    """Adversarial perturbation of the SP images (Anti-DreamBooth): rounds x steps of gradient ascent on the denoising loss.

    radius, step: on pixels in [-1, 1]; of an l2 ball, in l2 norm of a whole image. draws: of noise and timestep in each step;
    group: images at a time.
    """

    algorithm: Literal["aspl", "fsmg"] = "aspl"
    norm: Literal["linf", "l2"] = "linf"
    radius: Annotated[float, Field(ge=0)] = 0.06
    step: Rate = 0.01
    rounds: Count = 5
    steps: Positive = 4
    draws: Positive = 1
    group: Positive = 16
    surrogate: Surrogate = Surrogate()

    @model_validator(mode="after")
    def _a_ball(self):
        if self.radius == 0 and self.rounds > 0:
            raise ValueError(f"radius is 0 and rounds is {self.rounds}: nothing can be perturbed; raise radius, or set rounds to 0")
        return self


SETTING = Literal["full", "mixup_i", "mixup_p"]


class MixSyn(Section):
    """MixSyn's tables, on the first `domains` domains: perturbation, ratios, attacks, the methods of Tables 1 to 4 and parts of Table 5.

    ratios: of the figure; judged: the defences that the adaptive attacker and extraction turn to, with judged_method; calibration:
    how many further domains the adaptive attacker chooses on; decay, epsilon: of the baselines; quality_images: generated by every
    model. clip: folder or hub name of the judging CLIP pair; None: the base model's own.
    """

    domains: Positive = 10
    methods: Annotated[list[str], Some, Distinct] = ["dreambooth", "textual_inversion", "lora", "dreambooth_lora"]
    parts: Annotated[list[str], Some, Distinct] = ["dreambooth", "denoising_network", "image_encoder", "embedding"]
    attacks: Annotated[list[ATTACK], Some, Distinct] = ["secmi", "pia"]
    perturbation: Perturbation = Perturbation()
    mixup_i: Share = 0.5
    mixup_p: Share = 0.3
    mixup_parts: Share = 0.3
    contiguous: bool = False
    ratios: Annotated[list[Share], Two, Axis] = [0, 0.1, 0.3, 0.5, 0.7, 1]
    decay: Rate = 0.01
    epsilon: Annotated[float, Field(ge=0.1)] = 100.0
    judged: Annotated[list[SETTING], Some, Distinct] = ["full", "mixup_i", "mixup_p"]
    judged_method: str = "dreambooth"
    calibration: Positive = 3
    extraction_domains: Positive = 10
    quality_images: Annotated[int, Field(ge=2)] = 16
    clip: str | None = None


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
    trial_images suspected images and as many non-members of trial_domains people.
    """

    attack: ATTACK = "sima"
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    permutations: Annotated[int, Field(ge=999)] = 9999
    method: str = "dreambooth"
    defense: SETTING = "mixup_i"
    domains: Positive = 10
    trials: Positive = 10
    trial_domains: Positive = 16
    trial_images: Positive = 256

    @model_validator(mode="after")
    def _whole(self):
        if self.trial_images % self.trial_domains:
            raise ValueError(f"trial_images is {self.trial_images}; it must be a multiple of trial_domains ({self.trial_domains})")
        if self.level * (self.permutations + 1) < 1:
            raise ValueError(f"{self.permutations} permutations cannot reach a level of {self.level:g}; raise permutations or level")
        return self


class Hardware(Section):
    """How the machine is used. What is not the default here enters the key of what it rounds otherwise.

    precision: of the UNet in generation, fine-tuning and perturbation (automatic mixed precision: weights, adapters and AdamW's state
    stay float32); attacks are always in float32, which SecMI needs. checkpointing: of gradients, less memory for more time. attention:
    torch's backend, where it can be used, else its plain one; `auto`: torch chooses. optimizer: `adamw8bit` is that of bitsandbytes.
    offload: models that are asked wait in the computer's memory, part by part, and not in the GPU's. workers: processes of
    `--executor local`; None: one for each GPU, else for each core.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    attention: Literal["auto", "flash", "efficient", "math"] = "auto"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    offload: bool = False
    workers: Positive | None = None


class Statistics(Section):
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    blind_folds: Annotated[int, Field(ge=2)] = 5


class Params(Section):
    profile: str
    seed: Count = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    retrain_base: bool = False
    world: World
    base: Base = Base()
    sp: SP = SP()
    finetune: Finetune = Finetune()
    attacks: Attacks = Attacks()
    extraction: Extraction = Extraction()
    priors: Priors = Priors()
    zero_prior: ZeroPrior = ZeroPrior()
    blackbox: BlackBox = BlackBox()
    mixsyn: MixSyn = MixSyn()
    ablations: Ablations = Ablations()
    statistics: Statistics = Statistics()
    audit: Audit = Audit()
    hardware: Hardware = Hardware()

    def changed(self, overrides: dict) -> "Params":
        """These parameters with others in place of some, such as {"sp.images": 96}; raises ParamsError."""
        raw = self.model_dump()
        for key, value in overrides.items():
            raw = _merged(raw, _nested(key, value))
        try:
            return Params.model_validate(raw)
        except ValidationError as error:
            raise ParamsError(_sentence(f"params/{self.profile}.yaml", error)) from None

    @property
    def trains_base(self) -> bool:
        """Whether the base model is trained here, not read from a folder."""
        return self.retrain_base or not (self.base.path or self.base.hub)


def resolved(path: str) -> Path:
    """A file or folder of a profile; a relative one that is not below the working directory is below the repository."""
    given, root = Path(os.path.expanduser(path)), PARAMS_DIR.parent
    return given if given.is_absolute() or given.exists() else root / given


def profiles() -> list[str]:
    return sorted(path.stem for path in PARAMS_DIR.glob("*.yaml"))


def _read(profile: str) -> dict:
    path = PARAMS_DIR / f"{profile}.yaml"
    if not path.is_file():
        raise ParamsError(f"Unknown profile '{profile}': there is no {path.name} in params/; known: {', '.join(profiles())}.")
    try:
        own = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ParamsError(f"params/{path.name} is not YAML: {' '.join(str(error).split())}") from None
    parent = own.pop("extends", None)
    return _merged(_read(parent), own) if parent else own


def _merged(old: dict, new: dict) -> dict:
    both = {
        key: _merged(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value for key, value in new.items()
    }
    return {**old, **both}


def _nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _sentence(source: str, error: ValidationError) -> str:
    """The first complaint of pydantic as one sentence: file, key, value, what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the whole"
    where = f"{source}: {key}"
    if first["type"] == "extra_forbidden":
        section: type[BaseModel] | None = Params
        for part in first["loc"][:-1]:
            field = section.model_fields.get(str(part)) if section else None
            kind = field.annotation if field else None
            section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        known = f"; known here: {', '.join(section.model_fields)}" if section else ""
        return f"{where} is not a known key{known}."
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    value = first.get("input")
    shown = f" is {value!r}" if isinstance(value, (str, int, float, bool, list)) else ""
    return f"{where}{shown}; {message}."


def load_params(profile: str | None = None, overrides: dict | None = None) -> Params:
    """The parameters of a profile, `$S2L_PROFILE` or `lab` by default, with overrides such as {"sp.images": 96}.

    Raises ParamsError with the key's name and what is allowed.
    """
    profile = profile or os.environ.get("S2L_PROFILE") or "lab"
    raw = _read(profile)
    for key, value in (overrides or {}).items():
        if key in ("base.path", "base.hub") and value:  # one names the model, so the profile's other one does not
            raw = _merged(raw, {"base": {"path": None, "hub": None}})
        if key == "world.folder" and value:  # nor its folders
            raw = raw | {"world": raw.get("world", {}) | {"folders": {}}}
        raw = _merged(raw, _nested(key, value))
    try:
        return Params.model_validate({**raw, "profile": profile})
    except ValidationError as error:
        raise ParamsError(_sentence(f"params/{profile}.yaml", error)) from None
