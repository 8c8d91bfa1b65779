"""Nothing that is no number is passed on: not as a latent, a pixel, a score or a weight."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from s2llib.params import ParamsError

__all__ = ["check_weights", "damaged", "eight_bit", "finite"]

PARTS = ("unet", "vae", "text_encoder")


def finite(x: Tensor, what: str, pipeline=None, precision: str = "float32") -> Tensor:
    """x itself; raises ParamsError, with the cause, if a value is NaN or infinite.

    what: what x is, in the plural; pipeline: whose weights may be the cause; precision: in which it computed.
    """
    if not torch.isfinite(x).all():
        raise ParamsError(f"{what} are no numbers (NaN or infinite): {_cause(pipeline, precision)}.")
    return x


def _cause(pipeline, precision: str) -> str:
    if name := damaged(_named(pipeline)):
        return f"so are its weights ({name}), since the file is damaged or training diverged; take another copy or an earlier checkpoint"
    if precision != "float32":
        return f"the weights are sound, so it overflows in {precision}; set hardware.precision=float32"
    return "the weights are finite, so it overflows in float32; take another copy, or fine-tune it with a lower learning rate"


def _named(pipeline) -> Iterable[tuple[str, Tensor]]:
    for part in PARTS:
        module = getattr(pipeline, part, None)
        if isinstance(module, torch.nn.Module):
            yield from ((f"'{name}' of the {part}", tensor) for name, tensor in module.state_dict().items())


def damaged(named: Iterable[tuple[str, Tensor]]) -> str:
    """Which of the named tensors first holds values that are no numbers, and how many; empty if none does."""
    for name, tensor in named:
        if lost := int((~torch.isfinite(tensor)).sum()):
            return f"{name}: {lost} of {tensor.numel()} values"
    return ""


def check_weights(pipeline) -> None:
    """Raises ParamsError if a weight of a pipeline is no number."""
    if name := damaged(_named(pipeline)):
        raise ParamsError(
            f"The weights hold values that are no numbers, NaN or infinite ({name}): the file is damaged or training diverged; take"
            " another copy or an earlier checkpoint."
        )


def eight_bit(drawn: np.ndarray, pipeline, precision: str = "float32") -> np.ndarray:
    """Generated images [n, h, w, 3] in [0, 1] as uint8; raises ParamsError if a pixel is no number, or if every image is flat."""
    finite(torch.from_numpy(drawn), "The pixels of generated images", pipeline, precision)
    images = (drawn * 255).round().astype(np.uint8)
    if (images == images[:, :1, :1]).all():
        raise ParamsError(
            "Every generated image is one flat colour: the parts of the model do not belong together, or fine-tuning destroyed it; look at"
            " its VAE and its scheduler, or lower the learning rate."
        )
    return images
