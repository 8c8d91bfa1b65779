"""Is membership there at all? A one-sided permutation test within domains."""

import math

import numpy as np
from scipy.stats import rankdata

__all__ = ["permutation_test", "smallest_p"]

BLOCK = 500  # permutations at a time


def smallest_p(sizes: list[tuple[int, int]], permutations: int) -> float:
    """The smallest p-value that (members, non-members) of so many images in each domain can give."""
    ways = math.prod(math.comb(n + m, n) for n, m in sizes)
    return max(1 / ways, 1 / (1 + permutations))


def permutation_test(members: list[np.ndarray], nonmembers: list[np.ndarray], permutations: int, seed: int) -> tuple[float, float]:
    """(AUC, p) of scores [n] of members and [m] of non-members of every domain: the AUC is averaged over domains.

    p is the share of dealings of the labels, within each domain, that give an AUC at least as large, the true one counted: where members
    differ from non-members in nothing, it is at most p with probability p (Phipson & Smyth 2010).
    """
    rng, dealt = np.random.default_rng(seed), np.zeros(1 + permutations)
    for inside, outside in zip(members, nonmembers, strict=True):
        n, m = len(inside), len(outside)
        ranks = rankdata(np.concatenate([inside, outside]))
        deals = [min(BLOCK, permutations - i) for i in range(0, permutations, BLOCK)]
        sums = [rng.permuted(np.tile(ranks, (count, 1)), axis=1)[:, :n].sum(1) for count in deals]
        sums = np.concatenate([[ranks[:n].sum()], *sums])  # the true labels first
        dealt += (sums - n * (n + 1) / 2) / (n * m) / len(members)
    return float(dealt[0]), float(np.mean(dealt >= dealt[0] - 1e-9))
