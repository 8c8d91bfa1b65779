"""The one training loop: base models and every fine-tuning recipe run through it.

All randomness of step i comes from a generator seeded by (seed, i), so a run that is interrupted and resumed from
a checkpoint makes exactly the steps of one that was not.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2llib.models.finite import damaged
from s2llib.models.hardware import is_out_of_memory, optimizer_class
from s2llib.params import ParamsError
from s2llib.progress import track
from s2llib.store import FRESH

__all__ = ["check_loss", "check_trained", "generator", "train"]

CHECKPOINT_SECONDS = float(os.environ.get("S2L_CHECKPOINT_SECONDS", 60))
COST_FACTOR = 20  # and no more often than this many times what the last one took


def generator(*seeds: int) -> torch.Generator:
    """A CPU generator for a tuple of non-negative integers: independent streams for different tuples, trailing zeros aside."""
    state = np.random.SeedSequence(seeds).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def train(
    parameters: list[Tensor],
    loss: Callable[[int, torch.Generator], Tensor],
    *,
    steps: int,
    lr: float | list[float],
    seed: int,
    what: str,
    warmup: int = 0,
    cosine: bool = False,
    checkpoint: Path | None = None,
    optimizer: str = "adamw",
    after: Callable[[int], None] | None = None,
) -> list[float]:
    """Minimise loss(step, generator) over `parameters` with AdamW; returns the loss of every step.

    lr: for all parameters, or one for each; reached after `warmup` linear steps, then constant, or falling to 0 along
    a cosine. checkpoint: a folder to resume from and to save to once a minute. optimizer: `adamw`, or `adamw8bit`, which has no
    checkpoints. after: called with the number of steps after each of them. Raises ParamsError when a loss or, in the end, a parameter is no
    number, or when a step does not fit in memory.
    """
    rates = lr if isinstance(lr, list) else [lr] * len(parameters)
    runs = groupby(zip(rates, parameters, strict=True), key=lambda pair: pair[0])
    groups = [{"params": [p for _, p in run], "lr": rate, "peak": rate} for rate, run in runs]
    adam = optimizer_class(optimizer)(groups, weight_decay=0.01, **({"fused": True} if optimizer == "adamw" else {}))
    checkpoint = checkpoint if optimizer == "adamw" else None
    first, losses = _resume(checkpoint, parameters, adam)
    saved, cost = time.monotonic(), 0.0
    for step in track(range(first, steps), what):
        for group in adam.param_groups:
            group["lr"] = group["peak"] * _schedule(step, steps, warmup, cosine)
        try:
            value = loss(step, generator(seed, step))
            adam.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()  # the first one allocates AdamW's state
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ParamsError(
                f"{what}: a step does not fit in memory; set hardware.checkpointing=true or hardware.precision=bfloat16, or lower its"
                " batch."
            ) from error
        losses.append(value.item())
        check_loss(losses, max(rates), what)
        if after:
            after(step + 1)
        if checkpoint and time.monotonic() - saved > max(CHECKPOINT_SECONDS, COST_FACTOR * cost):
            start = time.monotonic()
            _save(checkpoint, step + 1, losses, parameters, adam)
            saved = time.monotonic()
            cost = saved - start
    check_trained(parameters, max(rates), what)
    return losses


def check_loss(losses: list[float], lr: float, what: str) -> None:
    """Raises ParamsError if the last loss is no number: the learning rate is to blame only where an earlier one was."""
    if np.isfinite(losses[-1]):
        return
    if len(losses) > 1:
        raise ParamsError(f"{what}: the loss is {losses[-1]} at step {len(losses) - 1}; lower the learning rate, now {lr:g}.")
    raise ParamsError(
        f"{what}: the loss is {losses[-1]} at the first step, before anything has trained: the model's weights or outputs are no numbers;"
        " set hardware.precision=float32 if it is not, or take another copy of the model."
    )


def check_trained(parameters: list[Tensor], lr: float, what: str) -> None:
    """Raises ParamsError if a parameter is no number after training, as the last step can leave it."""
    if name := damaged((f"parameter {i}", p.detach()) for i, p in enumerate(parameters)):
        raise ParamsError(f"{what}: a weight is no number after the last step (in {name}); lower the learning rate, now {lr:g}.")


def _schedule(step: int, steps: int, warmup: int, cosine: bool) -> float:
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise * (0.5 * (1 + np.cos(np.pi * step / steps)) if cosine else 1.0)


def _digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().cpu().numpy().tobytes())
    return found.hexdigest()


def _save(folder: Path, step: int, losses: list, parameters: list, optimizer) -> None:
    tensors = {f"parameter.{i}": p.detach().contiguous() for i, p in enumerate(parameters)}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"state.{i}.{name}": value.contiguous() for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / ".new.safetensors"
    try:
        save_file(tensors, new, metadata={"step": str(step), "losses": json.dumps(losses), "sha256": _digest(tensors)})
        os.replace(new, folder / "checkpoint.safetensors")
    except BaseException:  # half a checkpoint would only take room
        new.unlink(missing_ok=True)
        raise


def _resume(folder: Path | None, parameters: list, optimizer) -> tuple[int, list]:
    """Restore a checkpoint in place; (0, []) if there is none, or none that is sound."""
    path = folder / "checkpoint.safetensors" if folder else None
    if path is None or not path.is_file() or path.stat().st_mtime < float(os.environ.get(FRESH, 0)):
        return 0, []
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
    except (OSError, SafetensorError):
        metadata, tensors = {}, {}
    if metadata.get("sha256") != _digest(tensors):
        warnings.warn(f"Checkpoint {path} is damaged; the training starts again.", stacklevel=3)
        return 0, []
    for i, target in enumerate(parameters):
        target.data.copy_(tensors[f"parameter.{i}"])
    state = {
        i: {key: tensors[f"state.{i}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"state.{i}.{key}" in tensors}
        for i in range(len(parameters))
    }
    optimizer.load_state_dict(optimizer.state_dict() | {"state": {i: s for i, s in state.items() if s}})
    return int(metadata["step"]), json.loads(metadata["losses"])
