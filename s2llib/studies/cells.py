"""From specifications with labels to one tidy frame."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from s2llib.artifact import table
from s2llib.lab import Lab
from s2llib.progress import track
from s2llib.scale import run

__all__ = ["Cell", "collected"]

Cell = tuple[Any, dict]  # what is computed, and what its rows are called


def collected(lab: Lab, cells: Iterable[Cell], what: str) -> pd.DataFrame:
    """The tables of all cells in one, each with its labels as columns; computed where $S2L_DASK says."""
    cells = list(cells)
    run(lab, [spec for spec, _ in cells], what)
    return pd.concat([table(lab, spec).assign(**labels) for spec, labels in track(cells, what)], ignore_index=True)
