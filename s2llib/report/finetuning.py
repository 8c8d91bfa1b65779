"""Tables and curves about fine-tuning."""

import numpy as np
import pandas as pd

from s2llib.report.membership import method_title
from s2llib.study import Study

__all__ = ["finetuning_table", "mean_curves"]


def finetuning_table(study: Study, models: pd.DataFrame) -> pd.DataFrame:
    """One row per method: what it trains, for how long, and how far its loss falls (first and last tenth of the steps)."""
    rows = []
    for method, part in models.groupby("method", sort=False):
        recipe, losses = study.recipe(method), np.stack(part["loss"])
        tenth = max(1, losses.shape[1] // 10)
        rows.append(
            {
                "method": method_title(method),
                "trainable parameters": part["trainable"].iloc[0],
                "steps": recipe.steps,
                "batch": recipe.batch,
                "learning rate": recipe.lr,
                "loss at first": round(losses[:, :tenth].mean(), 4),
                "loss at last": round(losses[:, -tenth:].mean(), 4),
                "models": len(part),
            }
        )
    return pd.DataFrame(rows)


def mean_curves(models: pd.DataFrame) -> dict[str, list[float]]:
    """Loss per step of each method, averaged over domains and seeds."""
    return {method_title(method): np.stack(part["loss"]).mean(0).tolist() for method, part in models.groupby("method", sort=False)}
