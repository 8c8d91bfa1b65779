"""From a profile's parameters to specifications: the models of the three papers, what they are trained on, what they are asked.

Nothing here computes: each function says what is to be computed, in `s2llib.specs`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from s2llib.attacks import configured
from s2llib.compute.models import asked, image_size
from s2llib.data.domain import MEMBER, NONMEMBER, Domain, Photos
from s2llib.data.reading import check_prompts
from s2llib.data.worlds import check_used_captions, domain_names, public_photos
from s2llib.finetune.knowledge import alias
from s2llib.finetune.methods import METHODS, PRETRAINED, TRAININGS
from s2llib.finetune.methods import method as named
from s2llib.finetune.recipe import check_captions
from s2llib.finetune.textual_inversion import check_tokens
from s2llib.generate import draw_prompts
from s2llib.lab import Lab, refuses
from s2llib.models.base import base_tokenizer, check_base, check_world
from s2llib.params import Defense, ParamsError, PrivateLoRA, Recipe, Section
from s2llib.specs import (
    Crowd,
    Earlier,
    Generated,
    Images,
    Mixed,
    Model,
    Noised,
    NoiseImages,
    Perturbed,
    PrivateTune,
    Sampling,
    Scoring,
    Search,
    Tune,
    WeightNoise,
)  # fmt: skip
from s2llib.store import number
from s2llib.studies.prompts import asked_prompts, caption_key

__all__ = [
    "after_steps",
    "attack_settings",
    "cells",
    "check_asked",
    "check_other",
    "crowd",
    "domains_of",
    "fine_tuning_set",
    "generations",
    "perturbed_set",
    "private_recipe",
    "recipe",
    "samples",
    "scoring",
    "search",
    "sp_set",
    "tuned",
]  # fmt: skip

PRIOR_PROMPT = "a photo of a person"


# what cannot run

CAPTION = "a photo of {name}"  # how captions begin in worlds that are made here


@refuses
def check(lab: Lab) -> None:
    """Methods that there are, and prompts that Textual Inversion can learn: raises ParamsError."""
    p = lab.params
    for key, names in (
        ("finetune.methods", p.finetune.methods),
        ("finetune.fewer_domains", p.finetune.fewer_domains),
        ("attacks.sweep.methods", p.attacks.sweep.methods),
        ("audit.method", [p.audit.method]),
    ):
        for name in names:
            named(name, key)
    if p.world.kind == "folder" and (key := caption_key(p)):
        check_used_captions(p.world, key)
    _check_prompts(lab)
    check_asked(lab, [*p.finetune.methods, *p.attacks.sweep.methods, p.audit.method])
    if p.extraction.prompts == "captions":
        check_asked(lab, p.finetune.methods, "extraction.prompts")


def _check_prompts(lab: Lab) -> None:
    """Textual Inversion: its number of tokens fits the prompts, and every attack's prompt holds the instance prompt."""
    p = lab.params
    used = {"textual_inversion"} | {name for name in p.finetune.methods if "tokens" in METHODS[name].trains}  # the ablation always
    if p.world.instance not in p.world.condition:
        raise ParamsError(
            f"world.condition ('{p.world.condition}') must hold world.instance ('{p.world.instance}'): Textual Inversion learns a token"
            " in its place; change one of them."
        )
    extras = {f"finetune.{name}.extra": [recipe(lab, name).extra] for name in sorted(used)} | {"ablations.extra": p.ablations.extra}
    tokenizer = base_tokenizer(p)
    check_prompts(tokenizer, tokenizer.model_max_length, asked_prompts(p))
    for key, values in extras.items():
        for extra in {min(values), max(values)}:
            for name in domain_names(p.world):
                try:
                    check_tokens(tokenizer, name, p.world.instance.format(name=name), extra)
                except ParamsError as error:
                    raise ParamsError(f"{key}: {error}") from None


def check_asked(lab: Lab, methods: list[str], key: str = "attacks.caption") -> None:
    """Raises ParamsError if one of these methods learns a token in place of an instance prompt that a caption lacks.

    key: what asks for captions.
    """
    world, learning = lab.params.world, [METHODS[name] for name in methods if "tokens" in METHODS[name].trains]
    if not learning or not (lab.params.attacks.caption or key != "attacks.caption"):
        return
    if world.kind == "folder":
        for domain in lab.domains:
            check_captions(learning[0], domain, key)
    elif world.instance not in CAPTION:
        raise ParamsError(
            f"{key}: captions of this world begin with '{CAPTION}', without world.instance ('{world.instance}'), in whose place"
            f" {learning[0].title} learns a token; change it, or do without one of the two."
        )


def check_other(lab: Lab, overrides: dict, key: str, none: str) -> None:
    """Another base model is there and knows this world; raises ParamsError that names the key, and what it is without such a model."""
    other = lab.params.changed(overrides)
    try:
        check_base(other)
        check_world(other, f"set {key}={none}")
    except ParamsError as error:
        raise ParamsError(f"{key}: {error}") from None


