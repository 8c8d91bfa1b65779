"""Membership attacks: score(denoiser, z0, c, ...) -> [n], higher means more likely a member."""

from s2llib.attacks.clid import clid
from s2llib.attacks.loss import loss
from s2llib.attacks.pia import pia, pian
from s2llib.attacks.secmi import secmi
from s2llib.attacks.sima import sima

__all__ = ["ATTACKS", "TITLES"]

ATTACKS = {"secmi": secmi, "pia": pia, "pian": pian, "loss": loss, "sima": sima, "clid": clid}
TITLES = {"secmi": "SecMI", "pia": "PIA", "pian": "PIAN", "loss": "loss", "sima": "SimA", "clid": "CLiD"}
