"""Black-box membership inference against models fine-tuned on private photographs (Pang & Wang 2025).

scores = blackbox.scenarios(lab)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from s2llib.artifact import described, table
from s2llib.attacks import setting
from s2llib.attacks.blackbox import AGGREGATES, MEASURES
from s2llib.compute.blackbox import drawn as images
from s2llib.compute.models import image_size, training
from s2llib.data.domain import MEMBER, NONMEMBER, Domain, Photos
from s2llib.data.folders import check_captions
from s2llib.data.reading import check_prompts
from s2llib.data.worlds import auxiliary_images, private_pool, without_caption
from s2llib.defenses.dp import check_epsilons
from s2llib.lab import Lab
from s2llib.models import encoders
from s2llib.models.base import auxiliary_inputs, base_tokenizer
from s2llib.models.captioner import check_blip
from s2llib.models.pipeline import base_folder
from s2llib.params import ParamsError, Recipe, resolved
from s2llib.progress import track
from s2llib.scale import run
from s2llib.specs import (
    Base,
    Blind,
    Captioner,
    Captions,
    Features,
    Inferred,
    Judge,
    Learnt,
    Model,
    PrivateTune,
    Replies,
    Retrieved,
    Sampling,
    Seen,
    SelfSupervised,
    Tune,
)  # fmt: skip
from s2llib.store import digest, folder_digest, number
from s2llib.studies.cells import Cell, collected
from s2llib.studies.extraction import has_judge, own_judge
from s2llib.studies.plan import after_steps, private_recipe
from s2llib.studies.prompts import private_prompts, reworded

__all__ = [
    "SCENARIOS", "Target", "by_encoder", "by_epochs", "by_queries", "by_sampling", "by_similarity", "by_size", "by_wording",
    "check", "controls", "drawn", "private", "private_blind", "private_quality", "private_sets", "refusal", "scenarios",
    "shadows", "specs", "spent", "targets", "written",
]  # fmt: skip

# scenario: (who writes the caption, what the inference model is fitted on)
SCENARIOS = {
    "Attack-I": ("own", "partial"),
    "Attack-II": ("written", "partial"),
    "Attack-III": ("own", "shadow"),
    "Attack-IV": ("written", "shadow"),
}


@dataclass(frozen=True)
class Target:
    """A model and the photographs that it is asked about: members, and as many others that it never saw."""

    members: Photos
    others: Photos
    model: Model

    @property
    def sides(self) -> tuple[Photos, Photos]:
        return self.members, self.others


def refusal(lab: Lab) -> str:
    """Why there can be no black-box study here; empty if there can."""
    try:
        check(lab)
    except ParamsError as error:
        return str(error)
    return ""


def check(lab: Lab) -> None:
    """Raises ParamsError where photographs, an encoder or a captioner are missing."""
    p, world = lab.params.blackbox, lab.params.world
    check_epsilons(p.private.epsilons, p.private, p.members, "blackbox.private")
    if listed := p.folder or (world.folder if world.kind == "folder" else None):
        check_captions(resolved(listed), "blackbox.folder" if p.folder else "world.folder")
    if listed or world.kind != "portraits":  # portraits are drawn as many as are asked for
        texts, tokenizer = Photos.join(private_sets(lab)).captions, base_tokenizer(lab.params)
        check_prompts(tokenizer, tokenizer.model_max_length, private_prompts(texts, p.wordings))
    if world.folders and not p.folder:
        bare = without_caption(world)
        lacking = [path for some in private_sets(lab) for path in some.paths if path in bare]
        if problem := next((bare[path] for path in lacking if bare[path]), ""):
            raise ParamsError(f"blackbox: {problem}")
        if lacking:
            raise ParamsError(
                f"blackbox: {len(lacking)} photographs have no caption of their own, which Attack-I and III need; put a .txt beside each."
            )
    for name, at in p.encoder_folders.items():
        encoders.check_encoder(name, at)
    if p.captioner:
        check_blip(p.captioner)
    if has_judge(lab.params):
        return
    where = f"{base_folder(lab.params)} has no CLIP pair (clip/)"
    if "clip" in (p.encoder, *p.encoders):
        raise ParamsError(f"blackbox.encoders: {where}; leave 'clip' out, or name one in encoder_folders.")
    if not p.captioner:
        raise ParamsError(f"blackbox.captioner: {where} to find captions with; name a BLIP folder.")


# who is in which set


def private_sets(lab: Lab) -> list[Photos]:
    """Four disjoint sets of photographs that the base model never saw: of the two targets, and of the two shadow models.

    Raises ParamsError where there are too few.
    """
    p = lab.params.blackbox

    def dealt() -> list[Photos]:
        pool = private_pool(lab.params.world, 4 * p.members, lab.store, p.folder)
        order = np.random.default_rng([lab.params.seed, 7]).permutation(len(pool)).reshape(4, -1)
        return [Photos(*(tuple(column[i] for i in part) for column in (pool.paths, pool.captions, pool.copies))) for part in order]

    return lab.resident(f"private sets {p.members} {p.folder} {lab.params.world}", dealt)


def lora(lab: Lab, photos: Photos, how: Recipe) -> Tune:
    """The base model, fine-tuned on photographs with their captions."""
    return Tune(lab.base, "lora", how, photos, "private", "", number(f"blackbox/{lab.params.seed}"))


def targets(lab: Lab, how: Recipe | None = None, most: int | None = None) -> list[Target]:
    """The attacked models: two sets of photographs, the members of one being the non-members of the other; most: of either."""
    p, (a, b, *_) = lab.params.blackbox, (photos[:most] for photos in private_sets(lab))
    how = how or p.tune
    found = [Target(*sets, lora(lab, sets[0], how)) for sets in [(a, b), (b, a)][: p.targets]]
    lengths = {p.tune.steps, *p.epochs}
    if len(a) < p.members or how.steps not in lengths or how != p.tune.model_copy(update={"steps": how.steps}):
        return found
    of_one_run = [replace(target, model=after_steps(target.model, lengths)[how.steps]) for target in some(lab, found)]  # Figure 4
    return of_one_run + found[len(of_one_run) :]


def shadows(lab: Lab) -> list[Target]:
    """The attacker's own models, on auxiliary photographs."""
    p, (*_, a, b) = lab.params.blackbox, private_sets(lab)
    return [Target(*sets, lora(lab, sets[0], p.tune)) for sets in [(a, b), (b, a)][: p.shadows]]