# the grid


def domains_of(lab: Lab, method: str) -> list[Domain]:
    """The domains that a method is run on."""
    return lab.domains[: lab.params.finetune.fewer_domains.get(method)]


def cells(lab: Lab, methods: list[str] | None = None, domains: list[Domain] | None = None) -> Iterator[tuple[Domain, str, int]]:
    """(domain, method, seed) of the grid; the pre-trained model has one seed, and so have domains after the first few."""
    p = lab.params.finetune
    seeded = {domain.name for domain in lab.domains[: p.seed_domains]}
    for domain in lab.domains if domains is None else domains:
        for method in [PRETRAINED, *p.methods] if methods is None else methods:
            if method == PRETRAINED:
                yield domain, method, 0
            elif domain.name in {each.name for each in domains_of(lab, method)}:
                yield from ((domain, method, seed) for seed in (p.seeds if domain.name in seeded else p.seeds[:1]))


def recipe(lab: Lab, method: str) -> Recipe:
    """The fine-tuning parameters of a method."""
    return getattr(lab.params.finetune, method)


# what models are trained on


def sampling(lab: Lab, guidance: float | None = None) -> Sampling:
    """How images are drawn; guidance: None: as SP images are."""
    p = lab.params.sp
    return Sampling(p.steps, p.guidance if guidance is None else guidance, p.negative, p.sampler)


def sp_set(lab: Lab, domain: Domain, base: Model | None = None, attributes: tuple[list[str], ...] = ()) -> Generated:
    """The images that the base model generates of a domain, each with the prompt it is drawn from (S2L, section 4.1)."""
    p, seed = lab.params, lab.params.seed
    prompts = draw_prompts(domain.name, p.sp.images, p.sp, number(f"prompts/{domain.name}") + seed, attributes)
    return Generated(base or lab.base, tuple(prompts), sampling(lab), number(f"sp/{domain.name}") + seed, domain.name)


def prior_set(lab: Lab, p: Recipe, base: Model | None = None) -> Generated | None:
    """Images of the class, for DreamBooth's prior preservation."""
    if p.prior_weight == 0:
        return None
    prompts = (PRIOR_PROMPT,) * p.prior_images
    return Generated(base or lab.base, prompts, sampling(lab), number("prior") + lab.params.seed, "a person")


def known_as(lab: Lab, domain: Domain, knowledge: str) -> Domain:
    """The domain as an attacker of this knowledge calls it; a wrong name is that of somebody the model was trained on."""
    return alias(domain, knowledge, lab.names[: lab.params.base.unet.people])


def tuning_set(lab: Lab, domain: Domain, knowledge: str, base: Model | None = None) -> Images:
    """What an attacker of this knowledge fine-tunes on, each image with its prompt."""
    p, known = lab.params, known_as(lab, domain, knowledge)
    if knowledge == "noise":
        size = image_size(lab, base or lab.base)
        return NoiseImages(p.sp.images, size, known.instance_prompt, known.name, number("noise images") + p.seed)
    if knowledge == "public":
        photos = public_photos(p.world, domain.name, p.finetune.public_images, lab.store)
        return Photos(photos.paths, (known.instance_prompt,) * len(photos), photos.copies)
    return sp_set(lab, known, base, tuple(p.finetune.attributes) if knowledge == "attributes" else ())


def perturbed_set(lab: Lab, domain: Domain, images: str = "adversarial", base: Model | None = None) -> Perturbed | Noised:
    """The SP set with every image perturbed: adversarially, or (`gaussian`) by Gaussian noise of the same size."""
    p, base = lab.params, base or lab.base
    how, clean = p.mixsyn.perturbation, sp_set(lab, domain, base)
    prior = prior_set(lab, how.surrogate, base) if how.algorithm == "aspl" else None
    seed = number(f"perturbation/{domain.name}") + p.seed
    adversarial = Perturbed(clean, base, how, domain.instance_prompt, seed, prior)
    if images == "gaussian":
        return Noised(clean, adversarial, number(f"gaussian/{domain.name}") + p.seed)
    return adversarial


def fine_tuning_set(lab: Lab, domain: Domain, knowledge: str, defense: Defense, base: Model | None = None) -> Images:
    """What a model is fine-tuned on: the attacker's images, or a defender's mix of them with perturbed ones (at ratio 0 it is none)."""
    if defense.images == "clean" or defense.ratio == 0:
        return tuning_set(lab, domain, knowledge, base)
    perturbed = perturbed_set(lab, domain, defense.images, base)
    whole = defense.ratio == 1  # however it is mixed
    mixing, contiguous = "images" if whole else defense.mixing, defense.contiguous and defense.mixing == "pixels" and not whole
    seed = number(f"mix/{domain.name}") + lab.params.seed
    return Mixed(perturbed.images, perturbed, mixing, defense.ratio, contiguous, seed)


