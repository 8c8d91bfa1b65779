"""Hierarchical bootstrap of domain-averaged membership metrics: resample domains, then images within each.

All values of a table share one set of resamples, so the interval of a change against the pre-trained model is
that of a paired difference.
"""

from dataclasses import dataclass

import numpy as np

from s2llib.metrics.roc import pair_order, tpr_at_fpr

__all__ = ["Estimate", "HierarchicalBootstrap", "PhotoBootstrap", "Scores", "linear_trend"]

POOL_BELOW = 100  # non-members in a domain: with fewer, TPR@1%FPR is computed on scores pooled over domains


@dataclass(frozen=True)
class Scores:
    """Membership scores of one method. members, nonmembers: per domain [seeds, n], a row for each fine-tuning seed.

    A domain with fewer seeds than another counts each of its own as often as it takes.
    """

    members: list[np.ndarray]
    nonmembers: list[np.ndarray]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [(m.shape[1], n.shape[1]) for m, n in zip(self.members, self.nonmembers, strict=True)]


@dataclass(frozen=True)
class Estimate:
    """A value with the replicates of its bootstrap [b]."""

    value: float
    replicates: np.ndarray

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.replicates - other.replicates)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval."""
        low, high = np.quantile(self.replicates, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def linear_trend(estimates: list[Estimate]) -> Estimate:
    """The change from the first to the last along the least-squares line through equally spaced estimates."""
    place = np.arange(len(estimates)) - (len(estimates) - 1) / 2
    slopes = place / (place @ place) * (len(estimates) - 1)
    return Estimate(sum(w * e.value for w, e in zip(slopes, estimates, strict=True)), slopes @ np.stack([e.replicates for e in estimates]))


class HierarchicalBootstrap:
    """Resamples for domains with the given (members, nonmembers) sizes; the same seed gives the same resamples."""

    def __init__(self, sizes: list[tuple[int, int]], replicates: int, seed: int):
        rng = np.random.default_rng(seed)
        self.sizes, self.replicates = sizes, replicates
        chosen = rng.integers(len(sizes), size=(replicates, len(sizes)))
        self.rows = [np.nonzero(chosen == d)[0] for d in range(len(sizes))]  # replicate of each draw of domain d
        self.weights = [
            tuple(rng.multinomial(n, np.full(n, 1 / n), size=len(rows)).astype(np.float64) for n in pair)
            for rows, pair in zip(self.rows, sizes, strict=True)
        ]

    def auc(self, scores: Scores) -> Estimate:
        """AUC per domain, averaged over fine-tuning seeds, then over domains."""
        value, total = 0.0, np.zeros(self.replicates)
        for d, (m, n) in enumerate(zip(scores.members, scores.nonmembers, strict=True)):
            order = np.mean([pair_order(a, b) for a, b in zip(m, n, strict=True)], axis=0)
            wm, wn = self.weights[d]
            np.add.at(total, self.rows[d], ((wm @ order) * wn).sum(1) / order.size)
            value += order.mean() / len(self.sizes)
        return Estimate(float(value), total / len(self.sizes))

    def mean(self, values: list[np.ndarray], side: int = 0) -> Estimate:
        """Mean over the images of a domain ([n], as many as its members; side 1: as its non-members), then over domains."""
        value, total = 0.0, np.zeros(self.replicates)
        for d, each in enumerate(values):
            np.add.at(total, self.rows[d], self.weights[d][side] @ each / len(each))
            value += each.mean() / len(self.sizes)
        return Estimate(float(value), total / len(self.sizes))

    def pooled(self) -> bool:
        """Whether TPR@1%FPR is computed on scores pooled over domains."""
        return min(n for _, n in self.sizes) < POOL_BELOW

    def tpr(self, scores: Scores, fpr: float = 0.01) -> Estimate:
        """TPR at an FPR of at most `fpr`: per domain and averaged, or on pooled scores where domains are small."""
        seeds = range(max(len(m) for m in scores.members))
        parts = [self._tpr(scores, seed, fpr) for seed in seeds]
        return Estimate(np.mean([p.value for p in parts]).item(), np.mean([p.replicates for p in parts], axis=0))

    def _tpr(self, scores: Scores, seed: int, fpr: float) -> Estimate:
        m, n = ([x[seed % len(x)] for x in side] for side in (scores.members, scores.nonmembers))
        if self.pooled():
            wm, wn = (np.concatenate([self._per_replicate(d, side) for d in range(len(m))], axis=1) for side in (0, 1))
            m, n = np.concatenate(m), np.concatenate(n)
            return Estimate(float(tpr_at_fpr(m, n, fpr)), tpr_at_fpr(m, n, fpr, wm, wn))
        value, total = 0.0, np.zeros(self.replicates)
        for d, rows in enumerate(self.rows):
            value += float(tpr_at_fpr(m[d], n[d], fpr)) / len(m)
            np.add.at(total, rows, tpr_at_fpr(m[d], n[d], fpr, *self.weights[d]) / len(m))
        return Estimate(value, total)

    def _per_replicate(self, d: int, side: int) -> np.ndarray:
        """[replicates, images]: how often each image of domain d is drawn in each replicate."""
        counts = np.zeros((self.replicates, self.sizes[d][side]))
        np.add.at(counts, self.rows[d], self.weights[d][side])
        return counts


class PhotoBootstrap:
    """Resamples of two sets of photographs, for models that share them: the members of target 0 are the non-members of target 1.

    sizes: of the two sets; an interval is over photographs, with these models. scores: a pair (members [m], non-members [n]) for
    each target.
    """

    def __init__(self, sizes: tuple[int, int], replicates: int, seed: int):
        rng = np.random.default_rng(seed)
        self.weights = [rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(np.float64) for n in sizes]

    def _sides(self, target: int) -> tuple[np.ndarray, np.ndarray]:
        return self.weights[target % 2], self.weights[1 - target % 2]

    @staticmethod
    def _mean(estimates: list[Estimate]) -> Estimate:
        return Estimate(float(np.mean([e.value for e in estimates])), np.mean([e.replicates for e in estimates], axis=0))

    def auc(self, scores: list[tuple[np.ndarray, np.ndarray]]) -> Estimate:
        """AUC of each target, averaged."""
        found = []
        for target, (m, n) in enumerate(scores):
            order, (wm, wn) = pair_order(m, n), self._sides(target)
            found.append(Estimate(float(order.mean()), ((wm @ order) * wn).sum(1) / order.size))
        return self._mean(found)

    def tpr(self, scores: list[tuple[np.ndarray, np.ndarray]], fpr: float = 0.01) -> Estimate:
        """TPR at an FPR of at most `fpr` on scores pooled over targets."""
        weights = [np.concatenate(side, axis=1) for side in zip(*(self._sides(i) for i in range(len(scores))), strict=True)]
        m, n = (np.concatenate(side) for side in zip(*scores, strict=True))
        return Estimate(float(tpr_at_fpr(m, n, fpr)), tpr_at_fpr(m, n, fpr, *weights))

    def accuracy(self, scores: list[tuple[np.ndarray, np.ndarray]], threshold: float = 0.0) -> Estimate:
        """(TPR + TNR) / 2 of the decision score > threshold of each target, averaged."""
        found = []
        for target, (m, n) in enumerate(scores):
            (wm, wn), right = self._sides(target), ((m > threshold).astype(float), (n <= threshold).astype(float))
            value = (right[0].mean() + right[1].mean()) / 2
            found.append(Estimate(float(value), (wm @ right[0] / len(m) + wn @ right[1] / len(n)) / 2))
        return self._mean(found)
