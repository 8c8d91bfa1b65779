"""Quality of generated images: BRISQUE, a KID-like distance on CLIP features, and whether the person is still recognised."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2llib.metrics.bootstrap import Estimate, HierarchicalBootstrap
from s2llib.params import ParamsError, first_line

__all__ = ["brisque", "kid", "kid_estimate", "no_brisque", "recognised"]


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


def kid(x: np.ndarray, y: np.ndarray, wx: np.ndarray | None = None, wy: np.ndarray | None = None) -> np.ndarray:
    """Unbiased squared MMD of features x [n, d] and y [m, d] with KID's cubic kernel (Binkowski et al. 2018, equation 4).

    wx [b, n], wy [b, m]: bootstrap counts, for one value each; a pair of copies of one image does not count as a pair.
    """
    single = wx is None
    wx, wy = (np.ones((1, len(z))) if w is None else w for z, w in ((x, wx), (y, wy)))

    def within(z: np.ndarray, w: np.ndarray) -> np.ndarray:
        k = _kernel(z, z)
        np.fill_diagonal(k, 0)
        return ((w @ k) * w).sum(1) / np.maximum(w.sum(1) ** 2 - (w**2).sum(1), 1)  # 1: of copies of one image alone there is no pair

    across = ((wx @ _kernel(x, y)) * wy).sum(1) / (wx.sum(1) * wy.sum(1))
    found = within(x, wx) + within(y, wy) - 2 * across
    return found[0] if single else found


def kid_estimate(bootstrap: HierarchicalBootstrap, generated: list[np.ndarray], real: list[np.ndarray]) -> Estimate:
    """KID per domain, generated [n, d] against real [m, d] features, averaged over domains; sizes of the bootstrap: (n, m)."""
    value, total = 0.0, np.zeros(bootstrap.replicates)
    for rows, weights, x, y in zip(bootstrap.rows, bootstrap.weights, generated, real, strict=True):
        np.add.at(total, rows, kid(x, y, *weights) / len(generated))
        value += float(kid(x, y)) / len(generated)
    return Estimate(value, total)
