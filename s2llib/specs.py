"""What is computed, said in values: frozen, picklable, and equal exactly where the results are.

A specification holds all that its result depends on; where it is made, `s2llib.artifact` keeps that under its key. A field that does not
compare is a convenience (where a file lies) and no part of the key.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from s2llib.data.domain import Domain, Photos
from s2llib.params import Encoder, Perturbation, PrivateLoRA, Recipe, Section, UnconditionalRecipe

__all__ = [
    "Base", "Blind", "Captioner", "Captions", "Crowd", "Drawn", "Earlier", "Features", "Generated", "ImageSet", "Images", "Inferred",
    "Judge", "Judged", "Learnt", "Mixed", "Model", "NoiseImages", "Noised", "Noted", "OtherWays", "Perturbed", "PrivateTune",
    "RealFeatures", "Replies", "Retrieved", "Sampling", "Scoring", "Search", "Seen", "SelfSupervised", "Soundness", "Tune",
    "Unconditional", "UnconditionalNoise", "UnconditionalTune", "WeightNoise",
]  # fmt: skip


# models


@dataclass(frozen=True)
class Base:
    """A pipeline as it was before this study. content: of its files, or all that its training here depends on; path: None: trained here."""

    content: str
    path: Path | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Tune:
    """A model fine-tuned on images by one of `METHODS`.

    name, instance: what the subject is called, and DreamBooth's fixed prompt; prior: images of the class (DreamBooth's prior preservation);
    decay: of the pull of every trained weight towards where it starts; stops: numbers of steps after which it is kept as well (`Earlier`).
    """

    base: "Model"
    method: str
    recipe: Recipe
    images: "Images"
    name: str
    instance: str
    seed: int
    prior: "Generated | None" = None
    decay: float = 0.0
    stops: tuple[int, ...] = ()


@dataclass(frozen=True)
class Earlier:
    """A fine-tuned model as it was after fewer steps: one of its stops."""

    of: Tune
    steps: int

    @property
    def base(self) -> "Model":
        return self.of.base

    @property
    def method(self) -> str:
        return self.of.method


@dataclass(frozen=True)
class PrivateTune:
    """A LoRA fine-tuned with DP-SGD on images with their captions. epsilon: None for its clipping without noise."""

    base: "Model"
    recipe: PrivateLoRA
    images: "Images"
    epsilon: float | None
    seed: int

    method = "lora"


@dataclass(frozen=True)
class WeightNoise:
    """A model with Gaussian noise on what a method would train; sigma: in standard deviations of each tensor."""

    base: "Model"
    method: str
    recipe: Recipe
    name: str
    instance: str
    sigma: float
    seed: int


# unconditional models


@dataclass(frozen=True)
class Unconditional:
    """A small DDPM on pixels, trained on the members of some people. world: what those depend on, written beside it."""

    people: tuple[Domain, ...]
    how: UnconditionalRecipe
    world: dict
    seed: int


@dataclass(frozen=True)
class UnconditionalTune:
    """An unconditional model, trained further on images."""

    base: "Base | Unconditional"
    images: "NoiseImages | Drawn"
    size: int
    steps: int
    batch: int
    lr: float
    seed: int


@dataclass(frozen=True)
class UnconditionalNoise:
    """An unconditional model with Gaussian noise on its weights; sigma: in standard deviations of each tensor."""

    base: "Base | Unconditional"
    sigma: float
    seed: int


Model: TypeAlias = Base | Tune | Earlier | PrivateTune | WeightNoise | Unconditional | UnconditionalTune | UnconditionalNoise


# sets of images


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. sampler: `own`, the pipeline's scheduler, or `multistep` (DPM-Solver++)."""

    steps: int
    guidance: float
    negative: str = ""
    sampler: str = "own"


@dataclass(frozen=True)
class Generated:
    """An image a prompt, drawn from a model. seed: of the noise; image i's own is (seed, i), whatever the model."""

    model: Model
    prompts: tuple[str, ...]
    sampling: Sampling
    seed: int
    name: str


@dataclass(frozen=True)
class Drawn:
    """Images drawn from an unconditional model; image i's noise is (seed, i)."""

    model: "Base | Unconditional"
    count: int
    steps: int
    seed: int


@dataclass(frozen=True)
class NoiseImages:
    """Images of Gaussian noise, each with the same prompt."""

    count: int
    size: int
    prompt: str
    name: str
    seed: int


@dataclass(frozen=True)
class Perturbed:
    """Images with an adversarial perturbation, found on a surrogate that starts as `model`."""

    images: Generated
    model: Model
    how: Perturbation
    instance: str
    seed: int
    prior: Generated | None = None


@dataclass(frozen=True)
class Noised:
    """Images with Gaussian noise of the size that their perturbed twin's perturbation has."""

    images: Generated
    like: Perturbed
    seed: int


@dataclass(frozen=True)
class Mixed:
    """Clean and perturbed images mixed (MixSyn). mixing: `images` or `pixels`; ratio: the perturbed share; contiguous: in one part."""

    clean: Generated
    perturbed: Perturbed | Noised
    mixing: str
    ratio: float
    contiguous: bool
    seed: int


ImageSet: TypeAlias = Generated | NoiseImages | Perturbed | Noised | Mixed
Images: TypeAlias = ImageSet | Photos


# what is asked of a model


