"""Membership attacks, each an `ATTACK` in a file of this folder; its name is the file's."""

from importlib import import_module
from pkgutil import iter_modules

from pydantic import ValidationError

from s2llib.attacks.attack import Attack
from s2llib.params import Params, ParamsError, Section, sentence

__all__ = ["ATTACKS", "TITLES", "Attack", "check_attacks", "configured", "last_timestep", "load", "setting", "swept"]

ATTACKS: dict[str, Attack] = {}
TITLES: dict[str, str] = {}
ORDER = ("secmi", "pia", "pian", "loss", "sima", "clid")


def load() -> None:
    """Find the attacks in this folder."""
    modules = {each.name: import_module(f"{__name__}.{each.name}") for each in iter_modules(__path__)}
    found = {name: module.ATTACK for name, module in modules.items() if isinstance(getattr(module, "ATTACK", None), Attack)}
    for name in sorted(found, key=lambda name: (*ORDER, name).index(name)):
        ATTACKS[name], TITLES[name] = found[name], found[name].title


def setting(name: str, given: dict, where: str) -> Section:
    """The setting of an attack, its defaults filled in; raises ParamsError that begins with `where`."""
    try:
        return ATTACKS[name].settings.model_validate(given)
    except ValidationError as error:
        raise ParamsError(sentence(where, error, ATTACKS[name].settings)) from None


def configured(p: Params) -> dict[str, Section]:
    """{attack of the profile: its calibrated setting}."""
    return {name: setting(name, getattr(p.attacks, name, {}), f"params/{p.profile}.yaml: attacks.{name}") for name in p.attacks.names}


def swept(p: Params) -> dict[str, list[Section]]:
    """{attack of the profile: its setting at every timestep of the sweep}, those of `attacks.sweep.NAME` where it has some."""
    found, where = {}, f"params/{p.profile}.yaml: attacks.sweep"
    for name, own in configured(p).items():
        given = getattr(p.attacks.sweep, name, None)
        if given is not None and not isinstance(given, list):
            raise ParamsError(f"{where}.{name} is {given!r}; it must be a list of settings.")
        timesteps = [ATTACKS[name].sweep(own, t) for t in p.attacks.sweep.timesteps]
        found[name] = timesteps if given is None else [setting(name, each, f"{where}.{name}") for each in given]
    return found


def last_timestep(p: Params) -> tuple[str, int]:
    """(key, timestep) of the latest one that the attacks of a profile ask a model at."""
    asked = [(_key(name, own, ATTACKS[name].last(own)), ATTACKS[name].last(own)) for name, own in configured(p).items()]
    for name, some in swept(p).items():
        given = "timesteps" if getattr(p.attacks.sweep, name, None) is None else name
        asked.append((f"attacks.sweep.{given}", max(map(ATTACKS[name].last, some))))
    return max(asked, key=lambda pair: pair[1])


def _key(name: str, own: Section, last: int) -> str:
    """The parameter of an attack that holds its latest timestep; the attack with all of them where none alone does, as with t + k."""
    held = [field for field, value in own if value == last or (isinstance(value, list) and last in value)]
    return f"attacks.{name}.{held[0]}" if held else f"attacks.{name} ({own})"


def check_attacks(p: Params) -> None:
    """Raises ParamsError for an attack that there is not, or a setting that it does not take."""
    where, known = f"params/{p.profile}.yaml", f"known: {', '.join(ATTACKS)}"
    for key, names in (("attacks.names", p.attacks.names), ("mixsyn.attacks", p.mixsyn.attacks), ("audit.attack", [p.audit.attack])):
        for name in names:
            if name not in ATTACKS:
                raise ParamsError(f"{where}: {key}: unknown attack '{name}'; {known}.")
    for key, section in (("attacks", p.attacks), ("attacks.sweep", p.attacks.sweep)):
        for name in section.model_extra:
            if name not in ATTACKS:
                raise ParamsError(f"{where}: {key}.{name} is not a known key, and no attack; {known}.")
    for name in p.attacks.model_extra:
        setting(name, getattr(p.attacks, name), f"{where}: attacks.{name}")
    setting("secmi", p.zero_prior.secmi, f"{where}: zero_prior.secmi")
    swept(p)


load()
