"""From scores to the rows of tables: the one place where values become estimates, changes, and p-values that hold for a whole table.

A *measure* is a quantity of one model that is known domain by domain: an AUC, a count, a share. Measures are subtracted (a change, a
difference of changes) and weighted (a trend); what is left has an interval over domains, or over images where there is one domain.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.metrics.images import Sample, auc_sample, combined, image_bootstrap, mean_sample, over_images
from s2llib.metrics.intervals import ANY, SAME, Estimate, cluster_bootstrap, interval, least, pooled_tpr, standardised
from s2llib.metrics.multiplicity import p_adjusted
from s2llib.metrics.roc import tpr_at_fpr
from s2llib.params import Statistics

__all__ = [
    "POOL_BELOW",
    "REFERENCE",
    "Entry",
    "Least",
    "Mean",
    "Photographs",
    "Pooled",
    "Resampled",
    "auc",
    "change",
    "collect",
    "estimated",
    "family_note",
    "measures",
    "protocols",
    "share",
    "span",
    "weighted",
]  # fmt: skip

POOL_BELOW = 100  # non-members in a domain: with fewer, TPR@1%FPR is computed on scores pooled over domains
REFERENCE = "reference"  # the split of generated images, whose scores an attacker has
SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Mean:
    """A quantity that is averaged over domains.

    grid: {domain: values [trainings]}; sample: what it is made of in one domain, image by image; bounds: what it can be; unit: what one
    image changes in a domain's value.
    """

    grid: dict[str, np.ndarray]
    sample: Callable[[str], Sample] = field(repr=False)
    bounds: tuple[float, float] = ANY
    unit: float | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.grid)

    @property
    def trainings(self) -> int:
        return max(map(len, self.grid.values()))

    def on(self, domains: Iterable[str]) -> "Mean":
        """The same on these domains."""
        return replace(self, grid={name: self.grid[name] for name in domains})

    def values(self) -> np.ndarray:
        """[domains, trainings], NaN where a domain has fewer than another."""
        rows = (each.astype(float) for each in self.grid.values())
        return np.stack([np.pad(row, (0, self.trainings - len(row)), constant_values=np.nan) for row in rows])

    def by_domain(self) -> dict[str, float]:
        """{domain: value, trainings averaged; NaN where none is known}."""
        return {name: np.nan if np.isnan(each).all() else float(np.nanmean(each)) for name, each in self.grid.items()}

    def estimate(self, level: float, null: float | None = None) -> Estimate:
        if len(self.grid) == 1:
            sample = self.sample(*self.grid)
            alone = None if self.unit is None else self.unit * min(map(len, sample.influence.values()))
            return over_images(sample, level, null=null, bounds=self.bounds, unit=alone)
        return interval(self.values(), level, null=null, bounds=self.bounds, unit=self.unit)


@dataclass(frozen=True)
class Pooled:
    """TPR at a fixed FPR on scores that are pooled over domains: no mean of theirs. members, nonmembers: {domain: [trainings, n]}."""

    parts: tuple[tuple[float, dict[str, np.ndarray], dict[str, np.ndarray]], ...]  # weight, members, non-members
    bounds: tuple[float, float] = SHARE

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.parts[0][1])

    @property
    def trainings(self) -> int:
        return max(len(x) for _, members, _ in self.parts for x in members.values())

    def on(self, domains: Iterable[str]) -> "Pooled":
        """The same on these domains."""
        chosen = list(domains)
        return replace(self, parts=tuple((w, *({name: side[name] for name in chosen} for side in sides)) for w, *sides in self.parts))

    def by_domain(self) -> None:
        """Nothing is known domain by domain."""

    def estimate(self, level: float, null: float | None = None) -> Estimate:
        if len(self.domains) == 1:
            return self._over_images(level, null)
        each = [(weight, pooled_tpr(list(m.values()), list(n.values()))) for weight, m, n in self.parts]
        statistic = lambda weights: sum(weight * rate(weights) for weight, rate in each)  # noqa: E731
        return cluster_bootstrap(statistic, len(self.domains), level, null=null, bounds=self.bounds)

    def _over_images(self, level: float, null: float | None) -> Estimate:
        sides = [(weight, *(next(iter(side.values())) for side in both)) for weight, *both in self.parts]

        def statistic(wm: np.ndarray, wn: np.ndarray) -> np.ndarray:
            return sum(
                weight * np.mean([tpr_at_fpr(m[i % len(m)], n[i % len(n)], 0.01, wm, wn) for i in range(max(len(m), len(n)))], axis=0)
                for weight, m, n in sides
            )

        return image_bootstrap(statistic, sides[0][1].shape[1], sides[0][2].shape[1], level=level, null=null)


ONCE = "photographs, models trained once"


@dataclass(frozen=True)
class Photographs:
    """A quantity of models that were trained once, which speaks of the photographs that they were asked about.

    sample: named by the sets of photographs that it is of; bounds: what it can be; unit: how far it goes with one photograph alone.
    """

    sample: Sample
    bounds: tuple[float, float] = ANY
    unit: float | None = None

    def by_domain(self) -> None:
        """Photographs are the unit, not domains."""

    def estimate(self, level: float, null: float | None = None) -> Estimate:
        return over_images(self.sample, level, null=null, bounds=self.bounds, unit=self.unit, of=ONCE)


@dataclass(frozen=True)
class Resampled:
    """As `Photographs`, of a statistic that has no influences, such as a rate at a threshold; statistic, sizes: of `image_bootstrap`."""

    statistic: Callable[..., np.ndarray]
    sizes: tuple[int, ...]

    def estimate(self, level: float, null: float | None = None) -> Estimate:
        return image_bootstrap(self.statistic, *self.sizes, level=level, null=null, of=ONCE)


@dataclass(frozen=True)
class Least:
    """The smaller of two quantities: its interval is above zero only where both are (`intervals.least`)."""

    first: Mean
    second: Mean

    def estimate(self, level: float, null: float | None = None) -> Estimate:
        return least(self.first.estimate(level), self.second.estimate(level))


Measure = Mean | Pooled | Photographs | Resampled | Least


def weighted(measures: Sequence[Measure], weights: Sequence[float]) -> Measure:
    """The weighted sum of measures on the domains that all of them have: a change (1, -1), a difference of changes, a trend."""
    if isinstance(measures[0], Photographs):
        return Photographs(combined([each.sample for each in measures], weights), ANY, _unit(measures, weights))
    common = [name for name in measures[0].domains if all(name in each.domains for each in measures)]
    chosen = [each.on(common) for each in measures]
    if isinstance(chosen[0], Pooled):
        parts = tuple((w * weight, m, n) for each, weight in zip(chosen, weights, strict=True) for w, m, n in each.parts)
        return Pooled(parts, ANY)
    grid = {name: _sum([each.grid[name] for each in chosen], weights) for name in common}
    return Mean(grid, lambda name: combined([each.sample(name) for each in chosen], weights), ANY, _unit(chosen, weights))


def _unit(measures: Sequence[Measure], weights: Sequence[float]) -> float | None:
    """What one image changes at most; None where that is not known."""
    units = [None if each.unit is None else abs(weight) * each.unit for each, weight in zip(measures, weights, strict=True)]
    return None if None in units else max(units)


def _sum(values: list[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """[trainings] weighted sum; one training goes with every other's; what differs by rounding alone is the same."""
    count = max(map(len, values))
    rows = [np.resize(each, count) if len(each) == 1 else np.pad(each, (0, count - len(each)), constant_values=np.nan) for each in values]
    total = sum(weight * row for weight, row in zip(weights, rows, strict=True))
    largest = np.max([np.abs(weight * row) for weight, row in zip(weights, rows, strict=True)], axis=0)
    return np.where(np.abs(total) <= SAME * largest, 0.0, total)


