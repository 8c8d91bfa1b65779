"""Membership attacks: score(denoiser, z0, c, ...) -> [n], higher means more likely a member."""

from torch import Tensor

from s2llib.attacks.clid import clid
from s2llib.attacks.loss import loss
from s2llib.attacks.pia import pia, pian
from s2llib.attacks.secmi import secmi
from s2llib.attacks.sima import sima
from s2llib.models.denoiser import Denoiser
from s2llib.models.finite import finite
from s2llib.params import Attacks

__all__ = ["ATTACKS", "TITLES", "attack_scores", "last_timestep"]

ATTACKS = {"secmi": secmi, "pia": pia, "pian": pian, "loss": loss, "sima": sima, "clid": clid}
TITLES = {"secmi": "SecMI", "pia": "PIA", "pian": "PIAN", "loss": "loss", "sima": "SimA", "clid": "CLiD"}


def attack_scores(name: str, denoiser: Denoiser, z0: Tensor, c: Tensor, **setting) -> Tensor:
    """[n] scores of an attack by its name; raises ParamsError if one is no number."""
    return finite(ATTACKS[name](denoiser, z0, c, **setting), f"Scores of {TITLES[name]} at {setting}", denoiser.pipeline)


def last_timestep(p: Attacks) -> tuple[str, int]:
    """(key, timestep) of the latest one that the attacks of a profile ask a model at."""
    asked = {f"attacks.{name}.t": getattr(p, name).t for name in ("pia", "pian", "sima") if name in p.names}
    asked |= {f"attacks.{name}.timesteps": max(getattr(p, name).timesteps) for name in ("loss", "clid") if name in p.names}
    asked |= {"attacks.secmi.t + k": p.secmi.t + p.secmi.k} if "secmi" in p.names else {}
    asked |= {"attacks.sweep.timesteps": max(p.sweep.timesteps), "attacks.sweep.secmi": max(each.t + each.k for each in p.sweep.secmi)}
    return max(asked.items(), key=lambda pair: pair[1])
