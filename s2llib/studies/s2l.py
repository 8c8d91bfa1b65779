"""Shake-to-Leak: models fine-tuned on what their base generates, and what leaks before and after.

leak = s2l.membership(lab)
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from s2llib.artifact import table
from s2llib.attacks import swept
from s2llib.compute.images import photos
from s2llib.compute.models import image_size, training
from s2llib.data.domain import Domain, Photos
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import Lab
from s2llib.progress import track
from s2llib.scale import run
from s2llib.specs import Blind, Model, Noted, Retrieved
from s2llib.studies.cells import Cell, collected
from s2llib.studies.extraction import own_judge
from s2llib.studies.plan import cells, domains_of, samples, scoring, sp_set, tuned

__all__ = ["blind", "clip_hits", "draws", "finetuned", "membership", "membership_cells", "models", "sp_sets", "sweep", "sweep_cells"]


def sp_sets(lab: Lab) -> dict[str, Photos]:
    """SP sets of all domains by name."""
    found = {domain.name: sp_set(lab, domain) for domain in lab.domains}
    run(lab, list(found.values()), "SP sets")
    return {name: photos(lab, spec) for name, spec in track(found.items(), "SP sets")}


def draws(lab: Lab, domain: Domain, method: str = PRETRAINED, images: int = 8) -> Photos:
    """What a model of the grid draws for the domain's instance prompt."""
    return photos(lab, samples(lab, domain, tuned(lab, domain, method), images))


def models(lab: Lab) -> list[Model]:
    """Every fine-tuned model of the grid."""
    return [tuned(lab, *cell) for cell in cells(lab) if cell[1] != PRETRAINED]


def finetuned(lab: Lab) -> pd.DataFrame:
    """Every fine-tuned model of the grid: domain, method, seed, trainable parameters, seconds, threads, loss (a list, per step; empty where
    none is written: of DP-SGD)."""
    grid = list(zip(models(lab), (cell for cell in cells(lab) if cell[1] != PRETRAINED), strict=True))
    run(lab, [Noted(model) for model, _ in grid], "fine-tuning")
    rows = []
    for model, (domain, method, seed) in track(grid, "fine-tuning"):
        report = training(lab, model)
        cell = {"domain": domain.name, "method": method, "seed": seed, "seconds": report["seconds"]}
        rows.append(cell | {"trainable": report["trainable"], "loss": report.get("loss", []), "threads": report.get("threads")})
    return pd.DataFrame(rows)


def membership_cells(lab: Lab, methods: list[str] | None = None) -> Iterator[Cell]:
    """The grid, scored by every attack at its calibrated setting."""
    for domain, method, seed in cells(lab, methods):
        labels = {"domain": domain.name, "method": method, "seed": seed}
        yield scoring(lab, domain, tuned(lab, domain, method, seed)), labels


def membership(lab: Lab, methods: list[str] | None = None) -> pd.DataFrame:
    """Membership scores of the grid at the calibrated settings.

    Columns: attack, setting, split, evaluations (of the network, per image), image, score, domain, method, seed.
    """
    return collected(lab, membership_cells(lab, methods), "membership")


def sweep_cells(lab: Lab) -> Iterator[Cell]:
    """iid scores at every timestep, before and after, on the first few domains."""
    p = lab.params.attacks.sweep
    for domain, method, seed in cells(lab, [PRETRAINED, *p.methods], lab.domains[: p.domains]):
        labels = {"domain": domain.name, "method": method, "seed": seed}
        yield scoring(lab, domain, tuned(lab, domain, method, seed), swept(lab.params), shifted=False), labels


def sweep(lab: Lab) -> pd.DataFrame:
    """Columns as `membership`, at every setting of the sweep."""
    return collected(lab, sweep_cells(lab), "timestep sweep")


def blind(lab: Lab) -> pd.DataFrame:
    """Scores of the blind baseline: domain, against (which non-members), split, score."""
    p = lab.params
    spec = Blind(tuple(lab.domains), image_size(lab, lab.base), p.statistics.blind_folds, p.attacks.caption, p.seed)
    return table(lab, spec)


def clip_hits(lab: Lab, methods: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """{method: {domain: 1 for each drawn image whose true name is the most similar of all people's}}.

    Candidates are one prompt for each person of the world, the judge is the base model's CLIP pair; empty where it has none.
    """
    judge, names, size = own_judge(lab), lab.names, image_size(lab, lab.base)
    if judge is None:
        return {}
    candidates = tuple(lab.params.world.condition.format(name=name) for name in names)
    wanted = {}
    for method in methods:
        for domain in domains_of(lab, method):
            drawn = samples(lab, domain, tuned(lab, domain, method))
            truth = (names.index(domain.name),) * len(drawn.prompts)
            wanted[method, domain.name] = Retrieved(drawn, judge, candidates, truth, size)
    run(lab, list(wanted.values()), "images")
    found: dict[str, dict[str, np.ndarray]] = {}
    for (method, name), spec in wanted.items():
        found.setdefault(method, {})[name] = table(lab, spec)["hit"].to_numpy()
    return found