# what the attacker asks and sees


def asked(lab: Lab, model: Model, prompts: Sequence[str], repeats: int, steps: int | None = None) -> list[Replies]:
    """The questions: each prompt `repeats` times."""
    p, texts = lab.params.blackbox, tuple(dict.fromkeys(prompts))
    return [
        Replies(model, texts, Sampling(steps or p.steps, p.guidance, sampler=lab.params.sp.sampler), lab.params.seed + i)
        for i in range(repeats)
    ]


def drawn(lab: Lab, model: Model, prompts: Sequence[str], repeats: int, steps: int | None = None) -> torch.Tensor:
    """[n, m, 3, h, w] in [0, 1]: m = repeats images for every prompt."""
    questions = asked(lab, model, prompts, repeats, steps)
    run(lab, questions, "images")
    return images(lab, questions, prompts, image_size(lab, lab.base))


def spent(lab: Lab, target: Target) -> int:
    """Images that the attacker asks a target for in all scenarios: own and written captions."""
    texts = {text for photos in target.sides for way in ("own", "written") for text in prompts(lab, photos, way)}
    return len(texts) * lab.params.blackbox.queries


def prompts(lab: Lab, photos: Photos, way: str, wording: str | None = None) -> list[str]:
    """The captions that photographs are asked for by. way: `own`, or `written` by the captioner; wording: of blackbox.wordings."""
    texts = list(photos.captions) if way == "own" else written(lab, photos)
    return texts if wording is None else [reworded(text, lab.params.blackbox.wordings[wording]) for text in texts]


def auxiliary(lab: Lab) -> Photos | None:
    """The attacker's photographs: those of the shadow sets where a folder holds no others; None: the world's own auxiliary images."""
    own = lab.params.world.kind == "folder" or lab.params.blackbox.folder
    return Photos.join(private_sets(lab)[2:]) if own else None


