"""Intervals for means, differences and other numbers, where cases of one patient belong together.

Patients are resampled, never cases: two cases of one patient do not tell as much as two patients. Intervals of means
are bias-corrected and accelerated (BCa; Efron 1987, https://doi.org/10.1080/01621459.1987.10478410), the acceleration
from a jackknife over patients. Over a handful of seeds a bootstrap is too narrow, so there Student's t is used, also
where seeds and patients count together, and Welch's where seeds are not paired.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

_BLOCK = 500
_LEAST_P = 1e-12


@dataclass(frozen=True)
class Interval:
    """A number with the interval that holds the true one with the confidence given.

    Args:
        estimate: The number itself; NaN where nothing could be measured.
        low: Lower end; NaN where there are fewer than two clusters.
        high: Upper end.
        method: How the interval was made.
        n: Values that entered.
        clusters: Independent units (patients, seeds) that entered.
        confidence: For instance 0.95.
    """

    estimate: float
    low: float
    high: float
    method: str
    n: int
    clusters: int
    confidence: float = 0.95

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary; NaN as None, because JSON has none."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.estimate:.3f}"
        return f"{self.estimate:.3f} ({self.low:.3f} to {self.high:.3f})"


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Interval:
    """Mean over cases with a BCa bootstrap interval over patients.

    Args:
        values: One number a case; NaN is left out.
        clusters: Patient of each case.
        confidence: Share of such intervals that hold the true mean.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling.
    """
    kept = [(value, cluster) for value, cluster in zip(values, clusters, strict=True) if math.isfinite(value)]
    sums, counts = _by_cluster(kept)
    estimate = float(sums.sum() / counts.sum()) if kept else math.nan
    if len(sums) < 2:
        return Interval(estimate, math.nan, math.nan, "none: fewer than two patients", len(kept), len(sums), confidence)
    drawn = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    low, high = _bca(drawn, estimate, left_out, confidence)
    return Interval(estimate, low, high, "BCa bootstrap over patients", len(kept), len(sums), confidence)


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95
) -> Interval:
    """Mean of `ours - theirs` over the same cases, with a BCa bootstrap interval over patients.

    A pair with a NaN is left out.
    """
    return mean_interval(np.subtract(ours, theirs).tolist(), clusters, confidence)


def comparable_dice(dice: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Dice of arms on the same cases, with 1 where an arm rightly left empty what another invented.

    Without this, pairs would leave out just the cases in which one arm invents a structure.

    Args:
        dice: (arms, cases), NaN where prediction and reference are empty; where that is so for all arms it stays NaN.
    """
    values = np.asarray(dice, dtype=np.float64)
    known = np.isfinite(values)
    return np.where(~known & known.any(axis=0), 1.0, values)


