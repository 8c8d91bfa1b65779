"""Artifacts: functions whose result is kept under the key of its specification.

    @artifact(Scoring, "scores", version=2)
    def score(lab: Lab, spec: Scoring, folder: Path) -> None:
        ...                              # writes its files below `folder`, and reads nothing but the spec

    made(lab, spec)                      # the finished folder, made if it is missing or damaged

An artifact is found by the type of its specification. Its key is made of its name, its code's version, what the machine rounds otherwise,
and every field of the specification; a specification inside another one counts by its own key.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from s2llib.data.domain import Domain, Photos
from s2llib.lab import Lab
from s2llib.params import ParamsError
from s2llib.scores import Kept, committed, figures_root, tables_only
from s2llib.store import FRESH, file_digest

__all__ = [
    "REGISTRY", "Artifact", "about", "artifact", "described", "finished", "inputs", "key", "made", "needed", "parts", "read", "scratch",
    "seconds", "table",
]  # fmt: skip


@dataclass(frozen=True)
class Artifact:
    """How one type of specification is made. rounds: settings of `hardware` that its result depends on in the last digits."""

    spec: type
    name: str
    version: int
    rounds: tuple[str, ...]
    make: Callable[[Lab, Any, Path], None]


REGISTRY: dict[type, Artifact] = {}


def artifact(spec: type, name: str, version: int, rounds: tuple[str, ...] = ()) -> Callable:
    """Keep what the decorated function makes of a specification of this type. version: raised when the result changes."""

    def register(make: Callable[[Lab, Any, Path], None]) -> Callable[[Lab, Any, Path], None]:
        if spec in REGISTRY or name in {each.name for each in REGISTRY.values()}:
            raise ValueError(f"{name}: there is an artifact of that name, or one that is made of {spec.__name__}")
        REGISTRY[spec] = Artifact(spec, name, version, rounds, make)
        return make

    return register


def made(lab: Lab, spec: Any) -> Path:
    """The finished folder of a specification, taken from committed scores or made if it is missing or damaged.

    Raises DiskFull, and ParamsError where nothing may be computed (`--tables`).
    """
    a = REGISTRY[type(spec)]

    def make(new: Path) -> None:
        if found := _committed(lab, spec):
            file, frame = found
            frame.to_parquet(new / file)
            return
        if tables_only():
            raise ParamsError(
                f"{a.name} of {about(spec)} is not among the scores below {figures_root()}; run without --tables, which computes it."
            )
        a.make(lab, spec, new)

    return lab.store.get(a.name, a.version, inputs(lab, spec), make)


def _committed(lab: Lab, spec: Any) -> tuple[str, pd.DataFrame] | None:
    return None if os.environ.get(FRESH) else committed(REGISTRY[type(spec)].name, key(lab, spec))


def table(lab: Lab, spec: Any) -> pd.DataFrame:
    """The one table of an artifact, noted for the scores that are kept beside the report (`read`)."""
    (path,) = made(lab, spec).glob("*.parquet")
    frame, name, address = pd.read_parquet(path), REGISTRY[type(spec)].name, key(lab, spec)
    read(lab)[name, address] = Kept(name, address, path.name, about(spec), frame)
    return frame


def read(lab: Lab) -> dict[tuple[str, str], Kept]:
    """The tables that were read of a lab."""
    return lab.resident("tables", dict)


def key(lab: Lab, spec: Any) -> str:
    """What the result of a specification is addressed by."""
    a = REGISTRY[type(spec)]
    return lab.store.key(a.name, a.version, inputs(lab, spec))


def inputs(lab: Lab, spec: Any) -> dict:
    """What the key of a specification is made of, beside name and version: every field, and the machine."""
    return {"spec": _fields(lab, spec), "machine": lab.machine(*REGISTRY[type(spec)].rounds)}


def parts(spec: Any) -> Iterator[Any]:
    """The artifacts that a specification is made of, directly."""
    inside = spec if isinstance(spec, tuple) else (getattr(spec, each.name) for each in fields(spec)) if is_dataclass(spec) else ()
    for part in inside:
        if type(part) in REGISTRY:
            yield part
        else:
            yield from parts(part)


def needed(lab: Lab, specs: Iterable[Any], seen: set[str] | None = None) -> Iterator[Any]:
    """These specifications and all that they are made of, each once, after its parts. seen: keys of what was counted before; grows."""
    seen = set() if seen is None else seen
    for spec in specs:
        if type(spec) not in REGISTRY:  # such as a base model
            yield from needed(lab, parts(spec), seen)
        elif (address := key(lab, spec)) not in seen:
            seen.add(address)
            yield from needed(lab, parts(spec), seen)
            yield spec


def finished(lab: Lab, spec: Any) -> bool:
    """Whether a specification is made, or among committed scores; whether its files are sound is seen where they are read."""
    a = REGISTRY[type(spec)]
    return lab.store.has(a.name, a.version, inputs(lab, spec)) or _committed(lab, spec) is not None


def scratch(lab: Lab, spec: Any) -> Path:
    """Where the making of a specification keeps its checkpoints until it is finished."""
    return lab.store.scratch(REGISTRY[type(spec)].name, REGISTRY[type(spec)].version, inputs(lab, spec))


def seconds(lab: Lab, spec: Any) -> float:
    """How long a specification took to make."""
    return lab.store.seconds(made(lab, spec))


def about(spec: Any) -> str:
    """What a specification is about, in a few words: whom it concerns, and by which method."""
    name = getattr(getattr(spec, "domain", None), "name", None) or getattr(spec, "name", "")
    model = spec if hasattr(spec, "method") else getattr(spec, "model", None)
    return ", ".join(filter(None, [f"'{name}'" if name else "", getattr(model, "method", "")])) or type(spec).__name__


def _fields(lab: Lab, value: Any) -> dict:
    return {each.name: described(lab, getattr(value, each.name)) for each in fields(value) if each.compare}


def described(lab: Lab, value: Any) -> Any:
    """A value as JSON that differs where what it stands for differs."""
    if type(value) in REGISTRY:
        return {REGISTRY[type(value)].name: key(lab, value)}
    if isinstance(value, Domain):
        return [value.name, value.digest]
    if isinstance(value, Photos):
        return [[_content(path, path.stat().st_mtime_ns, path.stat().st_size) for path in value.paths], value.captions, value.copies]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return _fields(lab, value)
    if isinstance(value, dict):
        return {name: described(lab, each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(lab, each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} has no place in a key")


@lru_cache(maxsize=100_000)
def _content(path: Path, _time: int, _size: int) -> str:
    return file_digest(path)