def change(after: Measure, before: Measure) -> Measure:
    """How far one measure lies above another, on the domains of the first."""
    return weighted([after, before], [1, -1])


# from scores


def protocols(frame: pd.DataFrame) -> dict[str, str]:
    """{protocol: split of its non-members}, the iid one first."""
    shifted = [split for split in frame["split"].unique() if split not in (MEMBER, NONMEMBER, REFERENCE)]
    return {"iid": NONMEMBER} | {f"shifted ({split})": split for split in shifted}


def collect(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """{method: {split: {domain: [seeds, images]}}} of the scores of one attack at one setting."""
    found: dict = {}
    for (method, split, domain), part in frame.groupby(["method", "split", "domain"], sort=False):
        wide = part.pivot(index="seed", columns="image", values="score")
        found.setdefault(method, {}).setdefault(split, {})[domain] = wide.to_numpy()
    return found


def auc(members: dict[str, np.ndarray], nonmembers: dict[str, np.ndarray]) -> Mean:
    """The AUC of scores {domain: [seeds, images]}."""
    grid = {name: np.array([auc_sample(m, n).value for m, n in zip(members[name], nonmembers[name], strict=True)]) for name in members}
    one = 1 / min(x.shape[1] for side in (members, nonmembers) for x in side.values())
    return Mean(grid, lambda name: auc_sample(members[name], nonmembers[name]), SHARE, one)


def tpr(members: dict[str, np.ndarray], nonmembers: dict[str, np.ndarray], reference: dict[str, np.ndarray] | None) -> Measure:
    """TPR@1%FPR of scores {domain: [seeds, images]}: of each domain where all have 100 non-members, else of scores pooled over domains,
    standardised within each by those of generated images."""
    if len(members) > 1 and min(n.shape[1] for n in nonmembers.values()) >= POOL_BELOW:
        pairs = {name: zip(members[name], nonmembers[name], strict=True) for name in members}
        grid = {name: np.array([float(tpr_at_fpr(m, n, 0.01)) for m, n in some]) for name, some in pairs.items()}
        return Mean(grid, _not_by_image, SHARE)
    if reference:
        members, nonmembers = ({name: standardised(side[name], reference[name]) for name in side} for side in (members, nonmembers))
    return Pooled(((1.0, members, nonmembers),))


def share(images: dict[str, np.ndarray], whole: float | dict[str, float] = 100.0, name: str = MEMBER) -> Mean:
    """Means of values in [0, 1] of a domain's images, {domain: [trainings, images]}, as a share of `whole`: per cent, or a count.

    whole: for every domain, or {domain: its own}; name: which images they are (`Sample`).
    """
    of = whole if isinstance(whole, dict) else dict.fromkeys(images, whole)
    grid = {domain: of[domain] * x.sum(axis=1) / x.shape[1] for domain, x in images.items()}
    one = max(of[domain] / x.shape[1] for domain, x in images.items())
    top = float(np.mean([of[domain] for domain in images]))
    return Mean(grid, lambda domain: mean_sample(of[domain] * images[domain].mean(axis=0), name), (0.0, top), one)


def _not_by_image(name: str) -> Sample:
    raise ValueError(f"a rate at a threshold has no influence of single images (asked for {name})")


METRICS = {"auc": "AUC", "tpr": "TPR@1%FPR"}


def measures(frame: pd.DataFrame, split: str = NONMEMBER, place: str = MEMBER, metrics: Iterable[str] = ("auc", "tpr")) -> dict[str, dict]:
    """{method: {metric: measure}} of the scores of one attack at one setting, against the non-members of a split.

    place: who stands for the members.
    """
    found: dict[str, dict[str, Measure]] = {}
    for method, splits in collect(frame).items():
        sides = splits[place], {name: splits[split][name] for name in splits[place]}
        made = {"auc": lambda sides=sides: auc(*sides), "tpr": lambda sides=sides, own=splits: tpr(*sides, own.get(REFERENCE))}
        found[method] = {METRICS[metric]: made[metric]() for metric in metrics}
    return found


# to rows


@dataclass(frozen=True)
class Entry:
    """A row to be: what it is called, its measure, what it is compared with, and the value that it is tested against, if it is.

    others: {name: a further measure that it is compared with}, for columns of that name.
    """

    labels: dict
    measure: Measure
    before: Measure | None = None
    null: float | None = None
    others: dict[str, Measure] = field(default_factory=dict)


def estimated(entries: Iterable[Entry], p: Statistics) -> pd.DataFrame:
    """Tidy rows: labels, value, low, high; delta with its interval, p, p_adjusted, smallest_visible; domains, seeds, interval.

    p_adjusted holds for all changes of one metric in the table together; smallest_visible: the change that an interval would have shown
    with 80 % power. `attrs["families"]`: {metric: how p was adjusted}. For each other comparison NAME, a family of its own: delta_NAME,
    delta_NAME_low, delta_NAME_high, p_NAME, p_NAME_adjusted, smallest_visible_NAME.
    """
    rows, tests = [], {"": []}
    for entry in entries:
        level = entry.measure.estimate(p.level, entry.null)
        row = entry.labels | {"value": level.value, "low": level.low, "high": level.high}
        against = {"": entry.before} if entry.before is not None else {}
        for of, other in (against | {f"_{name}": other for name, other in entry.others.items()}).items():
            moved = change(entry.measure, other)
            tested = moved.estimate(p.level, null=0.0)
            found = (tested.value, tested.low, tested.high, tested.p, np.nan, tested.visible())
            row |= dict(zip(_columns(of), found, strict=True))
            tests.setdefault(of, []).append((len(rows), tested.p, moved.by_domain()))
        if entry.before is None and entry.null is not None:
            row |= {"p": level.p, "p_adjusted": np.nan, "smallest_visible": level.visible()}
            tests[""].append((len(rows), level.p, entry.measure.by_domain()))
        rows.append(row | _counts(entry.measure) | {"interval": level.method})
    table = pd.DataFrame(rows)
    last = [*(name for of in tests for name in _columns(of)), *(name for name in ("domains", "seeds") if name in table), "interval"]
    table = table.reindex(columns=[*(name for name in table if name not in last), *last])  # changes too where there are none
    families = {of: _adjust(table, some, p, f"p{of}_adjusted") for of, some in tests.items()}
    table.attrs["families"] = families[""]
    return table


def _columns(of: str) -> list[str]:
    return [f"delta{of}", f"delta{of}_low", f"delta{of}_high", f"p{of}", f"p{of}_adjusted", f"smallest_visible{of}"]


def _adjust(table: pd.DataFrame, tests: list[tuple], p: Statistics, column: str) -> dict[str, str]:
    """Fill in a column of adjusted p, metric by metric; returns how."""
    said = {}
    if not tests:
        return said
    metrics = table["metric"] if "metric" in table else pd.Series("", table.index)
    for metric in dict.fromkeys(metrics[[i for i, _, _ in tests]]):
        some = [(i, value, each) for i, value, each in tests if metrics[i] == metric]
        known = all(each is not None for _, _, each in some)
        names = list(dict.fromkeys(name for _, _, each in some for name in each)) if known else []
        changes = np.array([[each.get(name, np.nan) for name in names] for _, _, each in some]) if known and len(names) > 1 else None
        family = p_adjusted(np.array([np.nan if value is None else value for _, value, _ in some]), changes, p.level)
        table.loc[[i for i, _, _ in some], column] = family.p
        said[metric] = f"{family.method}, {len(some)} change{'' if len(some) == 1 else 's'}"
    return said


def _counts(measure: Measure) -> dict:
    """Columns `domains` and `seeds`; nothing of models that were trained once, whose photographs are in the labels."""
    if isinstance(measure, Photographs | Resampled):
        return {}
    mean = measure.first if isinstance(measure, Least) else measure
    return {"domains": len(mean.domains), "seeds": _seeds(mean)}


def _seeds(measure: Mean | Pooled) -> str:
    """Fine-tuning seeds: "2", or "2 on 10 domains, 1 on 30"."""
    counts = [len(each) for each in (measure.grid if isinstance(measure, Mean) else measure.parts[0][1]).values()]
    every = sorted(set(counts), reverse=True)
    if len(every) == 1:
        return str(every[0])
    return ", ".join(f"{n} on {counts.count(n)}{' domains' if n == every[0] else ''}" for n in every)


def family_note(table: pd.DataFrame, null: str = "") -> str:
    """What stands under a table of changes: how p was adjusted, what could have been seen, what is excluded.

    null: what values themselves were tested against, in a table that has no changes.
    """
    sentences, what = [], f"distance from {null}" if null else "change"
    for metric, how in table.attrs.get("families", {}).items():
        part = table[(table["metric"] == metric) & table["p_adjusted"].notna()] if "metric" in table else table[table["p_adjusted"].notna()]
        if part.empty:
            continue
        moved = part[["delta_low", "delta_high"]] if "delta_low" in part and part["delta_low"].notna().any() else part[["low", "high"]]
        seen, (low, high) = part["smallest_visible"].dropna(), (moved.iloc[:, 0].min(), moved.iloc[:, 1].max())
        form = ".3f" if np.nanmax([abs(low), abs(high), *seen, 0.0]) >= 0.01 else ".2g"
        visible = f"Smallest {what} that could have been shown (80 % power): {span(seen, form)}"
        ends = f"Values below {low:{form}} and above {high:{form}}" if null else f"Changes below {low:+{form}} and above {high:+{form}}"
        sentences.append(
            f"{metric}: p{null and f' (against {null})'} adjusted by {how.replace('change', 'test') if null else how}."
            f" {visible if len(seen) else 'In none is any spread seen'}."
            + (f" {ends} are excluded by every interval." if pd.notna(low) else "")
        )
    return " ".join(sentences)


def span(values: pd.Series, form: str = ".3f") -> str:
    """From the smallest to the largest."""
    return " to ".join(dict.fromkeys(f"{end:{form}}" for end in (values.min(), values.max())))
