"""Many changes in one table: p-values that hold for all of them together."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import stdtr

__all__ = ["ENOUGH", "Family", "holm", "p_adjusted"]

ENOUGH = 12  # domains for sign flips: n give no p below 2^(1 - n), which is 0.0005 for 12 and 0.008 for 8
PERMUTATIONS = 9999


@dataclass(frozen=True)
class Family:
    """p: [tests] adjusted, in the order given. method: which, and why. level: one at which intervals of the tests hold for all together."""

    p: np.ndarray
    method: str
    level: float


def holm(p: np.ndarray) -> np.ndarray:
    """[tests] adjusted by Holm's step-down procedure (1979); NaN, a test that was not made, stays NaN and does not count."""
    p = np.asarray(p, dtype=float)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    adjusted = p.copy()
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def p_adjusted(p: np.ndarray, changes: np.ndarray | None = None, level: float = 0.95, *, seed: int = 0) -> Family:
    """Adjusted p-values of a family of tests, whose own are p [tests], two-sided.

    changes: [tests, domains], what each test is of, where it is a t test over domains with one training; NaN where a test lacks a domain.
    With all tests on the same domains, and enough of those: the step-down max-T procedure of Westfall and Young (1993) by sign flips of a
    domain's changes, jointly in all tests, which spends nothing on tests that repeat each other. Else Holm's, whose common level is
    Bonferroni's. No adjusted p is below the test's own.
    """
    p = np.asarray(p, dtype=float)
    if reason := _no_flips(p, changes):
        tests = max(1, int((~np.isnan(p)).sum()))
        return Family(holm(p), f"Holm ({reason})", 1 - (1 - level) / tests)
    changes = np.asarray(changes, dtype=float)
    domains = changes.shape[1]
    drawn = _statistics(changes, _signs(domains, seed))  # [flips, tests], the true signs first
    order = np.argsort(-drawn[0], kind="stable")
    largest = np.maximum.accumulate(drawn[:, order[::-1]], axis=1)[:, ::-1]  # of a test and of all behind it
    steps = (largest >= drawn[0, order] * (1 - 1e-9)).mean(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(steps)
    critical = np.quantile(drawn.max(axis=1), level, method="higher")
    common = 1 - 2 * stdtr(domains - 1, -critical)
    return Family(np.maximum(adjusted, p), f"max-T over {domains} domains", max(level, float(common)))


def _no_flips(p: np.ndarray, changes: np.ndarray | None) -> str:
    """Why signs cannot be flipped; empty if they can."""
    if changes is None or np.isnan(p).any():
        return "not all tests are t tests over domains"
    if np.isnan(changes).any():
        return "tests on different domains"
    domains = np.shape(changes)[1]
    return f"{domains} domains are too few for sign flips" if domains < ENOUGH else ""


@lru_cache(maxsize=4)
def _signs(domains: int, seed: int) -> np.ndarray:
    """[flips, domains] of 1 and -1, the first all 1: every one that differs where there are few, else drawn.

    All signs turned at once give the same |t|: the first domain keeps its own.
    """
    if 2 ** (domains - 1) <= PERMUTATIONS + 1:
        bits = np.arange(2 ** (domains - 1))[:, None] >> np.arange(domains - 1) & 1
    else:
        bits = np.random.default_rng(seed).integers(2, size=(PERMUTATIONS + 1, domains - 1))
        bits[0] = 0
    return np.hstack([np.ones((len(bits), 1)), 1.0 - 2 * bits])


def _statistics(changes: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """[flips, tests] |t| of the changes with flipped signs; 0 of a test whose changes are all zero."""
    domains, squares = changes.shape[1], (changes**2).sum(axis=1)
    squares = np.where(squares > 0, squares, 1)
    share = (signs @ changes.T) ** 2 / (domains * squares)  # of the squares, in the mean
    return np.sqrt(share * (domains - 1) / np.maximum(1 - share, 1e-12))
