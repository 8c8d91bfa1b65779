"""Black-box membership inference against fine-tuned models (Pang & Wang, NDSS 2025).

Is the query image close to what its caption brings out?

Features [n, tokens, channels] of the query image and of its m generations become similarities [n, m, channels]; aggregated over m they
are the evidence [n, channels] that an inference model turns into a score. Every inference model is fitted on evidence whose membership the
attacker knows, and never sees what it is tested on.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor

__all__ = ["AGGREGATES", "MEASURES", "MODELS", "Classifier", "Distribution", "Evidence", "Threshold", "inferred", "similarity"]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-2) / (a.norm(dim=-2) * b.norm(dim=-2)).clamp(min=1e-12)


def _hamming(a: Tensor, b: Tensor) -> Tensor:
    """Share of tokens that lie on the same side of their channel's mean in both."""
    return ((a > a.mean(-2, keepdim=True)) == (b > b.mean(-2, keepdim=True))).double().mean(-2)


# name: similarity over the token axis of [..., tokens, channels]; higher is more alike
MEASURES = {
    "cosine": _cosine,
    "l1": lambda a, b: -(a - b).abs().mean(-2),
    "l2": lambda a, b: -(a - b).square().mean(-2).sqrt(),
    "hamming": _hamming,
}
AGGREGATES = {"mean": lambda s: s.mean(1), "max": lambda s: s.amax(1), "median": lambda s: s.quantile(0.5, dim=1)}


def similarity(query: Tensor, generated: Tensor, measure: str, form: str) -> Tensor:
    """[n, m, channels] of query features [n, tokens, channels] and generated ones [n, m, tokens, channels].

    form: `vector`, one similarity per channel (the paper's code); `scalar`, one of all features together: [n, m, 1].
    """
    query, generated = query.double()[:, None], generated.double()
    if form == "scalar":
        query, generated = (x.flatten(2)[..., None] for x in (query, generated))
    return MEASURES[measure](query, generated)


class _Standardised:
    """Evidence in standard deviations from the mean of what the model is fitted on."""

    def _standardise(self, members: np.ndarray, nonmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        every = np.concatenate([members, nonmembers])
        self.mean, self.spread = every.mean(0), every.std(0).clip(min=1e-12)
        return self._z(members), self._z(nonmembers)

    def _z(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.spread


class Threshold(_Standardised):
    """Member if the mean of the standardised similarities exceeds the threshold with the best accuracy on the fitted evidence.

    (The released code takes their maximum, which one noisy channel decides.)
    """

    def fit(self, members: np.ndarray, nonmembers: np.ndarray) -> "Threshold":
        """members, nonmembers: evidence [n, channels]."""
        m, n = (z.mean(1) for z in self._standardise(members, nonmembers))
        values = np.unique(np.concatenate([m, n]))
        middles = np.concatenate([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:] + 1])
        accuracy = [(m > cut).mean() + (n <= cut).mean() for cut in middles]
        self.threshold = middles[int(np.argmax(accuracy))]
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        """[n]; above 0: a member."""
        return self._z(x).mean(1) - self.threshold


class Distribution(_Standardised):
    """Log-likelihood ratio of two Gaussians, one of members' evidence, one of non-members'.

    Covariances are shrunk towards the identity times the mean variance: (1 - shrink) S + shrink (tr S / d) I, shrink = d / (n + d).
    """

    def fit(self, members: np.ndarray, nonmembers: np.ndarray) -> "Distribution":
        self.gaussians = [self._gaussian(z) for z in self._standardise(members, nonmembers)]
        return self

    @staticmethod
    def _gaussian(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, d = z.shape
        shrink, covariance = d / (n + d), np.cov(z.T, bias=True).reshape(d, d)
        return z.mean(0), (1 - shrink) * covariance + (shrink * covariance.trace() / d + 1e-9) * np.eye(d)

    @staticmethod
    def log_density(z: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """[n] of z [n, d]."""
        root = np.linalg.cholesky(covariance)
        white = np.linalg.solve(root, (z - mean).T)
        return -0.5 * (white**2).sum(0) - np.log(np.diag(root)).sum() - 0.5 * len(mean) * np.log(2 * np.pi)

    def score(self, x: np.ndarray) -> np.ndarray:
        """[n]; above 0: a member."""
        inside, outside = (self.log_density(self._z(x), *gaussian) for gaussian in self.gaussians)
        return inside - outside


class Classifier(_Standardised):
    """The mean log-odds of several small networks, each stopped early on a validation split of its own of the fitted evidence.

    (The released code keeps the epoch with the best AUC on the test set. One network alone is stopped on very few photographs.)
    """

    def __init__(self, networks: int = 5, hidden: int = 32, validation: float = 0.25, seed: int = 0):
        self.settings, self.networks, self.seed = {"hidden_layer_sizes": (hidden,), "validation_fraction": validation}, networks, seed

    def fit(self, members: np.ndarray, nonmembers: np.ndarray) -> "Classifier":
        m, n = self._standardise(members, nonmembers)
        x, y = np.concatenate([m, n]), np.repeat([1, 0], [len(m), len(n)])
        common = {"early_stopping": True, "n_iter_no_change": 20, "max_iter": 300, "alpha": 1e-2, "learning_rate_init": 1e-2}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.fitted = [MLPClassifier(**self.settings, **common, random_state=self.seed + i).fit(x, y) for i in range(self.networks)]
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        """[n]; above 0: a member."""
        p = np.mean([network.predict_proba(self._z(x))[:, 1] for network in self.fitted], axis=0).clip(1e-9, 1 - 1e-9)
        return np.log(p / (1 - p))


@dataclass(frozen=True)
class Evidence:
    """Similarities of members and of non-members to their generations: [n, channels] each; the first halves are known to the attacker."""

    members: np.ndarray
    others: np.ndarray

    @property
    def known(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(x[: len(x) // 2] for x in (self.members, self.others))

    @property
    def tested(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(x[len(x) // 2 :] for x in (self.members, self.others))


def inferred(found: Evidence, shadows: Sequence[Evidence], p, seed: int, most: int | None = None) -> pd.DataFrame:
    """Scores of the tested photographs by every inference model: model, split, image, score (above 0: a member), fitted (on how many).

    shadows: evidence of shadow models to fit on, all of it; none: the known half of `found`, at most that many members and non-members.
    p: has the fields networks, hidden and validation.
    """
    known = [(e.members, e.others) for e in shadows] or [tuple(x[:most] for x in found.known)]
    members, others = (np.concatenate(side) for side in zip(*known, strict=True))
    tables = []
    for name, new in MODELS.items():
        model = new(p, seed).fit(members, others)
        for split, x in zip(("member", "nonmember"), found.tested, strict=True):
            tables.append(pd.DataFrame({"model": name, "split": split, "image": range(len(x)), "score": model.score(x)}))
    return pd.concat(tables, ignore_index=True).assign(fitted=len(members) + len(others))


# name: made from the parameters `networks`, `hidden`, `validation`, seed
MODELS = {
    "threshold": lambda p, seed: Threshold(),
    "distribution": lambda p, seed: Distribution(),
    "classifier": lambda p, seed: Classifier(p.networks, p.hidden, p.validation, seed),
}
