"""A profile, opened: its parameters, photographs and base model, the store, the device, and the models that stay in memory.

lab = Lab.open("lab")
"""

import os
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from s2llib.attacks import check_attacks
from s2llib.data.domain import Domain
from s2llib.data.worlds import domain_names, everyone, known_names, load_domains
from s2llib.models.base import base_key, base_name, check_base, check_drawn, check_world
from s2llib.models.hardware import check_hardware, computes_bfloat16, cores, memory
from s2llib.models.pipeline import base_folder, pick_device
from s2llib.params import Params, ParamsError, below_repository, load_params
from s2llib.scores import tables_only
from s2llib.specs import Base
from s2llib.store import Store, check_writable

__all__ = ["CHECKS", "NO_BASE", "Lab", "other_base", "refuses"]

NO_BASE = {"base.path": None, "base.hub": None, "base.lora": None, "base.lora_scale": 1.0}

SMALL = 2**29  # bytes of a UNet whose layers do not fill several threads
WORKER = 2 * 2**30  # bytes that a process with such a model takes while it trains

CHECKS: list[Callable[["Lab"], None]] = []


def other_base(path: str) -> dict:
    """What to override for the base model in another folder."""
    return NO_BASE | {"base.path": path, "retrain_base": False}


def refuses(check: Callable[["Lab"], None]) -> Callable[["Lab"], None]:
    """Ask this check too before anything is computed: it raises ParamsError for what its study cannot run."""
    CHECKS.append(check)
    return check


class Lab:
    """What every computation has at hand. It knows no study: what is computed is said by specifications (`s2llib.specs`)."""

    def __init__(self, params: Params, root: str | Path | None = None):
        self.params = params
        if params.hardware.precision == "auto":
            self.params = params.changed({"hardware.precision": "bfloat16" if computes_bfloat16(self.device) else "float32"})
        self.store = Store(root or below_repository(os.environ.get("S2L_HOME") or "artifacts"))
        self.counts = tables_only()  # portraits, without drawing them
        self._resident: dict[str, Any] = {}

    @classmethod
    def open(cls, profile: str | None = None, overrides: dict | None = None, root: str | Path | None = None) -> "Lab":
        """The lab of `params/<profile>.yaml` ($S2L_PROFILE or `lab` by default); raises ParamsError before any compute."""
        lab = cls(load_params(profile, overrides), root)
        lab.check()
        if lab.workers > 1:
            torch.set_num_threads(1)  # as they do, so that the same numbers come out wherever something is made
        return lab

    def at(self, overrides: dict) -> "Lab":
        """The same lab with other parameters, such as {"sp.images": 12}; store and resident models are shared."""
        if not overrides:
            return self
        other = Lab(self.params.changed(overrides), self.store.root)
        other.store, other.counts, other._resident = self.store, self.counts, self._resident
        return other

    def check(self) -> None:
        """Refuse what cannot run: raises ParamsError with the thing and the mend. Studies add what they know (`refuses`)."""
        p = self.params
        check_writable(self.store.root, "S2L_HOME")
        if tables_only():  # the scores that are there are of models and images that were checked
            return
        if p.trains_base and p.world.kind == "folder":
            raise ParamsError(f"params/{p.profile}.yaml: a folder world needs a base model; set base.path or base.hub.")
        check_attacks(p)
        check_base(p)
        check_world(p)
        check_hardware(p.hardware, self.device)
        trained = known_names(p.world)[: p.base.unet.people]
        for name in domain_names(p.world):
            if name not in trained:
                raise ParamsError(
                    f"base.unet.people is {p.base.unet.people} but '{name}' of world.domains is not among them; raise it or leave that out."
                )
        if p.world.kind != "portraits":
            self.domains  # noqa: B018  read and checked now, not in the middle of a run
        for each in CHECKS:
            each(self)

    # photographs

    @cached_property
    def domains(self) -> list[Domain]:
        """The attacked domains."""
        found = load_domains(self.params.world, self.store, self.counts)
        if not self.counts and self.params.world.kind != "folder":
            check_drawn(base_folder(self.params), found, "set retrain_base=true")
        return found

    @cached_property
    def everyone(self) -> list[Domain]:
        """The people whose members the base model was trained on, attacked or not."""
        return everyone(self.params.world, self.store, self.counts)[: self.params.base.unet.people]

    @cached_property
    def names(self) -> list[str]:
        """Names of all people of the world."""
        return known_names(self.params.world)

    # the model

    @cached_property
    def base(self) -> Base:
        """The base model of the profile; one with a LoRA on it, and one that is trained here, lies where it is made."""
        p = self.params
        given = None if p.base.lora else base_folder(p)
        return Base(base_key(p), given and given.absolute())

    @property
    def base_name(self) -> str:
        """What the base model is called in a report."""
        return base_name(self.params)

    def resident(self, name: str, load: Callable[[], Any]) -> Any:
        """What `load()` gives, kept in memory under this name for all that ask again."""
        if name not in self._resident:
            self._resident[name] = load()
        return self._resident[name]

    def forget(self) -> None:
        """Let go of what is resident."""
        self._resident.clear()

    # the machine

    @cached_property
    def device(self) -> torch.device:
        """Where models compute."""
        return pick_device(self.params.device)

    @cached_property
    def workers(self) -> int:
        """Processes that make artifacts side by side here: hardware.workers; None: of a small model on a processor one for each core,
        as far as memory and Dask are there, else this one alone."""
        p = self.params
        if p.hardware.workers:
            return p.hardware.workers
        weights = [] if p.trains_base else base_folder(p).glob("unet/*.safetensors")
        small = self.device.type == "cpu" and sum(path.stat().st_size for path in weights) < SMALL
        return min(cores(), max(1, memory() // WORKER)) if small and find_spec("distributed") else 1

    def machine(self, *settings: str) -> str:
        """What results round differently on: the device, and these settings of `hardware` where they are not the default."""
        changed = self.params.hardware.model_dump(include={"attention", *settings}, exclude_defaults=True)
        return " ".join([self.device.type, *(f"{name}={value}" for name, value in sorted(changed.items()))])
