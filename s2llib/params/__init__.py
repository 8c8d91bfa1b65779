"""Typed parameters: a profile file becomes one frozen object, or one sentence that says what is wrong.

`params/NAME.yaml` may start from another profile (`extends: lab`) and change some of its keys.
"""

from s2llib.params.attacking import Attacks, Extraction
from s2llib.params.defending import MixSyn, Perturbation, Surrogate
from s2llib.params.finetuning import (
    Defense,
    Finetune,
    Hypernetwork,
    HypernetworkDreamBooth,
    LoRA,
    Recipe,
    TextualInversion,
    TextualInversionLoRA,
)
from s2llib.params.private import Encoder, PrivateLoRA
from s2llib.params.profile import Hardware, Params, Statistics, load_params, profiles, sentence, takes_text
from s2llib.params.section import (
    PARAMS_DIR,
    Distinct,
    ParamsError,
    Positive,
    Section,
    Some,
    Timestep,
    below_repository,
    first_line,
    resolved,
)
from s2llib.params.studies import Audit, UnconditionalRecipe, ZeroPrior
from s2llib.params.world import SP, UNet, World

__all__ = [
    "PARAMS_DIR",
    "SP",
    "Attacks",
    "Audit",
    "Defense",
    "Distinct",
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
    "Perturbation",
    "Positive",
    "PrivateLoRA",
    "Recipe",
    "Section",
    "Some",
    "Statistics",
    "Surrogate",
    "TextualInversion",
    "TextualInversionLoRA",
    "Timestep",
    "UNet",
    "UnconditionalRecipe",
    "World",
    "ZeroPrior",
    "below_repository",
    "first_line",
    "load_params",
    "profiles",
    "resolved",
    "sentence",
    "takes_text",
]