def written(lab: Lab, photos: Photos) -> list[str]:
    """What the captioner writes for photographs whose captions the attacker does not know."""
    p, size, own = lab.params.blackbox, image_size(lab, lab.base), auxiliary(lab)
    if p.captioner:
        at, shadow = check_blip(p.captioner), Photos.join(private_sets(lab)[2:]) if p.captioner_steps else None
        writer = Captioner(folder_digest(at), shadow, p.captioner_steps, p.captioner_lr, size, lab.params.seed, at)
        return list(table(lab, Captions(photos, size, writer))["caption"])
    if own is None:
        texts = lab.resident("auxiliary captions", lambda: auxiliary_images(lab.params.world, lab.params.base.auxiliary, lab.store)[1])
    else:
        texts = list(own.captions)
    return list(table(lab, Captions(photos, size, own_judge(lab), tuple(sorted(set(texts))), own is not None))["caption"])


# similarity


def features(lab: Lab, name: str) -> Features:
    """An encoder of the profile."""
    p, own, size = lab.params.blackbox, auxiliary(lab), image_size(lab, lab.base)
    if name == "selfsupervised":
        world = {} if own else auxiliary_inputs(lab.params)
        return Features(name, SelfSupervised(own, world, p.selfsupervised, size, lab.params.seed))
    if name in p.encoder_folders:
        at = encoders.check_encoder(name, p.encoder_folders[name])
        return Features(name, Judge(folder_digest(at), at))
    return Features(name, {"vae": lab.base, "clip": own_judge(lab)}.get(name))


def seen(lab: Lab, target: Target, way: str = "own", wording: str | None = None, steps: int | None = None, **how) -> tuple[Seen, Seen]:
    """What the attacker sees of a model's members and non-members.

    way, wording: as `prompts`; how: encoder, measure, form, aggregate, repeats in place of the profile's.
    """
    p = lab.params.blackbox
    use = p.model_dump(include={"encoder", "measure", "form", "aggregate"}) | {"repeats": p.queries} | how
    encoder, repeats = features(lab, use.pop("encoder")), use.pop("repeats")
    sides = []
    for photos in target.sides:
        texts = tuple(prompts(lab, photos, way, wording))
        questions = tuple(asked(lab, target.model, texts, repeats, steps))
        sides.append(Seen(photos, texts, questions, encoder, size=image_size(lab, lab.base), **use))
    return tuple(sides)


# inference


def inference(lab: Lab, target: Target, scenario: str = "Attack-I", most: int | None = None, **how) -> Inferred:
    """A scenario against a model. most: members and non-members that the attacker knows, of the half; how: as in `seen`."""
    p, (way, source) = lab.params.blackbox, SCENARIOS[scenario]
    fitted_on = tuple(seen(lab, shadow, way, **how) for shadow in shadows(lab)) if source == "shadow" else ()
    return Inferred(seen(lab, target, way, **how), fitted_on, most, p.networks, p.hidden, p.validation, lab.params.seed)


def attacked(lab: Lab, models: list[Target], labels: dict, scenario: str = "Attack-I", **how) -> list[Cell]:
    """A scenario against some models; how: as in `inference`."""
    return [(inference(lab, target, scenario, **how), labels | {"scenario": scenario, "target": i}) for i, target in enumerate(models)]


def scenarios(lab: Lab) -> pd.DataFrame:
    """The main table: every scenario against every target.

    Columns: model (of inference), split, image, score (above 0: a member), fitted (photographs), scenario, target.
    """
    return collected(lab, [cell for name in SCENARIOS for cell in attacked(lab, targets(lab), {}, name)], "scenarios")


def untuned(lab: Lab) -> list[Target]:
    """The base model, asked about the targets' photographs."""
    return [replace(target, model=lab.base) for target in targets(lab)]


def overfitted(lab: Lab) -> Target:
    """A model of few photographs, each seen often."""
    p = lab.params.blackbox
    a, b, *_ = (photos[: p.overfitted.members] for photos in private_sets(lab))
    return Target(a, b, lora(lab, a, p.tune.model_copy(update={"steps": p.overfitted.steps})))


def controls(lab: Lab) -> pd.DataFrame:
    """Attack-I against a model that is to leak, against models that saw none of the photographs, against the base; column control."""
    strangers = [replace(target, model=shadow.model) for target, shadow in zip(targets(lab), shadows(lab), strict=False)]
    rows = {"overfitted": [overfitted(lab)], "fine-tuned on others": strangers, "not fine-tuned": untuned(lab)[:1]}
    return collected(lab, [cell for title, models in rows.items() for cell in attacked(lab, models, {"control": title})], "controls")


