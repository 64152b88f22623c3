"""Label-fraction curves: does an arm (pretrained) beat another (from scratch) when few patients are labelled?

Arms are paired: for each seed and number of labelled patients both arms saw the same patients, the same budget and the
same test cases. Two intervals are given. Over seeds (Student's t of the seeds' mean differences) says what another
training on these test patients would give; over seeds and patients says what other test patients would give as well.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from medssl.evaluation.statistics import Interval, crossed_interval, t_interval
from medssl.imaging.errors import ConfigError


@dataclass(frozen=True)
class CurveRow:
    """The result of one trained network on one test case.

    Args:
        labels: Number of labelled patients it was trained on.
        seed: Seed of the training and of the choice of patients.
        arm: Name of the way of training, for instance `pretrained`.
        case: Test case.
        patient: Patient of that case.
        dice: Mean Dice over the classes; NaN where no class is there.
    """

    labels: int
    seed: int
    arm: str
    case: str
    patient: str
    dice: float


@dataclass(frozen=True)
class CurvePoint:
    """Two arms at one number of labelled patients.

    Args:
        labels: Number of labelled patients.
        seeds: Paired seeds.
        unpaired_seeds: Seeds that only one arm has; left out.
        ours: Mean Dice of our arm over seeds.
        theirs: Mean Dice of the other arm over seeds.
        seed_differences: Mean difference of each paired seed, in the order of `seeds`.
        over_seeds: Mean difference with its interval over seeds.
        over_seeds_and_patients: The same with seeds and test patients resampled.
    """

    labels: int
    seeds: tuple[int, ...]
    unpaired_seeds: tuple[int, ...]
    ours: Interval
    theirs: Interval
    seed_differences: tuple[float, ...]
    over_seeds: Interval
    over_seeds_and_patients: Interval

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {k: v.to_json() if isinstance(v, Interval) else v for k, v in vars(self).items()}


def paired_curve(rows: Sequence[CurveRow], ours: str, theirs: str, confidence: float = 0.95) -> list[CurvePoint]:
    """Compare two arms at each number of labelled patients.

    Args:
        rows: Results of all networks on all test cases.
        ours: Name of our arm.
        theirs: Name of the arm it is compared with.
        confidence: Of the intervals.

    Raises:
        ConfigError: An arm has no rows, a result is there twice, or the arms were tested on different cases.
    """
    table = _table(rows, (ours, theirs))
    cases = list(dict.fromkeys((row.case, row.patient) for row in rows if row.arm in (ours, theirs)))
    points = []
    for labels in sorted({key[0] for key in table}):
        seeds = {arm: {seed for n, seed, a in table if n == labels and a == arm} for arm in (ours, theirs)}
        both = sorted(seeds[ours] & seeds[theirs])
        if not both:
            continue
        _check_cases(table, labels, both, (ours, theirs), {case for case, _ in cases})
        values = {
            arm: np.array([[table[labels, seed, arm][case] for case, _ in cases] for seed in both])
            for arm in (ours, theirs)
        }
        difference = values[ours] - values[theirs]  # (seeds, cases)
        by_seed = np.nanmean(difference, axis=1)
        points.append(
            CurvePoint(
                labels=labels,
                seeds=tuple(both),
                unpaired_seeds=tuple(sorted(seeds[ours] ^ seeds[theirs])),
                ours=t_interval(np.nanmean(values[ours], axis=1).tolist(), confidence),
                theirs=t_interval(np.nanmean(values[theirs], axis=1).tolist(), confidence),
                seed_differences=tuple(float(d) for d in by_seed),
                over_seeds=t_interval(by_seed.tolist(), confidence),
                over_seeds_and_patients=crossed_interval(difference, [patient for _, patient in cases], confidence),
            )
        )
    return points


def curve_figure(points: Sequence[CurvePoint], ours: str, theirs: str) -> Figure:
    """Above: both arms over the number of labelled patients; below: their paired difference with both intervals."""
    figure = Figure(figsize=(5.2, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    places = np.arange(len(points))
    for name, shift, marker in ((ours, -0.06, "o"), (theirs, 0.06, "s")):
        intervals = [point.ours if name == ours else point.theirs for point in points]
        upper.errorbar(places + shift, [i.estimate for i in intervals], yerr=_bars(intervals), fmt=marker, label=name)
    upper.set_ylabel("mean Dice")
    upper.legend()
    lower.axhline(0, color="0.6", linewidth=1)
    for point, place in zip(points, places, strict=True):
        lower.plot([place] * len(point.seeds), point.seed_differences, ".", color="0.6")
    for shift, label, pick in (
        (-0.08, "over seeds", [p.over_seeds for p in points]),
        (0.08, "over seeds and patients", [p.over_seeds_and_patients for p in points]),
    ):
        lower.errorbar(places + shift, [i.estimate for i in pick], yerr=_bars(pick), fmt="o", capsize=3, label=label)
    lower.set_ylabel(f"{ours} − {theirs}")
    lower.legend()
    for axes in (upper, lower):
        axes.set_xticks(places, [str(point.labels) for point in points])
        axes.set_xlabel("labelled patients")
    return figure


def curve_json(points: Sequence[CurvePoint], ours: str, theirs: str) -> dict[str, Any]:
    """Content of a results file of a curve."""
    return {"ours": ours, "theirs": theirs, "points": [point.to_json() for point in points]}


def _table(rows: Sequence[CurveRow], arms: tuple[str, str]) -> dict[tuple[int, int, str], dict[str, float]]:
    table: dict[tuple[int, int, str], dict[str, float]] = {}
    problems = [f"arm {arm!r} has no results" for arm in arms if all(row.arm != arm for row in rows)]
    for row in rows:
        if row.arm not in arms:
            continue
        cases = table.setdefault((row.labels, row.seed, row.arm), {})
        if row.case in cases:
            problems.append(f"case {row.case!r} is there twice: {asdict(row)}")
        cases[row.case] = row.dice
    if problems:
        raise ConfigError(problems)
    return table


def _check_cases(
    table: dict[tuple[int, int, str], dict[str, float]],
    labels: int,
    seeds: Sequence[int],
    arms: tuple[str, str],
    cases: set[str],
) -> None:
    problems = [
        f"{labels} labels, seed {seed}, arm {arm!r}: {len(cases - set(table[labels, seed, arm]))} of {len(cases)} test "
        "cases have no result, so the pairs are not the same; test every network on the same cases"
        for seed in seeds
        for arm in arms
        if set(table[labels, seed, arm]) != cases
    ]
    if problems:
        raise ConfigError(problems)


def _bars(intervals: Sequence[Interval]) -> npt.NDArray[np.float64]:
    """Lengths of error bars below and above; none where there is no interval."""
    ends = [
        (i.estimate - i.low, i.high - i.estimate) if math.isfinite(i.low) else (0.0, 0.0)  # no interval, no bar
        for i in intervals
    ]
    return np.maximum(np.array(ends, dtype=np.float64).T, 0.0)  # rounding may put the mean a hair outside
