"""No prior knowledge at all, on a small unconditional diffusion model (S2L)."""

from collections.abc import Iterator

import pandas as pd

from s2llib.attacks import ATTACKS, configured, setting
from s2llib.data.domain import Domain
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import Lab, refuses
from s2llib.models.base import check_drawn, check_trained_on, training_world
from s2llib.models.pipeline import check_unconditional
from s2llib.params import ParamsError, Section, UnconditionalRecipe, resolved
from s2llib.specs import Base, Drawn, Model, NoiseImages, Scoring, Unconditional, UnconditionalNoise, UnconditionalTune
from s2llib.store import digest, folder_digest, number
from s2llib.studies.cells import Cell, collected

__all__ = ["check", "unconditional_model", "variants", "zero_prior", "zero_prior_cells"]

NOISE_IMAGES, OWN_SAMPLES = "fine-tuned on noise images", "fine-tuned on its own samples"


@refuses
def check(lab: Lab) -> None:
    """The unconditional model of the profile is there and knows this world; raises ParamsError."""
    p = lab.params.zero_prior
    if not p.path or lab.params.retrain_base:
        return
    folder = resolved(p.path)
    check_unconditional(folder)
    try:
        check_trained_on(folder, training_world(lab.params, p.people), "zero_prior.people", "set zero_prior.path=null")
    except ParamsError as error:
        raise ParamsError(f"zero_prior.path: {error}") from None


def people(lab: Lab) -> list[Domain]:
    """Whose members the unconditional model is trained on, and who is attacked."""
    p, found = lab.params.zero_prior, lab.everyone[: lab.params.zero_prior.people]
    if p.path and not lab.params.retrain_base and not lab.counts:
        check_drawn(resolved(p.path), found, "set zero_prior.path=null")
    return found


def unconditional_model(lab: Lab) -> Base | Unconditional:
    """The model in the folder that the profile names, or one trained on the members of all people."""
    p = lab.params.zero_prior
    if p.path and not lab.params.retrain_base:
        folder = resolved(p.path)
        return Base(digest([folder_digest(folder / part) for part in ("unet", "scheduler")]), folder)
    how = UnconditionalRecipe(**p.model_dump(include=set(UnconditionalRecipe.model_fields)))
    return Unconditional(tuple(people(lab)), how, training_world(lab.params, p.people), lab.params.seed)


def variants(lab: Lab, seed: int) -> dict[str, Model]:
    """{title: what is done to the model}: nothing, both readings of the paper's noise, and its own samples."""
    p, base = lab.params.zero_prior, unconditional_model(lab)
    stream = lambda title, what: number(f"{title}/{what}/{lab.params.seed}/{seed}")  # noqa: E731
    tuned = lambda title, images: UnconditionalTune(  # noqa: E731
        base, images, p.size, p.steps, p.tune_batch, p.tune_lr, stream(title, "training")
    )
    noise = NoiseImages(p.images, p.size, "", "noise", stream(NOISE_IMAGES, "images"))
    found = {PRETRAINED: base, NOISE_IMAGES: tuned(NOISE_IMAGES, noise)}
    for sigma in p.sigmas:
        title = f"noise on weights, {sigma:g}"
        found[title] = UnconditionalNoise(base, sigma, stream(title, "training"))
    drawn = Drawn(base, p.images, p.sampling, stream(OWN_SAMPLES, "images"))
    return found | {OWN_SAMPLES: tuned(OWN_SAMPLES, drawn)}


def settings(lab: Lab) -> dict[str, list[Section]]:
    """The attacks that need no prompt, at their settings for this model."""
    p = lab.params.zero_prior
    found = {name: own for name, own in configured(lab.params).items() if not ATTACKS[name].prompted}
    at = lambda name, own: setting("secmi", p.secmi, "zero_prior.secmi") if name == "secmi" else own.model_copy(update={"t": p.t})  # noqa: E731
    return {name: [own if name == "loss" else at(name, own)] for name, own in found.items()}


def zero_prior_cells(lab: Lab) -> Iterator[Cell]:
    """iid scores before and after each change."""
    for seed in lab.params.zero_prior.seeds:
        for title, model in variants(lab, seed).items():
            if title != PRETRAINED or seed == lab.params.zero_prior.seeds[0]:
                labels = {"method": title, "seed": 0 if title == PRETRAINED else seed}
                for domain in people(lab):
                    yield Scoring(model, domain, settings(lab), "", shifted=False), labels | {"domain": domain.name}


def zero_prior(lab: Lab) -> pd.DataFrame:
    """iid membership scores of the unconditional model before and after each change; columns as `s2l.membership`."""
    return collected(lab, zero_prior_cells(lab), "no prior knowledge")
