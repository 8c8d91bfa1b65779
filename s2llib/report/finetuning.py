"""Tables and curves about fine-tuning."""

import numpy as np
import pandas as pd

from s2llib.attacks import TITLES
from s2llib.finetune.methods import METHODS, PRETRAINED
from s2llib.finetune.recipe import learning_rates
from s2llib.lab import Lab
from s2llib.metrics.images import mean_sample
from s2llib.report.estimate import Entry, Mean, estimated
from s2llib.report.membership import level, level_and_change, method_title, on_domains
from s2llib.studies.plan import domains_of, recipe

__all__ = ["METHODS_NOTE", "finetuning_table", "mean_curves", "methods_table", "printed_methods"]

METHODS_NOTE = (
    "Value [95 % interval over people]. Changes are against the pre-trained model, paired on the method's own domains; AUC: iid protocol,"
    " all seeds. CLIP-R: share of generated images (8 a model) from which the base's CLIP picks the true name among all people's; first"
    " seed. Seconds: to load, train and save one model."
)


def finetuning_table(lab: Lab, models: pd.DataFrame) -> pd.DataFrame:
    """One row per method: what it trains, for how long, and how far its loss falls (first and last tenth of the steps)."""
    rows = []
    for method, part in models.groupby("method", sort=False):
        how, losses = recipe(lab, method), _mean_loss(part)
        tenth = max(1, len(losses) // 10)
        rates = learning_rates(METHODS[method], how)
        rows.append(
            {
                "method": method_title(method),
                "trainable parameters": part["trainable"].iloc[0],
                "steps": how.steps,
                "batch": how.batch,
                "learning rate": ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates.values())),
                "loss at first": round(losses[:tenth].mean(), 4) if len(losses) else None,
                "loss at last": round(losses[-tenth:].mean(), 4) if len(losses) else None,
                "models": len(part),
            }
        )
    return pd.DataFrame(rows)


def _mean_loss(part: pd.DataFrame) -> np.ndarray:
    """[steps] loss averaged over a domain's seeds, then over domains."""
    return np.mean([np.mean(np.stack(each), axis=0) for _, each in part.groupby("domain", sort=False)["loss"]], axis=0)


def methods_table(lab: Lab, models: pd.DataFrame, hits: dict[str, dict[str, np.ndarray]], membership: pd.DataFrame) -> pd.DataFrame:
    """Tidy: each method's trainable parameters, seconds a model, CLIP-R precision (%) and iid change in AUC of every attack.

    models, hits: of `s2l.finetuned` and `s2l.clip_hits`. seconds: to load, train and save a model; the median of those made with as many
    threads as some of every method's. They differ from run to run, alone of all values.
    """
    rows, alike = [], _made_alike(models)
    for method, part in models.groupby("method", sort=False):
        rows.append({"method": method, "metric": "trainable parameters", "value": part["trainable"].iloc[0]})
        seconds = alike.loc[alike["method"] == method, "seconds"]
        rows.append({"method": method, "metric": "seconds", "value": round(seconds.median(), 1) if len(seconds) else None})
    changes = membership[(membership["metric"] == "AUC") & (membership["protocol"] == "iid") & membership["delta"].notna()]
    for _, row in changes.iterrows():
        moved = {"value": row["delta"], "low": row["delta_low"], "high": row["delta_high"]}
        rows.append({"method": row["method"], "attack": row["attack"], "metric": "AUC change", **moved})
    found = pd.DataFrame(rows).assign(domains=[len(domains_of(lab, row["method"])) for row in rows])
    shares = {method: _share(each) for method, each in hits.items()}
    entries = [
        Entry({"method": method, "metric": "CLIP-R precision"}, each, None if method == PRETRAINED else shares[PRETRAINED])
        for method, each in shares.items()
    ]
    columns = ["method", "attack", "metric", "value", "low", "high", "delta", "delta_low", "delta_high", "domains"]
    return pd.concat([estimated(entries, lab.params.statistics), found], ignore_index=True).reindex(columns=columns)


def _share(hits: dict[str, np.ndarray]) -> Mean:
    """CLIP-R precision in percent."""
    one = 100 / min(map(len, hits.values()))
    return Mean({name: np.array([100 * x.mean()]) for name, x in hits.items()}, lambda name: mean_sample(100 * hits[name]), (0, 100), one)


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
    """Loss per step of each method that has any (`s2l.finetuned`), averaged over seeds, then domains."""
    found = {method_title(method): _mean_loss(part).tolist() for method, part in models.groupby("method", sort=False)}
    return {title: losses for title, losses in found.items() if losses}
