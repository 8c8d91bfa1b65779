"""What every section of parameters is made of: types, checks, and the error that they end in."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "PARAMS_DIR",
    "Axis",
    "Count",
    "Distinct",
    "ParamsError",
    "Positive",
    "Rate",
    "SamplingSteps",
    "Section",
    "Share",
    "Some",
    "Timestep",
    "Two",
    "below_repository",
    "first_line",
    "multiple_of",
    "resolved",
]

PARAMS_DIR = Path(__file__).resolve().parents[2] / "params"

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Timestep = Annotated[int, Field(ge=0, le=999)]
SamplingSteps = Annotated[int, Field(ge=1, le=1000)]


class ParamsError(ValueError):
    """A parameter that cannot be used; the message names the key and what is allowed."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _distinct(values: list) -> list:
    if len(set(map(str, values))) < len(values):
        raise ValueError("its entries must differ")
    return values


def _rising(values: list) -> list:
    if values != sorted(set(values)):
        raise ValueError("its entries must rise")
    return values


def multiple_of(number: int):
    def check(values: list[int]) -> list[int]:
        if any(value % number for value in values):
            raise ValueError(f"every entry must be a multiple of {number}")
        return values

    return AfterValidator(check)


Distinct = AfterValidator(_distinct)
Some = Field(min_length=1)
Axis = AfterValidator(_rising)
Two = Field(min_length=2)


def first_line(error: BaseException) -> str:
    """What an error says, on one line: its class and the first line that holds anything."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def below_repository(path: str) -> Path:
    """A folder that is written to; a relative one is below the repository, from whatever folder a notebook is run."""
    return PARAMS_DIR.parent / Path(path).expanduser()


def resolved(path: str) -> Path:
    """A file or folder of a profile; a relative one that is not below the working directory is below the repository. Raises ParamsError."""
    if os.name == "posix" and re.match(r"[A-Za-z]:[\\/]", path):
        raise ParamsError(f"{path} is a path of Windows; write it as this system sees it, such as /mnt/c/Users/... in WSL.")
    given, root = Path(os.path.expanduser(path)), PARAMS_DIR.parent
    return given if given.is_absolute() or given.exists() else root / given
