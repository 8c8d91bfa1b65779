"""Intervals over domains: what a study may say of people whom it did not see.

The domain (a person) is the unit. A quantity is a value per domain, or per domain and training, and its mean has a t interval. A statistic
that is no mean has a bootstrap that resamples domains whole. One domain says nothing of others: `interval` gives NaN for it, and
`metrics.images` an interval over its images.

NaN is a value that is not known: a domain without any value, and in a change without either, is left out, and `Estimate.n` counts those
that stay. Every comparison with a NaN end is false: ask `rises` and `falls`, which then say no.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtr, stdtr, stdtrit

from s2llib.params import ParamsError

__all__ = ["Estimate", "change", "cluster_bootstrap", "interval", "least", "linear_trend", "pooled_tpr", "standardised"]

ANY = (-np.inf, np.inf)
SAME = 1e-12  # numbers that differ by less, relatively, differ by rounding


@dataclass(frozen=True)
class Estimate:
    """A value with its two-sided interval.

    n: domains behind it. trainings: how many the interval covers; with 1 it speaks of this one training alone. method: how low and high
    were found, in words. p: two-sided, that the value is the one asked about (of a change: 0); None where nothing was asked. se, df:
    standard error and degrees of freedom; NaN where there are none.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    trainings: int
    method: str
    p: float | None = None
    se: float = np.nan
    df: float = np.nan

    @property
    def rises(self) -> bool:
        return self.low > 0

    @property
    def falls(self) -> bool:
        return self.high < 0

    def visible(self, power: float = 0.8) -> float:
        """The smallest true change that an interval of this level would exclude zero at with this probability; NaN without an error.

        Of the noncentral t with the standard error that was found, which is itself an estimate; the two ends, low and high, are the
        smallest changes that the data exclude.
        """
        return _noncentrality(self.df, self.level, power) * self.se if self.se > 0 else np.nan


@lru_cache
def _noncentrality(df: float, level: float, power: float) -> float:
    df, critical = min(df, 1e6), stdtrit(df, (1 + level) / 2)
    return float(brentq(lambda shift: nctdtr(df, shift, critical) - (1 - power), 0, 3 * critical + 10))


def interval(
    values: np.ndarray, level: float = 0.95, *, null: float | None = None, bounds: tuple[float, float] = ANY, unit: float | None = None
) -> Estimate:
    """Mean of values [domains] or [domains, trainings] with its t interval over domains, or over domains and trainings.

    Domains and trainings count as crossed random factors, whose variances are estimated by the method of moments, with Satterthwaite's
    degrees of freedom. Over domains alone where there is one training, or where fewer than two domains have them all. A domain's
    trainings are averaged first: where some domains have more of them than others, all domains stay, and the trainings' variance comes
    from those that have all, weighted as the trainings are in the mean. In simulation 95 % intervals cover 93 to 97 % with three trainings
    or more; with two, which leave one degree of freedom, 87 to 97 %.

    null: asks for p, that the mean is this. bounds: what the mean can be; the interval is cut to it. unit: what one image changes in a
    domain's value. It serves where all values are equal and have no spread (counts of zero): with n domains, chances per domain above
    -log(1 - level) / n of being one unit off are excluded (the rule of three, 3.0 / n at 95 %; 3.7 / n to either side where the value
    is at neither bound). It holds for rare independent events. Without a unit the ends are NaN then. Of Poisson counts intervals cover 99 %
    while all domains together hold fewer than about three, 90 % at four, 94 % from fifteen on; a few points less where domains differ much.
    """
    grid = _known(values)
    domains = len(grid)
    if domains < 2:
        found = Estimate(float(np.nanmean(grid)) if domains else np.nan, np.nan, np.nan, level, domains, 1, "no interval over one domain")
        return found if domains else replace(found, method="no values")
    value, method = float(np.nanmean(grid, axis=1).mean()), f"over {domains} domains"
    if np.nanmax(grid) - np.nanmin(grid) <= SAME * np.nanmax(np.abs(grid)):
        return without_spread(Estimate(value, np.nan, np.nan, level, domains, 1, method), null, bounds, unit, domains)
    variance, df, covered = _variance(grid)
    trainings = grid.shape[1]
    method += f" and {trainings} trainings" if covered else ", one training" if trainings == 1 else ", trainings averaged"
    found = Estimate(value, np.nan, np.nan, level, domains, trainings if covered else 1, f"t {method}", se=variance**0.5, df=df)
    return by_t(found, null, bounds)


