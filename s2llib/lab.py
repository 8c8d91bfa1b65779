"""A profile, opened: its parameters, photographs and base model, the store, the device, and the models that stay in memory.

lab = Lab.open("lab")
"""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from s2llib.attacks import check_attacks
from s2llib.data.domain import Domain
from s2llib.data.worlds import domain_names, everyone, known_names, load_domains
from s2llib.models.base import base_key, check_world
from s2llib.models.hardware import check_hardware
from s2llib.models.pipeline import base_folder, check_folder, pick_device
from s2llib.params import Params, ParamsError, below_repository, load_params
from s2llib.specs import Base
from s2llib.store import Store

__all__ = ["Lab"]


class Lab:
    """What every computation has at hand. It knows no study: what is computed is said by specifications (`s2llib.specs`)."""

    def __init__(self, params: Params, root: str | Path | None = None):
        self.params = params
        self.store = Store(root or below_repository(os.environ.get("S2L_HOME") or "artifacts"))
        self._resident: dict[str, Any] = {}

    @classmethod
    def open(cls, profile: str | None = None, overrides: dict | None = None, root: str | Path | None = None) -> "Lab":
        """The lab of `params/<profile>.yaml` ($S2L_PROFILE or `lab` by default); raises ParamsError before any compute."""
        lab = cls(load_params(profile, overrides), root)
        lab.check()
        return lab

    def at(self, overrides: dict) -> "Lab":
        """The same lab with other parameters, such as {"sp.images": 12}; store and resident models are shared."""
        if not overrides:
            return self
        other = Lab(self.params.changed(overrides), self.store.root)
        other.store, other._resident = self.store, self._resident
        return other

    def check(self) -> None:
        """Refuse what cannot run: raises ParamsError with the thing and the mend."""
        p = self.params
        if p.trains_base and p.world.kind == "folder":
            raise ParamsError(f"params/{p.profile}.yaml: a folder world needs a base model; set base.path or base.hub.")
        if not p.trains_base:
            check_folder(base_folder(p))
            check_world(p)
        check_attacks(p)
        check_hardware(p.hardware, self.device)
        trained = known_names(p.world)[: p.base.unet.people]
        for name in domain_names(p.world):
            if name not in trained:
                raise ParamsError(
                    f"base.unet.people is {p.base.unet.people} but '{name}' of world.domains is not among them; raise it or leave that out."
                )
        if p.world.kind != "portraits":
            self.domains  # noqa: B018  read and checked now, not in the middle of a run

    # photographs

    @cached_property
    def domains(self) -> list[Domain]:
        """The attacked domains."""
        return load_domains(self.params.world, self.store)

    @cached_property
    def everyone(self) -> list[Domain]:
        """The people whose members the base model was trained on, attacked or not."""
        return everyone(self.params.world, self.store)[: self.params.base.unet.people]

    @cached_property
    def names(self) -> list[str]:
        """Names of all people of the world."""
        return known_names(self.params.world)

    # the model

    @cached_property
    def base(self) -> Base:
        """The base model of the profile."""
        return Base(base_key(self.params), base_folder(self.params))

    @property
    def base_name(self) -> str:
        """What the base model is called: its name on the hub, its folder's, or `trained here`."""
        return "trained here" if self.base.path is None else self.params.base.hub or self.base.path.name

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

    def machine(self, *settings: str) -> str:
        """What results round differently on: the device, and these settings of `hardware` where they are not the default."""
        changed = self.params.hardware.model_dump(include={"attention", *settings}, exclude_defaults=True)
        return " ".join([self.device.type, *(f"{name}={value}" for name, value in sorted(changed.items()))])
