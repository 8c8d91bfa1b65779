"""Quality of generated images: BRISQUE, a KID-like distance on CLIP features, and whether the person is still recognised."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2llib.metrics.images import Sample
from s2llib.params import ParamsError, first_line

__all__ = ["brisque", "kid", "kid_sample", "no_brisque", "recognised"]


def _library() -> type:
    """The class of the package `brisque` (0.2), with features as plain numbers, which its own code fails at from numpy 2.5 on."""
    from brisque import BRISQUE

    class Plain(BRISQUE):
        def scale_features(self, features):
            return super().scale_features([np.asarray(value).item() for value in features])

    return Plain


def no_brisque() -> str:
    """Why BRISQUE cannot be computed here; empty if it can."""
    try:
        _library()
    except ModuleNotFoundError as error:
        reason = first_line(error)
        return f"the package brisque cannot be imported ({reason}); pip install -e '.[quality]' in the repository, with a compiler"
    except Exception as error:  # a shared object that does not load is an OSError, one of another numpy may be any
        return (
            f"the package brisque is installed and cannot be imported ({first_line(error)}); pip install --force-reinstall --no-cache-dir"
            " --no-deps brisque libsvm-official, with a compiler"
        )
    return ""


def brisque(pixels: Tensor) -> np.ndarray:
    """[n] BRISQUE (Mittal et al. 2012) of pixels [n, 3, h, w] in [0, 1] by the package `brisque`; lower is better.

    Raises ParamsError for an image that has none, as one of a flat colour.
    """
    judge = _library()(url=False)
    images = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    found = np.array([float(judge.score(image)) for image in images])
    if (lost := np.flatnonzero(~np.isfinite(found))).size:
        raise ParamsError(
            f"BRISQUE is no number for image {lost[0]} of {len(found)}, which is flat or damaged; look at the model's images."
        )
    return found


def recognised(features: Tensor, truth: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """[n] of 1 where the features [n, d] lie nearest, by cosine, to the mean of their own person's photographs.

    truth: [n] person; known: [m, d] features of real photographs, labels: [m] their person. The mean is the domain accuracy.
    """
    centre = known.mean(0)
    unit = F.normalize(known - centre, dim=1)
    means = torch.stack([unit[labels == person].mean(0) for person in range(int(labels.max()) + 1)])
    similarity = F.normalize(features - centre, dim=1) @ F.normalize(means, dim=1).T
    return (similarity.argmax(1) == truth).double()


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's polynomial kernel of features [n, d] and [m, d]."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kid_sample(x: np.ndarray, y: np.ndarray) -> Sample:
    """Unbiased squared MMD of features x [n, d] and y [m, d] with KID's cubic kernel (Binkowski et al. 2018, equation 4).

    An image's influence is twice its mean kernel with its own side less that with the other, as of any U-statistic (Hoeffding 1948). In
    simulation 95 % intervals over images cover 97 to 99 % where both sides are of one distribution; where they lie apart, 79 to 94 % with
    8 generated images, 86 to 94 % with 16 and 91 to 95 % with 48: the cubic kernel is skewed.
    """
    own = [_kernel(z, z) for z in (x, y)]
    for k in own:
        np.fill_diagonal(k, 0)
    (left, right), across = (k.sum(axis=1) / max(len(k) - 1, 1) for k in own), _kernel(x, y)
    value = left.mean() + right.mean() - 2 * across.mean()
    return Sample(float(value), {"generated": 2 * (left - across.mean(axis=1)), "real": 2 * (right - across.mean(axis=0))})


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """The value of `kid_sample`."""
    return kid_sample(x, y).value
