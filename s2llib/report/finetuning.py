"""Tables and curves about fine-tuning."""

import numpy as np
import pandas as pd
import torch

from s2llib.attacks import TITLES
from s2llib.data.worlds import known_names
from s2llib.finetune.methods import METHODS
from s2llib.finetune.recipe import learning_rates
from s2llib.metrics.bootstrap import HierarchicalBootstrap
from s2llib.metrics.clip import retrieved
from s2llib.report.membership import estimate_row, level, level_and_change, method_title, on_domains
from s2llib.scale import precompute
from s2llib.study import PRETRAINED, Study

__all__ = ["METHODS_NOTE", "clip_hits", "finetuning_table", "mean_curves", "methods_table", "printed_methods"]

METHODS_NOTE = (
    "Value [95 % interval]. Changes are against the pre-trained model, paired on the method's own domains; AUC: iid protocol, all seeds."
    " CLIP-R: share of generated images (8 a model) from which the base's CLIP picks the true name among all people's; first seed."
    " Seconds: to load, train and save one model."
)


def finetuning_table(study: Study, models: pd.DataFrame) -> pd.DataFrame:
    """One row per method: what it trains, for how long, and how far its loss falls (first and last tenth of the steps)."""
    rows = []
    for method, part in models.groupby("method", sort=False):
        recipe, losses = study.recipe(method), _mean_loss(part)
        tenth = max(1, len(losses) // 10)
        rates = learning_rates(METHODS[method], recipe)
        rows.append(
            {
                "method": method_title(method),
                "trainable parameters": part["trainable"].iloc[0],
                "steps": recipe.steps,
                "batch": recipe.batch,
                "learning rate": ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates.values())),
                "loss at first": round(losses[:tenth].mean(), 4),
                "loss at last": round(losses[-tenth:].mean(), 4),
                "models": len(part),
            }
        )
    return pd.DataFrame(rows)


def _mean_loss(part: pd.DataFrame) -> np.ndarray:
    """[steps] loss averaged over a domain's seeds, then over domains."""
    return np.mean([np.mean(np.stack(each), axis=0) for _, each in part.groupby("domain", sort=False)["loss"]], axis=0)


def clip_hits(study: Study, methods: list[str]) -> dict[str, list[np.ndarray]]:
    """{method: per domain, 1 for each generated image whose true name is the most similar of all people's}.

    Candidates are one prompt for each person of the world, the judge is the base model's CLIP pair.
    """
    people = known_names(study.params.world)
    prompts = [study.params.world.condition.format(name=name) for name in people]
    cells = [(method, domain) for method in methods for domain in study.domains_of(method)]
    precompute(study, "samples", [(domain, method, study.params.finetune.seeds[0]) for method, domain in cells])
    pixels = [study.samples(domain, method).pixels(study.image_size) for method, domain in cells]
    truth = torch.cat([torch.full((len(x),), people.index(domain.name)) for (_, domain), x in zip(cells, pixels, strict=True)])
    hits = retrieved(study.base_folder, torch.cat(pixels), truth, prompts).split([len(x) for x in pixels])
    found: dict = {}
    for (method, _), each in zip(cells, hits, strict=True):
        found.setdefault(method, []).append(each.numpy())
    return found


def methods_table(study: Study, models: pd.DataFrame, membership: pd.DataFrame) -> pd.DataFrame:
    """Tidy: each method's trainable parameters, seconds a model, CLIP-R precision (%) and iid change in AUC of every attack.

    seconds: to load, train and save a model; the median of those made with as many threads as some of every method's. They
    differ from run to run, alone of all values.
    """
    p, methods = study.params.statistics, [PRETRAINED, *study.params.finetune.methods]
    rows, alike = [], _made_alike(models)
    for method, part in models.groupby("method", sort=False):
        rows.append({"method": method, "metric": "trainable parameters", "value": part["trainable"].iloc[0]})
        seconds = alike.loc[alike["method"] == method, "seconds"]
        rows.append({"method": method, "metric": "seconds", "value": round(seconds.median(), 1) if len(seconds) else None})
    if (study.base_folder / "clip").is_dir():
        hits = clip_hits(study, methods)
        for method, found in hits.items():
            bootstrap = HierarchicalBootstrap([(len(x), 1) for x in found], p.bootstrap, seed=0)
            value, base = (bootstrap.mean([100 * x for x in some]) for some in (found, hits[PRETRAINED][: len(found)]))
            rows.append(
                {"method": method, "metric": "CLIP-R precision"} | estimate_row(value, None if method == PRETRAINED else base, p.level)
            )
    changes = membership[(membership["metric"] == "AUC") & (membership["protocol"] == "iid") & membership["delta"].notna()]
    for _, row in changes.iterrows():
        change = {"value": row["delta"], "low": row["delta_low"], "high": row["delta_high"]}
        rows.append({"method": row["method"], "attack": row["attack"], "metric": "AUC change", **change})
    columns = ["method", "attack", "metric", "value", "low", "high", "delta", "delta_low", "delta_high"]
    domains = [len(study.domains_of(row["method"])) for row in rows]
    return pd.DataFrame(rows).reindex(columns=columns).assign(domains=domains)


def _made_alike(models: pd.DataFrame) -> pd.DataFrame:
    """The models made with one number of threads: the smallest that all methods share; none if there is no such."""
    shared = set.intersection(*(set(part["threads"].dropna()) for _, part in models.groupby("method")))
    return models[models["threads"] == min(shared)] if shared else models[:0]


def printed_methods(table: pd.DataFrame) -> pd.DataFrame:
    """`methods_table` as one line a method: value [95 % interval], beside CLIP-R (change against the pre-trained model [interval])."""

    def cell(row: pd.Series) -> str:
        if row["metric"] == "trainable parameters":
            return f"{row['value']:,.0f}"
        if row["metric"] == "seconds":
            return "" if pd.isna(row["value"]) else f"{row['value']:.1f}"
        return level_and_change(row, ".1f") if row["metric"] == "CLIP-R precision" else level(row, "+.3f")

    names = {"CLIP-R precision": "CLIP-R (%)"}
    heads = [
        f"{TITLES[a]}, change in AUC" if m == "AUC change" else names.get(m, m)
        for m, a in zip(table["metric"], table["attack"], strict=True)
    ]
    titles = [on_domains(method, n, table["domains"].max()) for method, n in zip(table["method"], table["domains"], strict=True)]
    shown = pd.DataFrame({"method": titles, "column": heads, "cell": table.apply(cell, axis=1)})
    methods = sorted(dict.fromkeys(titles), key=method_title(PRETRAINED).__ne__)
    wide = shown.pivot(index="method", columns="column", values="cell").fillna("")
    return wide.loc[methods, list(dict.fromkeys(shown["column"]))].rename_axis(columns=None)


def mean_curves(models: pd.DataFrame) -> dict[str, list[float]]:
    """Loss per step of each method, averaged over seeds, then domains."""
    return {method_title(method): _mean_loss(part).tolist() for method, part in models.groupby("method", sort=False)}