@dataclass(frozen=True)
class Soundness:
    """That a model which somebody else made does what its files say, tried on a few photographs.

    where: how a sentence that names it begins.
    """

    model: Base
    photos: Photos
    prompt: str
    where: str = field(compare=False)


@dataclass(frozen=True)
class Scoring:
    """Membership scores of a domain's photographs.

    settings: {attack: its settings}; prompt: None: each photograph's own caption; shifted: of the shifted sets too; reference: generated
    images to be scored as well, which tell an attacker the scale of a domain's scores.
    """

    model: Model
    domain: Domain
    settings: dict[str, list[Section]]
    prompt: str | None
    shifted: bool = True
    reference: Generated | None = None


@dataclass(frozen=True)
class Blind:
    """Out-of-fold scores of a classifier that never asks a model. captions: it sees them too."""

    domains: tuple[Domain, ...]
    size: int
    folds: int
    captions: bool
    seed: int


@dataclass(frozen=True)
class Search:
    """How near the generated images come to each member and iid non-member of a domain."""

    generated: Generated
    domain: Domain
    size: int
    tiles: int
    delta: float


@dataclass(frozen=True)
class OtherWays:
    """The same search by other rules: tiles, cliques, candidates by the features of a CLIP pair (None: without)."""

    generated: Generated
    domain: Domain
    size: int
    tiles: int
    delta: float
    other_tiles: int
    clique: int
    candidates: int
    judge: "Judge | None"


@dataclass(frozen=True)
class Crowd:
    """How many photographs of all people lie within each delta of each member and iid non-member of a domain."""

    domain: Domain
    people: tuple[Domain, ...]
    size: int
    deltas: tuple[float, ...]
    tiles: int


# how good images are


@dataclass(frozen=True)
class Noted:
    """What was noted while a model was fine-tuned."""

    model: "Tune | PrivateTune | WeightNoise"


@dataclass(frozen=True)
class Judge:
    """A CLIP pair that looks at images.

    content: of its files, or the hub's name and revision; at: where it lies; None: in the base that is trained here.
    """

    content: str
    at: Path | str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RealFeatures:
    """CLIP features of real photographs of everybody, which no part of a model was trained on."""

    people: tuple[Domain, ...]
    judge: Judge
    size: int


@dataclass(frozen=True)
class Judged:
    """What a judge says of each generated image of a person. prompts: the candidates of CLIP-R, one of which is the person's own."""

    generated: Generated
    person: str
    prompts: tuple[str, ...]
    own: str
    real: RealFeatures
    brisque: bool


@dataclass(frozen=True)
class Retrieved:
    """Whether a CLIP pair picks each image's true prompt among candidates (CLIP-R). truth: index into prompts, for each image."""

    images: "Generated | Replies"
    judge: Judge
    prompts: tuple[str, ...]
    truth: tuple[int, ...]
    size: int


# models fine-tuned on private photographs, asked from outside


@dataclass(frozen=True)
class Replies:
    """What a model draws for each of these prompts, asked for the `seed`-th time; an image depends on its prompt and the seed alone."""

    model: Model
    prompts: tuple[str, ...]
    sampling: Sampling
    seed: int


@dataclass(frozen=True)
class Captioner:
    """A BLIP model, fine-tuned on photographs and their captions unless steps is 0. content: of the files at `at`."""

    content: str
    photos: Photos | None
    steps: int
    lr: float
    size: int
    seed: int
    at: Path = field(compare=False)


@dataclass(frozen=True)
class Captions:
    """A caption for each photograph: written by a captioner, or the most similar of `known` ones by a judge's CLIP pair.

    own: a photograph must not find its own caption.
    """

    photos: Photos
    size: int
    writer: "Captioner | Judge"
    known: tuple[str, ...] = ()
    own: bool = False


@dataclass(frozen=True)
class SelfSupervised:
    """A small encoder trained on photographs, or (None) on the world's auxiliary images, which `world` says all about."""

    photos: Photos | None
    world: dict
    how: Encoder
    size: int
    seed: int


@dataclass(frozen=True)
class Features:
    """What an encoder sees in images.

    name: `pixels`, `vae`, `clip`, `selfsupervised` or a kind of encoder; network: whose weights it has.
    """

    name: str
    network: "Base | Judge | SelfSupervised | None" = None


@dataclass(frozen=True)
class Seen:
    """How similar photographs are to what a model drew for their texts: m = len(replies) images each, as features, by a measure.

    form: `vector`, a similarity for each channel, or `scalar`; aggregate: over the m.
    """

    photos: Photos
    texts: tuple[str, ...]
    replies: tuple[Replies, ...]
    features: Features
    measure: str
    form: str
    aggregate: str
    size: int


@dataclass(frozen=True)
class Inferred:
    """Scores of a target's tested photographs by every inference model, fitted on shadow models or (none) on the target's known half.

    most: members and non-members that are known, of the half; networks, hidden, validation: of the classifier.
    """

    target: tuple[Seen, Seen]
    shadows: tuple[tuple[Seen, Seen], ...]
    most: int | None
    networks: int
    hidden: int
    validation: float
    seed: int


@dataclass(frozen=True)
class Learnt:
    """Noise-prediction error of each photograph with its own caption, the same draws for every model."""

    model: Model
    members: Photos
    others: Photos
    setting: Section
