"""Typed parameters: a profile file becomes one frozen object, or one sentence that says what is wrong.

`params/NAME.yaml` may start from another profile (`extends: lab`) and change some of its keys.
"""

from s2llib.params.attacking import Attacks, Extraction
from s2llib.params.defending import MixSyn, Surrogate
from s2llib.params.finetuning import Finetune, Hypernetwork, HypernetworkDreamBooth, LoRA, Recipe, TextualInversion, TextualInversionLoRA
from s2llib.params.private import Encoder, PrivateLoRA
from s2llib.params.profile import Hardware, Params, Statistics, load_params, profiles, takes_text
from s2llib.params.section import PARAMS_DIR, ParamsError, below_repository, first_line, resolved
from s2llib.params.studies import Audit, ZeroPrior
from s2llib.params.world import SP, UNet, World

__all__ = [
    "PARAMS_DIR",
    "SP",
    "Attacks",
    "Audit",
    "Encoder",
    "Extraction",
    "Finetune",
    "Hardware",
    "Hypernetwork",
    "HypernetworkDreamBooth",
    "LoRA",
    "MixSyn",
    "Params",
    "ParamsError",
    "PrivateLoRA",
    "Recipe",
    "Statistics",
    "Surrogate",
    "TextualInversion",
    "TextualInversionLoRA",
    "UNet",
    "World",
    "ZeroPrior",
    "below_repository",
    "first_line",
    "load_params",
    "profiles",
    "resolved",
    "takes_text",
]
