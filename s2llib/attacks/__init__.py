"""Membership attacks: score(denoiser, z0, c, ...) -> [n], higher means more likely a member."""

from torch import Tensor

from s2llib.attacks.clid import clid
from s2llib.attacks.loss import loss
from s2llib.attacks.pia import pia, pian
from s2llib.attacks.secmi import secmi
from s2llib.attacks.sima import sima
from s2llib.models.denoiser import Denoiser
from s2llib.models.finite import finite

__all__ = ["ATTACKS", "TITLES", "attack_scores"]

ATTACKS = {"secmi": secmi, "pia": pia, "pian": pian, "loss": loss, "sima": sima, "clid": clid}
TITLES = {"secmi": "SecMI", "pia": "PIA", "pian": "PIAN", "loss": "loss", "sima": "SimA", "clid": "CLiD"}


def attack_scores(name: str, denoiser: Denoiser, z0: Tensor, c: Tensor, **setting) -> Tensor:
    """[n] scores of an attack by its name; raises ParamsError if one is no number."""
    return finite(ATTACKS[name](denoiser, z0, c, **setting), f"Scores of {TITLES[name]} at {setting}", denoiser.pipeline)