def private_blind(lab: Lab) -> pd.DataFrame:
    """Out-of-fold scores of the tested photographs by a classifier that sees them and their captions and never asks a model."""
    p, size, tables = lab.params, image_size(lab, lab.base), []
    for i, target in enumerate(targets(lab)):
        splits = dict(zip((MEMBER, NONMEMBER), target.sides, strict=True))
        photographs = Domain(f"target {i}", splits, digest(described(lab, list(target.sides))))
        found = table(lab, Blind((photographs,), size, p.statistics.blind_folds, True, p.seed))
        for split, part in found.groupby("split"):
            scores = part["score"].to_numpy()[len(part) // 2 :]
            tables.append(pd.DataFrame({"target": i, "split": split, "image": range(len(scores)), "score": scores}))
    return pd.concat(tables, ignore_index=True).assign(model="blind")


# studies: all Attack-I, on the targets


def some(lab: Lab, models: list[Target] | None = None) -> list[Target]:
    """The targets of studies that make new models or ask for more images."""
    return (models or targets(lab))[: lab.params.blackbox.study_targets]


def studied(lab: Lab, column: str, values: dict[object, tuple[list[Target], dict]]) -> pd.DataFrame:
    """{value: (models, how)}; column `column`: the value."""
    return collected(
        lab, [cell for value, (models, how) in values.items() for cell in attacked(lab, models, {column: value}, **how)], column
    )


def by_encoder(lab: Lab) -> pd.DataFrame:
    """Every encoder; column `encoder`."""
    return studied(lab, "encoder", {name: (targets(lab), {"encoder": name}) for name in lab.params.blackbox.encoders})


def by_similarity(lab: Lab) -> pd.DataFrame:
    """Every measure, form and aggregate; column `similarity`."""
    ways = {
        f"{measure}, {form}, {aggregate}": (targets(lab), {"measure": measure, "form": form, "aggregate": aggregate})
        for measure in MEASURES
        for form in ("vector", "scalar")
        for aggregate in AGGREGATES
    }
    return studied(lab, "similarity", ways)


def by_queries(lab: Lab) -> pd.DataFrame:
    """Generations a query; column `queries`."""
    return studied(lab, "queries", {m: (some(lab), {"repeats": m}) for m in lab.params.blackbox.repeats})


def by_wording(lab: Lab) -> pd.DataFrame:
    """The attacker knows the caption but asks in other words; fitted on evidence from the same words. Column `wording`."""
    ways = {"the caption": (some(lab), {})} | {title: (some(lab), {"wording": title}) for title in lab.params.blackbox.wordings}
    return studied(lab, "wording", ways)


def by_epochs_models(lab: Lab) -> dict[int, list[Target]]:
    """Models that are fine-tuned for so many steps."""
    p = lab.params.blackbox
    return {n: some(lab, targets(lab, p.tune.model_copy(update={"steps": n}))) for n in p.epochs}


def by_epochs(lab: Lab) -> pd.DataFrame:
    """Fine-tuning for so many steps; column `steps`."""
    return studied(lab, "steps", {n: (models, {}) for n, models in by_epochs_models(lab).items()})


def by_size_models(lab: Lab) -> dict[int, list[Target]]:
    """Models of fine-tuning sets of several sizes, at equal epochs."""
    p = lab.params.blackbox
    recipe = lambda n: p.tune.model_copy(update={"steps": max(1, round(p.tune.steps * n / p.members))})  # noqa: E731
    return {n: targets(lab, recipe(n), n) for n in p.sizes}


def by_size(lab: Lab) -> pd.DataFrame:
    """Fine-tuning sets of several sizes; the attacker knows as many photographs of each. Column `members`."""
    least = {"most": min(lab.params.blackbox.sizes) // 2}
    return studied(lab, "members", {n: (models, least) for n, models in by_size_models(lab).items()})


def by_sampling(lab: Lab) -> pd.DataFrame:
    """Inference steps, one generation a query; column `inference steps`."""
    return studied(lab, "inference steps", {n: (some(lab), {"repeats": 1, "steps": n}) for n in lab.params.blackbox.sampling})


def specs(lab: Lab) -> list:
    """The models of all scenarios and studies, and what they are asked by the captions of photographs."""
    attacked = [*targets(lab), *shadows(lab), overfitted(lab)]
    for models in (by_epochs_models(lab), by_size_models(lab), private_models(lab)):
        attacked += [target for each in models.values() for target in each]
    return [target.model for target in attacked] + _questions(lab, attacked)


def _questions(lab: Lab, attacked: list[Target], wording: str = "{}") -> list[Replies]:
    texts = [(target, [wording.format(text) for text in side.captions]) for target in attacked for side in target.sides]
    return [question for target, each in texts for question in asked(lab, target.model, each, lab.params.blackbox.queries)]


def written_specs(lab: Lab) -> list:
    """What models are asked by captions that will be written, to be counted: as many others as there are photographs."""
    return _questions(lab, [*targets(lab), *shadows(lab)], "written {}")


# DP-SGD


def private_models(lab: Lab) -> dict[str, list[Target]]:
    """{row of the table: models}: the base, DP-SGD's recipe from the smallest epsilon to none at all, and the usual fine-tuning."""
    p, how = lab.params.blackbox, private_recipe(lab)
    rows = {"not fine-tuned": some(lab, untuned(lab))}
    for epsilon in [*sorted(p.private.epsilons), None]:
        title = f"epsilon {epsilon:g}" if epsilon else "clipping, no noise"
        rows[title] = [replace(target, model=privately(lab, target.members, how, epsilon)) for target in some(lab)]
    return rows | {"no DP-SGD": some(lab)}


def privately(lab: Lab, photos: Photos, how: Recipe, epsilon: float | None) -> PrivateTune:
    """A model fine-tuned with DP-SGD; its noise is its own, for every guarantee and every set of photographs."""
    content = digest(described(lab, photos))
    return PrivateTune(lab.base, how, photos, epsilon, number(f"private/{lab.params.seed}/{epsilon}/{content}"))


def private(lab: Lab) -> pd.DataFrame:
    """Attack-I against models fine-tuned with DP-SGD; column `training`."""
    return studied(lab, "training", {title: (models, {}) for title, models in private_models(lab).items()})


def private_quality(lab: Lab) -> pd.DataFrame:
    """Of every row of `private` and target: what it learnt, hits, and the guarantee.

    loss: {member, nonmember: noise-prediction error of each photograph with its caption, the same draws for every model};
    hits: 1 where the base's CLIP finds the right name among all people's in a member's first generation, or None.
    """
    rows, models = [], private_models(lab)
    own = setting("loss", getattr(lab.params.attacks, "loss", {}), "attacks.loss")
    looks = own.model_copy(update={"draws": lab.params.blackbox.private.looks})
    for title, each in track(models.items(), "what was learnt", len(models)):
        for i, target in enumerate(each):
            report = training(lab, target.model)
            row = {"training": title, "target": i, "trainable": report.get("trainable", 0)}
            row |= {name: report.get(name) for name in ("epsilon", "delta", "clip", "noise multiplier")}
            loss = table(lab, Learnt(target.model, *target.sides, looks)).groupby("split")["loss"].agg(list).to_dict()
            rows.append(row | {"hits": _hits(lab, target), "loss": loss})
    return pd.DataFrame(rows)


def _hits(lab: Lab, target: Target) -> list[float] | None:
    """Whether the base's CLIP finds the right name, for each first generation of the members; None where there is no such."""
    named = [next((i for i, name in enumerate(lab.names) if name in text), None) for text in target.members.captions]
    if None in named or own_judge(lab) is None:
        return None
    (question,) = asked(lab, target.model, target.members.captions, 1)
    candidates = tuple(lab.params.world.condition.format(name=name) for name in lab.names)
    truth = dict(zip(target.members.captions, named, strict=True))
    drawn_of = tuple(truth[text] for text in question.prompts)
    hits = table(lab, Retrieved(question, own_judge(lab), candidates, drawn_of, image_size(lab, lab.base)))["hit"]
    by_text = dict(zip(question.prompts, hits, strict=True))
    return [by_text[text] for text in target.members.captions]
