"""From the specification of a model to its pipeline, whatever it is made of."""

import json
from pathlib import Path

from s2llib.artifact import made, table
from s2llib.data.domain import Domain
from s2llib.finetune.methods import TRAININGS
from s2llib.finetune.recipe import load_adapters, prompt_of
from s2llib.lab import Lab
from s2llib.models.base import base_key, base_model, edge_of, image_edge
from s2llib.models.hardware import prepare
from s2llib.models.pipeline import load_pipeline, pipeline_class
from s2llib.models.unconditional import load_unconditional
from s2llib.specs import Base, Earlier, Judge, Model, Noted

__all__ = ["asked", "folder", "image_size", "judge_folder", "loaded", "pipeline", "stop", "trained", "training"]


def folder(lab: Lab, model: Model) -> Path:
    """Where a model lies: a whole pipeline, or what was trained on top of its base."""
    if isinstance(model, Earlier):
        return stop(made(lab, model.of), model.steps)
    if not isinstance(model, Base):
        return made(lab, model)
    if model.path is None and model.content != base_key(lab.params):
        raise ValueError("a base model that is trained here is that of its lab's own parameters")
    return model.path or base_model(lab.params, lab.store)


def judge_folder(lab: Lab, judge: Judge) -> Path | str:
    """Where a judge lies."""
    return judge.at or folder(lab, lab.base)


def stop(run: Path, steps: int) -> Path:
    """Where a training keeps what it was after so many steps."""
    return run / f"steps-{steps}"


def loaded(lab: Lab, model: Model):
    """A fresh pipeline; adapters are fused into their base, so that it costs no more to query."""
    at = folder(lab, model)
    if (at / "model_index.json").is_file():
        return load_unconditional(at) if pipeline_class(at) == "DDPMPipeline" else load_pipeline(at)
    return load_adapters(loaded(lab, model.base), at)


def pipeline(lab: Lab, model: Model):
    """The pipeline of a model, ready to query; base models stay in memory."""
    ready = lambda: prepare(loaded(lab, model), lab.params.hardware, lab.device, trains=False)  # noqa: E731
    return lab.resident(model.content, ready) if isinstance(model, Base) else ready()


def trained(lab: Lab, model: Model):
    """A fresh pipeline of a model, to fine-tune."""
    return prepare(loaded(lab, model), lab.params.hardware, lab.device, trains=True)


def training(lab: Lab, model: Model) -> dict:
    """What was noted of a fine-tuning: loss of every step, trainable parameters, threads, seconds; nothing of a base model."""
    if isinstance(model, Base):
        return {}
    run = model.of if isinstance(model, Earlier) else model
    noted = json.loads(table(lab, Noted(run))["training"][0])
    return noted | {"loss": noted["loss"][: model.steps]} if isinstance(model, Earlier) else noted


def asked(model: Model, domain: Domain, text: str) -> str:
    """`text` as a model is asked: a token that it learnt stands for the instance prompt."""
    method = getattr(model, "method", None)
    return prompt_of(TRAININGS[method], domain, text) if method else text


def image_size(lab: Lab, model: Model) -> int:
    """Edge of a model's images in pixels."""
    while not isinstance(model, Base):
        model = model.base
    return edge_of(model.path) if model.path else image_edge(lab.params)
