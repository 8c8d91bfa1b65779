"""A profile: all sections, read from `params/NAME.yaml`."""

import os
from typing import Annotated, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError

from s2llib.params.attacking import Attacks, Extraction
from s2llib.params.defending import MixSyn
from s2llib.params.finetuning import Finetune
from s2llib.params.private import BlackBox
from s2llib.params.section import PARAMS_DIR, Count, ParamsError, Positive, Section
from s2llib.params.studies import Ablations, Audit, Priors, ZeroPrior
from s2llib.params.world import SP, Base, World

__all__ = ["Hardware", "Params", "Statistics", "load_params", "profiles", "sentence", "takes_text"]


class Hardware(Section):
    """How the machine is used. What is not the default here enters the key of what it rounds otherwise.

    precision: of generation, and of the UNet in fine-tuning and perturbation (automatic mixed precision: weights, adapters and AdamW's
    state stay float32), `auto`: bfloat16 where the device multiplies in it; attacks are always in float32, which SecMI needs.
    checkpointing: of gradients, less memory for more time. attention: torch's backend, where it can be used, else its plain one; `auto`:
    torch chooses. optimizer: `adamw8bit` is that of bitsandbytes. offload: models that are asked wait in the computer's memory, part by
    part, and not in the GPU's. workers: processes that make artifacts side by side on this machine; None: of a small model on a processor
    one for each core, else this one alone; of `--executor local` one for each GPU, else for each core.
    """

    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    checkpointing: bool = False
    attention: Literal["auto", "flash", "efficient", "math"] = "auto"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    offload: bool = False
    workers: Positive | None = None


class Statistics(Section):
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    blind_folds: Annotated[int, Field(ge=2)] = 5


class Params(Section):
    profile: str
    seed: Count = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    retrain_base: bool = False
    world: World
    base: Base = Base()
    sp: SP = SP()
    finetune: Finetune = Finetune()
    attacks: Attacks = Attacks()
    extraction: Extraction = Extraction()
    priors: Priors = Priors()
    zero_prior: ZeroPrior = ZeroPrior()
    blackbox: BlackBox = BlackBox()
    mixsyn: MixSyn = MixSyn()
    ablations: Ablations = Ablations()
    statistics: Statistics = Statistics()
    audit: Audit = Audit()
    hardware: Hardware = Hardware()

    def changed(self, overrides: dict) -> "Params":
        """These parameters with others in place of some, such as {"sp.images": 96}; raises ParamsError."""
        raw = self.model_dump()
        for key, value in overrides.items():
            raw = _merged(raw, _nested(key, value))
        try:
            return Params.model_validate(raw)
        except ValidationError as error:
            raise ParamsError(sentence(f"params/{self.profile}.yaml", error)) from None

    @property
    def trains_base(self) -> bool:
        """Whether the base model is trained here, not read from a folder."""
        return self.retrain_base or not (self.base.path or self.base.hub)


def profiles() -> list[str]:
    return sorted(path.stem for path in PARAMS_DIR.glob("*.yaml"))


def _read(profile: str, below: tuple[str, ...] = ()) -> dict:
    path = PARAMS_DIR / f"{profile}.yaml"
    if not path.is_file():
        raise ParamsError(f"Unknown profile '{profile}': there is no {path.name} in params/; known: {', '.join(profiles())}.")
    try:
        own = yaml.safe_load(path.read_text(encoding="utf-8-sig")) or {}
    except UnicodeDecodeError:
        raise ParamsError(f"params/{path.name} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise ParamsError(f"params/{path.name} cannot be read ({error.strerror}); make it readable, or name another profile.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ParamsError(f"params/{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(own, dict):
        raise ParamsError(f"params/{path.name} holds no keys with values; write KEY: VALUE, such as seed: 0.")
    parent = own.pop("extends", None)
    if parent in (*below, profile):
        raise ParamsError(f"params/{path.name}: extends leads back to {parent}; name another profile, or none.")
    return _merged(_read(parent, (*below, profile)), own) if parent else own


def _merged(old: dict, new: dict) -> dict:
    both = {
        key: _merged(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value for key, value in new.items()
    }
    return {**old, **both}


def _nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def takes_text(key: str) -> bool:
    """Whether the value of a key such as base.path is text: a path, a name, a prompt."""
    kind: object = Params
    for part in key.split("."):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = field.annotation if field else None
        else:
            kind = get_args(kind)[1] if get_origin(kind) is dict else None
    return kind in (str, str | None)


def sentence(source: str, error: ValidationError, of: type[BaseModel] | None = None) -> str:
    """The first complaint of pydantic as one sentence: file, key, value, what is allowed. of: the section that was read; None: all."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    where = f"{source}.{key}" if of and key else source if of else f"{source}: {key or 'the whole'}"
    if first["type"] == "extra_forbidden":
        section: type[BaseModel] | None = of or Params
        for part in first["loc"][:-1]:
            field = section.model_fields.get(str(part)) if section else None
            kind = field.annotation if field else None
            section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        known = f"; known here: {', '.join(section.model_fields)}" if section else ""
        return f"{where} is not a known key{known}."
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    value = first.get("input")
    shown = f" is {value!r}" if isinstance(value, (str, int, float, bool, list)) else ""
    return f"{where}{shown}; {message}."


def load_params(profile: str | None = None, overrides: dict | None = None) -> Params:
    """The parameters of a profile, `$S2L_PROFILE` or `lab` by default, with overrides such as {"sp.images": 96}.

    Raises ParamsError with the key's name and what is allowed.
    """
    profile = profile or os.environ.get("S2L_PROFILE") or "lab"
    raw = _read(profile)
    for key, value in (overrides or {}).items():
        if key == "profile":
            raise ParamsError("profile is no parameter that can be changed; name it with --profile, or in $S2L_PROFILE.")
        if key in ("base.path", "base.hub") and value:  # one names the model, so the profile's other one does not
            raw = _merged(raw, {"base": {"path": None, "hub": None}})
        if key == "world.folder" and value:  # nor its folders
            raw = raw | {"world": raw.get("world", {}) | {"folders": {}}}
        raw = _merged(raw, _nested(key, value))
    try:
        return Params.model_validate({**raw, "profile": profile})
    except ValidationError as error:
        raise ParamsError(sentence(f"params/{profile}.yaml", error)) from None