def change(before: np.ndarray, after: np.ndarray, level: float = 0.95, *, unit: float | None = None) -> Estimate:
    """Mean of after - before, paired by domain (and training), with its interval and p; arguments as those of `interval`.

    A difference of changes is a change too: of those of one model and those of another.
    """
    before, after = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (before, after)))
    difference = after - before
    rounding = SAME * np.maximum(np.abs(before), np.abs(after))
    return interval(np.where(np.abs(difference) <= rounding, 0, difference), level, null=0.0, unit=unit)


def by_t(found: Estimate, null: float | None, bounds: tuple[float, float] = ANY) -> Estimate:
    """The estimate with the ends (and p) of a t interval, from its value, se and df."""
    reach = stdtrit(found.df, (1 + found.level) / 2) * found.se
    p = None if null is None else float(2 * stdtr(found.df, -abs(found.value - null) / found.se))
    return replace(found, low=float(max(found.value - reach, bounds[0])), high=float(min(found.value + reach, bounds[1])), p=p)


def without_spread(found: Estimate, null: float | None, bounds: tuple[float, float], unit: float | None, count: int) -> Estimate:
    """The estimate, whose `count` values are all equal, with the ends that the rule of three gives (`interval`)."""
    if unit is None:
        p = None if null is None else 1.0 if found.value == null else np.nan
        return replace(found, p=p, method=f"no spread {found.method}")
    low, high = found.value > bounds[0], found.value < bounds[1]
    sides = low + high
    reach = -np.log((1 - found.level) / max(sides, 1)) * unit / count
    p = None if null is None else min(1.0, float(sides * np.exp(-count * abs(found.value - null) / unit)))
    ends = max(found.value - low * reach, bounds[0]), min(found.value + high * reach, bounds[1])
    return replace(found, low=float(ends[0]), high=float(ends[1]), p=p, method=f"rule of three {found.method}")


def _known(values: np.ndarray) -> np.ndarray:
    """[domains, trainings] without rows and columns that hold no number."""
    grid = np.asarray(values, dtype=float)
    grid = grid[:, None] if grid.ndim == 1 else grid
    if np.isinf(grid).any():
        raise ValueError("a value of a domain is infinite; NaN is what stands for a value that is not known.")
    known = ~np.isnan(grid)
    return grid[known.any(axis=1)][:, known.any(axis=0)]


def _variance(grid: np.ndarray) -> tuple[float, float, bool]:
    """(variance of the mean of domains' means, its degrees of freedom, whether trainings are in it) of [domains, trainings].

    With MS the mean squares of the block that is complete: MS(domains) / DT + (MS(trainings) - MS(rest)) / DT, the second term where it is
    positive. Written for grids with gaps: the first is the variance of the domains' means over D.
    """
    domains, trainings = grid.shape
    parts = [(np.nanmean(grid, axis=1).var(ddof=1) / domains, domains - 1)]
    known = ~np.isnan(grid)
    block = grid[known.all(axis=1)]
    covered = trainings > 1 and len(block) > 1
    if covered:
        weights = (known / known.sum(axis=1, keepdims=True)).mean(axis=0)
        rest = block - block.mean(axis=1, keepdims=True) - block.mean(axis=0) + block.mean()
        free = (len(block) - 1) * (trainings - 1)
        between, within = block.mean(axis=0).var(ddof=1), (rest**2).sum() / free / len(block)
        if between > within:
            parts += [(weights @ weights * between, trainings - 1), (-(weights @ weights) * within, free)]
    variance = sum(part for part, _ in parts)
    return float(variance), float(variance**2 / sum(part**2 / free for part, free in parts)), covered


def least(first: Estimate, second: Estimate) -> Estimate:
    """The smaller of two quantities, as of an attack's lead over 0.5 and its lead over a blind classifier.

    Its low end is above zero only where both are: no more often by mistake than either alone, whichever is the smaller.
    """
    chosen = first if first.value <= second.value else second
    low, high = (float(np.minimum(*ends)) for ends in ((first.low, second.low), (first.high, second.high)))
    return replace(chosen, low=low, high=high, p=None, se=np.nan, df=np.nan, method=f"least of two, {chosen.method}")


