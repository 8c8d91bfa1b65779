"""What the attacker knows beforehand, and fine-tuning on public domains first (S2L)."""

from collections.abc import Iterator

import pandas as pd

from s2llib.compute.images import photos
from s2llib.data.domain import PUBLIC, Domain, Photos
from s2llib.data.folders import check_images
from s2llib.data.worlds import domain_names, public_photos, read_world
from s2llib.finetune.knowledge import LEVELS, NAMELESS
from s2llib.finetune.methods import BASE_WEIGHTS, METHODS, PRETRAINED
from s2llib.lab import Lab, refuses
from s2llib.params import ParamsError
from s2llib.specs import Model, Tune
from s2llib.store import file_digest, number
from s2llib.studies.ablations import with_trainable
from s2llib.studies.cells import Cell, collected
from s2llib.studies.extraction import searched
from s2llib.studies.plan import scoring, search, tuned, tuning_set

__all__ = [
    "check", "check_public", "knowledge", "knowledge_extraction", "no_transfer", "prior_domains", "prior_levels", "prior_sets", "transfer",
    "transfer_extraction",
]  # fmt: skip

PLAIN, PUBLIC_ALONE, PUBLIC_FIRST = TRANSFER = ("S2L", "public photographs alone", "public photographs, then S2L")


@refuses
def check(lab: Lab) -> None:
    """Refuse what cannot run: raises ParamsError."""
    p = lab.params
    tokens = [name for name in p.finetune.methods if "tokens" in METHODS[name].trains]
    if p.finetune.knowledge in NAMELESS and tokens:
        raise ParamsError(
            f"finetune.knowledge is '{p.finetune.knowledge}' but {tokens[0]} learns a token in place of the domain's name, which that"
            " attacker does not know; leave it out of finetune.methods."
        )
    if p.finetune.knowledge == "wrong" and _nobody_else(lab):
        raise ParamsError(
            "finetune.knowledge is 'wrong' but there is one person alone, and no other's name; add people, or set it to name."
        )
    if p.finetune.knowledge == "public" and (reason := lacking(lab, domain_names(p.world), p.finetune.public_images)):
        raise ParamsError(reason)
    if p.finetune.knowledge == "weights" and (others := set(p.finetune.methods) - set(BASE_WEIGHTS)):
        raise ParamsError(
            f"finetune.knowledge is 'weights' but {min(others)} adds parameters instead of training the model's own; leave in"
            f" finetune.methods only {', '.join(BASE_WEIGHTS)}."
        )
    if p.priors.method not in BASE_WEIGHTS:
        raise ParamsError(f"priors.method is '{p.priors.method}'; it must be one of {', '.join(BASE_WEIGHTS)}.")
    if isinstance(p.priors.public, list):
        public_names(lab)
    if p.attacks.names == ["clid"]:
        raise ParamsError("attacks.names holds clid alone, which an unconditional model cannot be asked; add another attack.")
    for key, recipe in (("priors.transfer", p.priors.transfer), ("blackbox.tune", p.blackbox.tune)):
        if recipe.prior_weight:
            raise ParamsError(f"{key}.prior_weight is {recipe.prior_weight:g}, but there are no prior images here; set it to 0.")
    if p.world.kind == "folder":
        check_public(lab)


def check_public(lab: Lab) -> None:
    """Raises ParamsError if a public photograph of a folder cannot be read, or is a member or a non-member of another domain."""
    found = {name: {PUBLIC: splits[PUBLIC]} for name, splits in read_world(lab.params.world).items() if PUBLIC in splits}
    check_images(found)
    attacked = {file_digest(path): path for d in lab.domains for split, some in d.splits.items() if split != PUBLIC for path in some.paths}
    for path in (path for splits in found.values() for path in splits[PUBLIC].paths):
        if other := attacked.get(file_digest(path)):
            raise ParamsError(f"Prior knowledge: the public photograph {path} is the same image as {other}; remove one of them.")


# who is private, who is public


def prior_domains(lab: Lab) -> list[Domain]:
    """The private domains of these studies."""
    return lab.domains[: lab.params.priors.domains]


def _nobody_else(lab: Lab) -> bool:
    """Whether the model was trained on one person alone, so that no name is another's."""
    return len(lab.names[: lab.params.base.unet.people]) < 2


def public_names(lab: Lab) -> list[str]:
    """The people whose photographs are public; raises ParamsError if one is unknown or private, or if there are too few."""
    p, known = lab.params.priors, lab.names
    private = domain_names(lab.params.world)[: p.domains]
    if isinstance(p.public, int):
        others = [name for name in known if name not in private]
        if len(others) < p.public:
            raise ParamsError(
                f"priors.public is {p.public} but only {len(others)} of the world's {len(known)} people are not private; lower it or"
                " priors.domains."
            )
        return others[len(others) - p.public :]
    for name in p.public:
        if name not in known:
            raise ParamsError(f"priors.public: unknown domain '{name}'; known: {', '.join(known)}.")
        if name in private:
            raise ParamsError(f"priors.public: '{name}' is also one of the private domains; leave it out, or lower priors.domains.")
    return p.public