def statistic_interval(
    statistic: Callable[[npt.NDArray[np.int64]], float],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Any number of a set of cases, with a percentile bootstrap interval over patients.

    Args:
        statistic: Takes positions of cases, repeated as drawn; NaN where it is not defined (only one class drawn).
        clusters: Patient of each case.
        confidence: Share of such intervals that hold the true number.
        resamples: Bootstrap resamples; those where the number is not defined are left out.
        seed: Seed of the resampling.
    """
    members = _members(clusters)
    estimate = float(statistic(np.arange(len(clusters))))
    if len(members) < 2:
        return Interval(
            estimate, math.nan, math.nan, "none: fewer than two patients", len(clusters), len(members), confidence
        )
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [
            statistic(np.concatenate([members[m] for m in rng.integers(len(members), size=len(members))]))
            for _ in range(resamples)
        ]
    )
    drawn = drawn[np.isfinite(drawn)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (math.nan, math.nan)
    method = "percentile bootstrap over patients"
    if len(drawn) < resamples:
        method += f"; not defined in {1 - len(drawn) / resamples:.1%} of the resamples"
    return Interval(estimate, float(low), float(high), method, len(clusters), len(members), confidence)


def t_interval(values: Sequence[float], confidence: float = 0.95, groups: Sequence[Hashable] = ()) -> Interval:
    """Mean with Student's t interval: for the differences of paired seeds.

    Args:
        values: One a seed.
        confidence: Share of such intervals that hold the true number.
        groups: What each value belongs to, where those of one group are not independent, for instance of one
            pretraining: the groups' sums of deviations make the variance, and their number the degrees of freedom.
    """
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if not n:
        return Interval(math.nan, math.nan, math.nan, "none: no values", 0, 0, confidence)
    mean = float(array.mean())
    members = _members(groups or range(n))
    count = len(members)
    if count < 2:
        return Interval(mean, math.nan, math.nan, "none: one value", n, count, confidence)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * _error_of_mean(array, members)
    return Interval(mean, mean - half, mean + half, "Student's t", n, count, confidence)


def _error_of_mean(values: npt.NDArray[np.float64], members: Sequence[npt.NDArray[np.int64]]) -> float:
    """Standard error of the mean of values in groups; the plain one where each is a group of its own."""
    shares, count = [(values[m] - values.mean()).sum() / len(values) for m in members], len(members)
    return math.sqrt(count / (count - 1) * sum(share**2 for share in shares))


def welch_interval(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of `first` minus mean of `second` with Welch's t interval: for seeds that are not paired.

    The two may be of other size and spread (Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28).
    """
    n = len(first) + len(second)
    if not len(first) or not len(second):
        return Interval(math.nan, math.nan, math.nan, "none: no values", n, n, confidence)
    difference = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2:
        return Interval(difference, math.nan, math.nan, "none: one value", n, n, confidence)
    error, freedom = _welch(first, second)
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return Interval(difference, difference - half, difference + half, "Welch's t", n, n, confidence)


def welch_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """p, two-sided, that both have one mean; below 0.05 where the 95 % `welch_interval` leaves 0 out.

    NaN where that has no ends.
    """
    if min(len(first), len(second)) < 2:
        return math.nan
    difference = abs(float(np.mean(first) - np.mean(second)))
    error, freedom = _welch(first, second)
    return 2 * float(stats.t.sf(difference / error, freedom)) if error else float(difference == 0)


def _welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Standard error of the difference of two means, and its degrees of freedom."""
    errors = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    spread = sum(errors)
    sizes = (len(first), len(second))
    freedom = spread**2 / sum(e**2 / (n - 1) for e, n in zip(errors, sizes, strict=True)) if spread else 1.0
    return math.sqrt(spread), freedom


def crossed_interval(
    statistic: Callable[[npt.NDArray[np.int64]], Sequence[float]],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    groups: Sequence[Hashable] = (),
    without_each: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]] | None = None,
) -> tuple[Interval, float]:
    """Mean over seeds of a number of a set of cases, with an interval for other seeds and other patients at once.

    The half-widths of Student's t over the seeds and over the patients (variance by the jackknife) add in squares
    (MOVER; Zou and Donner 2008, https://doi.org/10.1002/sim.3095), so it is never narrower than either. What seeds and
    patients share is in both: it covers rather more than it says (tests/evaluation/crossed_coverage.py).

    Args:
        statistic: Takes positions of cases, gives the number of each seed.
        clusters: Patient of each case.
        confidence: Share of such intervals that hold the true number.
        groups: Of the seeds, as in `t_interval`.
        without_each: Takes the number of each case's patient, from 0, gives the mean over seeds without each patient,
            where that is quicker than to measure every time anew.

    Returns:
        The interval, and p: 1 minus the confidence at which it would end at 0; NaN without an interval.
    """
    members, found = _members(clusters), statistic(np.arange(len(clusters)))
    seeds = t_interval(found, confidence, groups)
    nothing = replace(seeds, low=math.nan, high=math.nan, n=len(clusters), clusters=len(members))
    if seeds.clusters < 2 or len(members) < 2:
        return replace(nothing, method="none: fewer than two seeds or patients"), math.nan
    left_out = without_each(_numbers(members)) if without_each else _without_each(statistic, members, len(clusters))
    if not np.isfinite(left_out).all():
        return replace(nothing, method="none: without one of the patients the number is not defined"), math.nan
    n, m = len(members), seeds.clusters
    of_patients = math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    of_seeds = _error_of_mean(np.asarray(found), _members(groups or range(len(found))))

    def half(level: float) -> float:
        return math.hypot(stats.t.isf(level / 2, m - 1) * of_seeds, stats.t.isf(level / 2, n - 1) * of_patients)

    width = half(1 - confidence)
    interval = replace(
        nothing, low=seeds.estimate - width, high=seeds.estimate + width, method="Student's t over seeds and patients"
    )
    return interval, _level_of(half, abs(seeds.estimate))


def _level_of(half: Callable[[float], float], distance: float) -> float:
    """The level at which a half-width, which shrinks from one level to the next, is a distance; `_LEAST_P` at least."""
    if half(_LEAST_P) <= distance:
        return _LEAST_P if distance else 1.0
    return float(optimize.brentq(lambda level: half(level) - distance, _LEAST_P, 1.0))


def _without_each(
    statistic: Callable[[npt.NDArray[np.int64]], Sequence[float]], members: Sequence[npt.NDArray[np.int64]], count: int
) -> npt.NDArray[np.float64]:
    """(n,) mean over seeds without each patient in turn."""
    return np.array([np.mean(statistic(np.delete(np.arange(count), of_one))) for of_one in members])


def _members(clusters: Sequence[Hashable]) -> list[npt.NDArray[np.int64]]:
    """Positions of the cases of each patient, in order of first appearance."""
    found: dict[Hashable, list[int]] = {}
    for position, cluster in enumerate(clusters):
        found.setdefault(cluster, []).append(position)
    return [np.array(positions, dtype=np.int64) for positions in found.values()]


def _numbers(members: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """(n,) number of each case's patient."""
    numbers = np.repeat(np.arange(len(members)), [len(m) for m in members])
    return numbers[np.argsort(np.concatenate(members))]


def _by_cluster(
    pairs: Sequence[tuple[float, Hashable]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    values = np.array([value for value, _ in pairs], dtype=np.float64)
    members = _members([cluster for _, cluster in pairs])
    return np.array([values[m].sum() for m in members]), np.array([float(len(m)) for m in members])


def _resampled_means(
    sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Means over cases when whole patients are drawn with replacement; in blocks, so that memory stays small."""
    n = len(sums)
    drawn = []
    for begin in range(0, resamples, _BLOCK):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(_BLOCK, resamples - begin))
        drawn.append((times @ sums) / (times @ counts))
    return np.concatenate(drawn)


def _bca(
    drawn: npt.NDArray[np.float64], estimate: float, left_out: npt.NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    """Ends of the BCa interval; percentile where all resamples agree and there is nothing to correct."""
    tail = (1 - confidence) / 2
    spread = left_out.mean() - left_out
    below = (np.mean(drawn < estimate) + np.mean(drawn <= estimate)) / 2
    scale = float((spread**2).sum()) ** 1.5
    if not 0 < below < 1 or scale == 0:
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return float(low), float(high)
    bias = stats.norm.ppf(below)
    acceleration = float((spread**3).sum()) / (6 * scale)
    z = bias + stats.norm.ppf([tail, 1 - tail])
    levels = stats.norm.cdf(bias + z / (1 - acceleration * z))
    low, high = np.quantile(drawn, levels)
    return float(low), float(high)
