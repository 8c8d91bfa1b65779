"""Raw scores beside the tables that they are behind: `figures/<profile>/scores/NAME.parquet`, one file for each kind of artifact.

A row of a file is a row of some artifact's table, with its key in the column `artifact`. What restores that table exactly (its columns
and their types, a digest) stands in the file's metadata, with whom it is about and which notebooks read it.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from s2llib.params import below_repository
from s2llib.store import digest

__all__ = ["TABLES_ONLY", "Kept", "committed", "figures_root", "keep", "tables_only"]

TABLES_ONLY = "S2L_TABLES"  # set: nothing is computed, tables are made of the scores that are there
METADATA = b"s2llib"


def figures_root() -> Path:
    """`$S2L_FIGURES`, or `figures/` of the repository."""
    return below_repository(os.environ.get("S2L_FIGURES") or "figures")


def tables_only() -> bool:
    """Whether nothing may be computed (`./run_all.sh --tables`)."""
    return bool(os.environ.get(TABLES_ONLY))


@dataclass(frozen=True)
class Kept:
    """A table that was read. file: its name in the artifact's folder; about: what the artifact is about, in a few words."""

    name: str
    key: str
    file: str
    about: str
    table: pd.DataFrame


def _digest(table: pd.DataFrame) -> str:
    return digest([list(table.columns), *(table[name].tolist() for name in table)])


def _noted(kept: Kept, notebook: str) -> dict:
    columns = {name: str(dtype) for name, dtype in kept.table.dtypes.items()}
    return {"file": kept.file, "about": kept.about, "columns": columns, "sha256": _digest(kept.table), "notebooks": [notebook]}


def keep(folder: Path, read: Iterable[Kept], notebook: str, forget: bool) -> None:
    """Write the tables that a notebook read to files in a folder. forget: and drop those that only its earlier runs read."""
    by_name: dict[str, dict[str, Kept]] = {}
    for each in read:
        by_name.setdefault(each.name, {})[each.key] = each
    there = {path.stem for path in folder.glob("*.parquet")} if forget else set()
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(by_name.keys() | there):
        path = folder / f"{name}.parquet"
        with FileLock(folder / f".{name}.lock"):
            _update(path, by_name.get(name, {}), notebook, forget)


def _update(path: Path, new: dict[str, Kept], notebook: str, forget: bool) -> None:
    notes, rows = (_notes(path), pq.read_table(path).to_pandas()) if path.is_file() else ({}, pd.DataFrame({"artifact": []}))
    for note in notes.values() if forget else ():
        note["notebooks"] = [each for each in note["notebooks"] if each != notebook]
    for key, kept in new.items():
        others = notes.get(key, {"notebooks": []})["notebooks"]
        notes[key] = _noted(kept, notebook) | {"notebooks": sorted({*others, notebook})}
    notes = {key: note for key, note in sorted(notes.items()) if note["notebooks"]}
    if not notes:
        path.unlink(missing_ok=True)
        return
    old = {key: part.drop(columns="artifact") for key, part in rows.groupby("artifact", sort=False)}
    parts = [(new[key].table if key in new else old[key][list(note["columns"])]).assign(artifact=key) for key, note in notes.items()]
    table = pa.Table.from_pandas(pd.concat([part for part in parts if len(part)], ignore_index=True), preserve_index=False)
    table = table.replace_schema_metadata({**table.schema.metadata, METADATA: json.dumps(notes, sort_keys=True).encode()})
    written = path.with_name(f".{path.name}")
    pq.write_table(table, written, compression="zstd")
    os.replace(written, path)


def _notes(path: Path) -> dict[str, dict]:
    return json.loads(pq.read_schema(path).metadata.get(METADATA, b"{}"))


@lru_cache(maxsize=1000)
def _noted_in(path: Path, _time: int) -> dict[str, dict]:
    try:
        return _notes(path)
    except (OSError, ValueError, AttributeError, pa.ArrowException):  # a damaged file holds nothing
        return {}


@lru_cache(maxsize=4)
def _rows(path: Path, _time: int) -> dict[str, pd.DataFrame]:
    return dict(iter(pq.read_table(path).to_pandas().groupby("artifact", sort=False)))


def committed(name: str, key: str) -> tuple[str, pd.DataFrame] | None:
    """(file name, table) of an artifact among the scores of any profile; None where there is none, or one that is damaged."""
    for path in sorted(figures_root().glob(f"*/scores/{name}.parquet")):
        time = path.stat().st_mtime_ns
        if note := _noted_in(path, time).get(key):
            part = _rows(path, time).get(key)
            part = pd.DataFrame(columns=list(note["columns"])) if part is None else part[list(note["columns"])]
            table = part.astype(note["columns"]).reset_index(drop=True)
            if _digest(table) == note["sha256"]:
                return note["file"], table
    return None
