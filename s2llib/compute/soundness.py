"""A model that somebody else made, tried once before anything is computed."""

from pathlib import Path

from s2llib.artifact import artifact
from s2llib.compute.models import loaded
from s2llib.lab import Lab
from s2llib.models.hardware import free_memory
from s2llib.models.sanity import check_outputs
from s2llib.specs import Soundness

__all__: list[str] = []


@artifact(Soundness, "sound_model", 1, rounds=("precision",))
def try_out(lab: Lab, spec: Soundness, folder: Path) -> None:
    """An empty folder: that it is there says that the model is sound. Raises ParamsError where it is not."""
    check_outputs(loaded(lab, spec.model).to(lab.device), spec.photos, spec.prompt, lab.params.hardware.precision, spec.where)
    free_memory()  # of a model that may fill it, in a process that may ask no more of it