def lacking(lab: Lab, names: list[str], count: int) -> str:
    """Why there are not so many public photographs of each of these people; empty if there are."""
    if lab.params.world.kind == "portraits":  # which are drawn as many as are asked for
        return ""
    try:
        for name in names:
            public_photos(lab.params.world, name, count, lab.store)
    except ParamsError as error:
        return str(error)
    return ""


def prior_levels(lab: Lab) -> list[str]:
    """The levels of prior knowledge that this world has photographs and names for."""
    names, count = [domain.name for domain in prior_domains(lab)], lab.params.finetune.public_images
    without = {"public": lacking(lab, names, count), "wrong": _nobody_else(lab)}
    return [level for level in lab.params.priors.levels if not without.get(level)]


def no_transfer(lab: Lab) -> str:
    """Why there can be no study of domain transfer in this world; empty if there can."""
    try:
        return lacking(lab, public_names(lab), lab.params.priors.public_images)
    except ParamsError as error:
        return str(error)


# prior knowledge


def prior_sets(lab: Lab, domain: Domain) -> dict[str, Photos]:
    """{level: what it fine-tunes on}, for a look; noise on the weights has no images."""
    return {LEVELS[level]: photos(lab, tuning_set(lab, domain, level)) for level in prior_levels(lab) if level != "weights"}


def _models(lab: Lab) -> Iterator[tuple[str, Domain, Model]]:
    """(level's title, domain, model fine-tuned with it)."""
    for level in prior_levels(lab):
        for domain in prior_domains(lab):
            yield LEVELS[level], domain, tuned(lab, domain, lab.params.priors.method, knowledge=level)


def knowledge_cells(lab: Lab) -> Iterator[Cell]:
    """iid scores before and after fine-tuning with every level of prior knowledge."""
    seed, method = lab.params.finetune.seeds[0], lab.params.priors.method
    for title, domain, model in _models(lab):
        labels = {"domain": domain.name, "value": title}
        yield scoring(lab, domain, lab.base, shifted=False), labels | {"method": PRETRAINED, "seed": 0}
        yield scoring(lab, domain, model, shifted=False), labels | {"method": method, "seed": seed}


def knowledge(lab: Lab) -> pd.DataFrame:
    """iid membership scores before and after fine-tuning with every level of prior knowledge; columns as `ablation`."""
    cells = list(knowledge_cells(lab))
    return with_trainable(lab, collected(lab, cells, "prior knowledge"), cells)


def _before(lab: Lab) -> Iterator[Cell]:
    for domain in prior_domains(lab):
        yield search(lab, domain, lab.base), {"domain": domain.name, "method": PRETRAINED, "seed": 0}


def knowledge_searches(lab: Lab) -> Iterator[Cell]:
    """The pre-trained model and those of every level of prior knowledge, searched for photographs."""
    yield from _before(lab)
    for title, domain, model in _models(lab):
        yield search(lab, domain, model), {"domain": domain.name, "method": title, "seed": lab.params.finetune.seeds[0]}


def knowledge_extraction(lab: Lab) -> pd.DataFrame:
    """Columns as `extracted`; method: the level of prior knowledge."""
    return searched(lab, knowledge_searches(lab))


# domain transfer


def public_model(lab: Lab) -> Tune:
    """The base model, its UNet and text encoder fine-tuned on photographs of the public domains, each with its instance prompt."""
    p, prompt = lab.params.priors, lab.params.world.instance.format
    found = {name: public_photos(lab.params.world, name, p.public_images, lab.store) for name in public_names(lab)}
    every = Photos.join(Photos(some.paths, (prompt(name=name),) * len(some), some.copies) for name, some in found.items())
    return Tune(lab.base, "public", p.transfer, every, "the public domains", "", number(f"public/{lab.params.seed}"))


def _transfers(lab: Lab, domain: Domain) -> dict[str, Model]:
    """{title: what is compared with the pre-trained model}."""
    public, method = public_model(lab), lab.params.priors.method
    return {PLAIN: tuned(lab, domain, method), PUBLIC_ALONE: public, PUBLIC_FIRST: tuned(lab, domain, method, base=public)}


def transfer_cells(lab: Lab) -> Iterator[Cell]:
    """iid scores before and after S2L, fine-tuning on public photographs, and both."""
    for domain in prior_domains(lab):
        for title, model in _transfers(lab, domain).items():
            labels = {"domain": domain.name, "value": title, "seed": 0}
            yield scoring(lab, domain, lab.base, shifted=False), labels | {"method": PRETRAINED}
            yield scoring(lab, domain, model, shifted=False), labels | {"method": title}


def transfer(lab: Lab) -> pd.DataFrame:
    """iid membership scores before and after S2L, fine-tuning on public photographs, and both; columns as `ablation`."""
    cells = list(transfer_cells(lab))
    return with_trainable(lab, collected(lab, cells, "domain transfer"), cells)


def transfer_searches(lab: Lab) -> Iterator[Cell]:
    """The same models, searched for photographs."""
    yield from _before(lab)
    for domain in prior_domains(lab):
        for title, model in _transfers(lab, domain).items():
            yield search(lab, domain, model), {"domain": domain.name, "method": title, "seed": 0}


def transfer_extraction(lab: Lab) -> pd.DataFrame:
    """Columns as `extracted`; method: what the base model was fine-tuned on."""
    return searched(lab, transfer_searches(lab))