# models


def tuned(
    lab: Lab, domain: Domain, method: str, seed: int | None = None, base: Model | None = None, knowledge: str | None = None,
    defense: Defense | None = None,
) -> Model:  # fmt: skip
    """The model of a cell. seed: None: the first of the profile; knowledge, defense: None: the profile's."""
    p, base = lab.params, base or lab.base
    if method == PRETRAINED:
        return base
    seed, knowledge, defense = (
        p.finetune.seeds[0] if seed is None else seed,
        knowledge or p.finetune.knowledge,
        defense or p.finetune.defense,
    )
    how, known = recipe(lab, method), known_as(lab, domain, knowledge)
    stream = number(f"{domain.name}/{method}/{p.seed}/{seed}")
    if knowledge == "weights":
        return WeightNoise(base, method, how, known.name, known.instance_prompt, p.finetune.sigma, stream)
    images = fine_tuning_set(lab, domain, knowledge, defense, base)
    if defense.epsilon:
        return PrivateTune(base, private_recipe(lab), images, defense.epsilon, stream)
    return Tune(base, method, how, images, known.name, known.instance_prompt, stream, prior_set(lab, how, base), defense.decay)


def after_steps(model: Tune, steps: Iterable[int]) -> dict[int, Model]:
    """The model after each of these numbers of steps, all of one run; of a cosine, whose rates depend on its length, of a run each."""
    longest = max(steps)
    lasting = lambda n: replace(model, recipe=model.recipe.model_copy(update={"steps": n}))  # noqa: E731
    if model.recipe.schedule == "cosine":
        return {n: lasting(n) for n in steps}
    run = replace(lasting(longest), stops=tuple(sorted({*steps} - {longest})))
    return {n: run if n == longest else Earlier(run, n) for n in steps}


def private_recipe(lab: Lab) -> PrivateLoRA:
    """The recipe of DP-SGD, without what is only asked about it."""
    return PrivateLoRA(**lab.params.blackbox.private.model_dump(include=set(PrivateLoRA.model_fields)))


# what models are asked


def attack_settings(lab: Lab) -> dict[str, list[Section]]:
    """The calibrated setting of each attack of the profile."""
    return {name: [setting] for name, setting in configured(lab.params).items()}


def scoring(lab: Lab, domain: Domain, model: Model, settings: dict[str, list[Section]] | None = None, shifted: bool = True) -> Scoring:
    """The membership scores of one model; beside the shifted sets, those of the base model's SP images too."""
    prompt = None if lab.params.attacks.caption else domain.condition_prompt
    return Scoring(model, domain, settings or attack_settings(lab), prompt, shifted, sp_set(lab, domain) if shifted else None)


def samples(lab: Lab, domain: Domain, model: Model, images: int = 8) -> Generated:
    """What a model draws for the domain's instance prompt; the same noise for every model."""
    prompts = (asked(model, domain, domain.instance_prompt),) * images
    return Generated(model, prompts, sampling(lab), number(f"samples/{domain.name}") + lab.params.seed, domain.name)


def generations(lab: Lab, domain: Domain, model: Model) -> Generated:
    """What a model generates, to find photographs in: the same prompts and noise for every model.

    extraction.prompts `sp`: SP prompts; `captions`: the caption of every member and of every iid non-member, `draws` times, so
    that the two are looked for in the same images. Textual Inversion's token stands for the instance prompt as a whole: where an
    SP prompt lacks that, its models are asked for the instance prompt itself.
    """
    p = lab.params.extraction
    if p.prompts == "captions":
        prompts = [text for split in (MEMBER, NONMEMBER) for text in domain.splits[split].captions] * p.draws
    else:
        prompts = draw_prompts(domain.name, p.images, lab.params.sp, number(f"extraction/{domain.name}") + lab.params.seed)
        if isinstance(model, Tune) and "tokens" in TRAININGS[model.method].trains:
            prompts = [text if domain.instance_prompt in text else domain.instance_prompt for text in prompts]
    prompts = tuple(asked(model, domain, text) for text in prompts)
    return Generated(model, prompts, sampling(lab, p.guidance), number(f"extraction/{domain.name}") + lab.params.seed, domain.name)


def search(lab: Lab, domain: Domain, model: Model) -> Search:
    """How near a model's generations come to a domain's photographs."""
    p = lab.params.extraction
    return Search(generations(lab, domain, model), domain, image_size(lab, model), p.tiles, p.delta)


def crowd(lab: Lab, domain: Domain, tiles: int | None = None) -> Crowd:
    """How crowded it is around each of a domain's photographs; the same for every model."""
    p = lab.params.extraction
    return Crowd(domain, tuple(lab.everyone), image_size(lab, lab.base), tuple(p.deltas), tiles or p.tiles)
