"""Fine-tuned models: a pipeline or what was trained on top of one, and `training.json`."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pandas as pd

from s2llib.artifact import artifact, made, scratch, seconds
from s2llib.compute.images import photos
from s2llib.compute.models import stop, trained
from s2llib.data.domain import Domain
from s2llib.defenses.dp import private_finetune
from s2llib.finetune.knowledge import perturb
from s2llib.finetune.methods import TRAININGS
from s2llib.finetune.recipe import finetune, save_finetuned
from s2llib.lab import Lab
from s2llib.specs import Noted, PrivateTune, Tune, WeightNoise

__all__: list[str] = []


def _subject(name: str, instance: str) -> Domain:
    """Whom a model is fine-tuned on, as far as fine-tuning needs to know."""
    return Domain(name, {}, "", instance, instance)


@artifact(Tune, "tuned", 2, rounds=("precision", "optimizer"))
def tune(lab: Lab, spec: Tune, folder: Path) -> None:
    """One fine-tuned model."""
    pipeline, how, subject = trained(lab, spec.base), TRAININGS[spec.method], _subject(spec.name, spec.instance)

    def keep(steps: int) -> None:
        if steps in spec.stops:  # beside the checkpoints: a training that is resumed after it does not come past here again
            at = stop(scratch(lab, spec), steps)
            at.mkdir(parents=True, exist_ok=True)
            save_finetuned(deepcopy(pipeline), how, spec.recipe, subject, at)

    report = finetune(
        pipeline, how, spec.recipe, photos(lab, spec.images), subject, spec.seed, f"{how.title}, {spec.name}",
        prior=None if spec.prior is None else photos(lab, spec.prior), encode_batch=lab.params.attacks.batch,
        checkpoint=scratch(lab, spec), decay=spec.decay, hardware=lab.params.hardware, after=keep,
    )  # fmt: skip
    for steps in spec.stops:
        shutil.copytree(stop(scratch(lab, spec), steps), stop(folder, steps))
    save_finetuned(pipeline, how, spec.recipe, subject, folder)
    (folder / "training.json").write_text(json.dumps(report))


@artifact(PrivateTune, "privately_tuned", 2)
def tune_privately(lab: Lab, spec: PrivateTune, folder: Path) -> None:
    """A LoRA fine-tuned with DP-SGD, in float32."""
    pipeline = trained(lab, spec.base)
    pipeline.unet.disable_gradient_checkpointing()  # which opacus' hooks do not know
    report = private_finetune(
        pipeline, spec.recipe, photos(lab, spec.images), spec.epsilon, spec.seed, f"DP-SGD, {spec.epsilon}", lab.params.attacks.batch
    )
    save_finetuned(pipeline, TRAININGS[spec.method], spec.recipe, _subject("private", ""), folder)
    (folder / "training.json").write_text(json.dumps(report))


@artifact(WeightNoise, "weight_noise", 1)
def add_weight_noise(lab: Lab, spec: WeightNoise, folder: Path) -> None:
    """The paper's other reading of an attacker without prior knowledge: noise on what would be trained."""
    pipeline, how, subject = trained(lab, spec.base), TRAININGS[spec.method], _subject(spec.name, spec.instance)
    report = {"loss": [], "trainable": perturb(pipeline, how, spec.recipe, subject, spec.sigma, spec.seed)}
    save_finetuned(pipeline, how, spec.recipe, subject, folder)
    (folder / "training.json").write_text(json.dumps(report))


@artifact(Noted, "noted", 1)
def note(lab: Lab, spec: Noted, folder: Path) -> None:
    """training.parquet: training: JSON."""
    noted = json.loads((made(lab, spec.model) / "training.json").read_text()) | {"seconds": seconds(lab, spec.model)}
    pd.DataFrame({"training": [json.dumps(noted)]}).to_parquet(folder / "training.parquet")