def linear_trend(values: np.ndarray) -> np.ndarray:
    """[...]: the change from first to last along the least-squares line through equally spaced values [steps, ...].

    Of values [steps, domains]: one trend per domain, for `change(0, trends)`.
    """
    values = np.asarray(values, dtype=float)
    place = np.arange(len(values)) - (len(values) - 1) / 2
    return np.tensordot(place / (place @ place) * (len(values) - 1), values, axes=1)


def cluster_bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    domains: int,
    level: float = 0.95,
    *,
    null: float | None = None,
    bounds: tuple[float, float] = ANY,
    replicates: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Interval over domains of a statistic that is no mean: a domain is drawn with all its images.

    statistic: of weights [b, domains], how often each domain counts, to [b] values. A change is the difference of two such statistics.
    The ends are value -/+ t(domains - 1) x the bootstrap's standard error x sqrt(D / (D - 1)). Of a pooled TPR@1%FPR with 8 and 40 domains
    of 32 + 32 images that covers 94 to 96 % of true levels and 97 to 99 % of true changes of zero; percentiles cover 90 to 94 % (changes
    98 to 100), BCa 87 to 92 % (88 to 89), the delete-one jackknife 91 to 94 % (95 to 97), with wider intervals of changes.
    """
    value = float(statistic(np.ones((1, domains)))[0])
    found = Estimate(value, np.nan, np.nan, level, domains, 1, "no interval over one domain")
    if domains < 2:
        return found
    weights = np.random.default_rng(seed).multinomial(domains, np.full(domains, 1 / domains), size=replicates)
    drawn = np.asarray(statistic(weights.astype(float)))
    found = replace(found, method=f"bootstrap over {domains} domains, one training")
    if np.ptp(drawn) <= SAME * np.abs(drawn).max():
        return without_spread(found, null, bounds, None, domains)
    return by_t(replace(found, se=float(drawn.std(ddof=1) * (domains / (domains - 1)) ** 0.5), df=domains - 1.0), null, bounds)


def standardised(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Scores [..., n] of a domain's images by mean and deviation of reference scores [..., r] that an attacker has, of generated images.

    Raises ParamsError where the reference scores have no spread.
    """
    scale = reference.std(axis=-1, ddof=1, keepdims=True) if reference.shape[-1] > 1 else np.zeros(1)
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ParamsError("the scores of a domain's generated images are not two different numbers or more; generate more images for it.")
    return (scores - reference.mean(axis=-1, keepdims=True)) / scale


def pooled_tpr(members: list[np.ndarray], nonmembers: list[np.ndarray], fpr: float = 0.01) -> Callable[[np.ndarray], np.ndarray]:
    """TPR at an FPR of at most `fpr` on scores pooled over domains, as a statistic of weights [b, domains] for `cluster_bootstrap`.

    members, nonmembers: per domain [n] or [seeds, n], standardised. Of several seeds the TPRs are averaged; a domain with fewer than
    another counts each of its own as often as it takes.
    """
    sides = [[np.atleast_2d(x) for x in side] for side in (members, nonmembers)]
    sizes = [np.array([x.shape[1] for x in side], dtype=float) for side in sides]
    curves = [_exceeding(*([x[seed % len(x)] for x in side] for side in sides)) for seed in range(max(map(len, sides[0])))]

    def statistic(weights: np.ndarray) -> np.ndarray:
        totals = [weights @ size for size in sizes]
        return np.mean([_rate(weights, above, alarms, *totals, fpr) for above, alarms in curves], axis=0)

    return statistic


def _exceeding(members: list[np.ndarray], nonmembers: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """[domains, k] each: how many members and non-members of a domain score higher than each distinct non-member of all, descending."""
    thresholds = np.append(np.unique(np.concatenate(nonmembers))[::-1], -np.inf)
    above, alarms = (
        np.stack([len(x) - np.searchsorted(np.sort(x), thresholds, side="right") for x in side]).astype(float)
        for side in (members, nonmembers)
    )
    return above, alarms


def _rate(weights, above, alarms, inside, outside, fpr: float) -> np.ndarray:
    """[b]: the share of members above the lowest threshold whose false alarms are allowed; more thresholds are tried while the last is."""
    width = min(alarms.shape[1], 64)
    while True:
        lowest = (weights @ alarms[:, :width] <= fpr * outside[:, None] + SAME).sum(axis=1) - 1
        if lowest.max() < width - 1 or width == alarms.shape[1]:
            return (weights @ above[:, :width])[np.arange(len(weights)), lowest] / inside
        width = min(2 * width, alarms.shape[1])
