"""What a tested network said of every case, and how two arms differ in it: over seeds and patients, with a test."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.evaluation.class_metrics import auroc, balanced_accuracy, of_drawn, quadratic_kappa
from medssl.evaluation.statistics import comparable_dice, crossed_interval, t_interval
from medssl.evaluation.study_plan import Metric
from medssl.evaluation.swap_tests import SwapTest, swap_answers, swap_means
from medssl.evaluation.without_each import (
    auroc_without_each,
    balanced_accuracy_without_each,
    quadratic_kappa_without_each,
)
from medssl.imaging.errors import ConfigError


@dataclass(frozen=True)
class NetworkScores:
    """One network on all test cases.

    Args:
        arm: Way it was trained.
        labels: Labelled patients it learned from.
        seed: Its seed.
        cases: Test cases.
        patients: Patient of each.
        values: (n,) Dice of each case, or (n, K) class probabilities.
        truth: (n,) class numbers, for probabilities.
        start: What it started from, where other seeds of its arm start from something else; else "".
    """

    arm: str
    labels: int
    seed: int
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    values: npt.NDArray[np.float64]
    truth: npt.NDArray[np.int64] | None = None
    start: str = ""


def of_patients(tested: NetworkScores) -> NetworkScores:
    """The same with one answer a patient: the mean of the probabilities of its cases, whose class is one."""
    names, first, number = np.unique(tested.patients, return_index=True, return_inverse=True)
    patients = tuple(str(name) for name in names)
    sums = np.zeros((len(names), tested.values.shape[1]))
    np.add.at(sums, number, tested.values)
    values = sums / np.bincount(number)[:, None]
    truth = None if tested.truth is None else tested.truth[first]
    return replace(tested, cases=patients, patients=patients, values=values, truth=truth)


_WITHOUT_EACH = {
    "auroc": auroc_without_each,
    "balanced_accuracy": balanced_accuracy_without_each,
    "quadratic_kappa": quadratic_kappa_without_each,
}

WithoutEach = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]
Measure = Callable[[NetworkScores, npt.NDArray[np.int64]], float]
Pairs = Sequence[tuple[NetworkScores, NetworkScores]]


def measure_of(metric: Metric) -> Measure:
    """The metric as a function of a tested network and positions of cases."""
    if metric == "dice":
        return _mean_dice
    found = {"auroc": auroc, "balanced_accuracy": balanced_accuracy, "quadratic_kappa": quadratic_kappa}[metric]

    def of_classes(tested: NetworkScores, drawn: npt.NDArray[np.int64]) -> float:
        if tested.truth is None:
            raise ConfigError([f"metric {metric} needs classes, {tested.arm} has none: use dice"])
        return of_drawn(found, tested.truth, tested.values, drawn)

    return of_classes


def difference(by_seed: Mapping[int, Pairs], metric: Metric, weights: Sequence[float] = (1.0,)) -> dict[str, Any]:
    """How two arms differ, the first minus the second: a weighted sum of the differences of their networks; JSON-able.

    Args:
        by_seed: Seed to pairs of networks, one a weight.
        metric: What is compared.
        weights: Of the pairs of a seed; 1 of a single pair is the plain difference.
    """
    seeds, measure = sorted(by_seed), measure_of(metric)
    pairs = [[_comparable_pair(pair, metric) for pair in by_seed[seed]] for seed in seeds]
    every = [pair for of_seed in pairs for pair in of_seed]
    counted = np.flatnonzero(np.any([_known(a) for a, _ in every], axis=0))

    def of_seeds(drawn: npt.NDArray[np.int64]) -> list[float]:
        return [
            sum(
                w * (measure(a, counted[drawn]) - measure(b, counted[drawn]))
                for w, (a, b) in zip(weights, of_seed, strict=True)
            )
            for of_seed in pairs
        ]

    found, groups = of_seeds(np.arange(len(counted))), _groups(pairs)
    patients = [every[0][0].patients[n] for n in counted]
    interval, p_value = crossed_interval(
        of_seeds, patients, groups=groups, without_each=_without_each(pairs, metric, weights)
    )
    test = _test(every, found, metric, np.tile(weights, len(pairs)))
    return {
        "seeds": seeds,
        "seed_differences": [plain(value) for value in found],
        "over_seeds": t_interval(found, groups=groups).to_json(),
        "over_seeds_and_patients": interval.to_json(),
        "p_value_seeds_and_patients": plain(p_value),
        "p_value": test.p_value,
        "smallest_p_value": plain(test.smallest),
    }


def _without_each(of_seeds: Sequence[Pairs], metric: Metric, weights: Sequence[float]) -> WithoutEach | None:
    """The mean over seeds of the differences without each patient, of numbers of all cases."""
    known, truth = _WITHOUT_EACH.get(metric), of_seeds[0][0][0].truth
    if known is None or truth is None:
        return None

    def without_each(patients: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        differences = [
            w * (known(truth, a.values, patients) - known(truth, b.values, patients))
            for pairs in of_seeds
            for w, (a, b) in zip(weights, pairs, strict=True)
        ]
        return np.asarray(np.sum(differences, axis=0) / len(of_seeds))

    return without_each


def _groups(of_seeds: Sequence[Pairs]) -> list[tuple[str, ...]]:
    """What the networks of each seed started from, of arms whose seeds differ in it; () where no arm's do."""
    starts = [tuple(tested.start for tested in pairs[0]) for pairs in of_seeds]
    several = [column for column in (0, 1) if len({start[column] for start in starts}) > 1]
    return [tuple(start[column] for column in several) for start in starts] if several else []


def comparable(tested: Sequence[NetworkScores], metric: Metric) -> list[NetworkScores]:
    """The same with Dice 1 where one rightly left empty what another invented."""
    if metric != "dice":
        return list(tested)
    dice = comparable_dice([one.values for one in tested])
    return [replace(one, values=values) for one, values in zip(tested, dice, strict=True)]


def plain(value: float) -> float | None:
    """The number; None where it is none."""
    return value if math.isfinite(value) else None


def _mean_dice(tested: NetworkScores, drawn: npt.NDArray[np.int64]) -> float:
    values = tested.values[drawn]
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _comparable_pair(pair: tuple[NetworkScores, NetworkScores], metric: Metric) -> tuple[NetworkScores, NetworkScores]:
    ours, theirs = comparable(pair, metric)
    return ours, theirs


def _known(tested: NetworkScores) -> npt.NDArray[np.bool_]:
    """(n,) cases that say something: all but those whose Dice is NaN."""
    if tested.truth is not None:
        return np.ones(len(tested.cases), dtype=bool)
    return np.isfinite(tested.values)


def _test(pairs: Pairs, by_seed: Sequence[float], metric: Metric, weights: npt.NDArray[np.float64]) -> SwapTest:
    """Swaps of patients' shares of mean Dice, or of their answers where the number is one of all cases."""
    if not len(by_seed) or not np.isfinite(by_seed).all():
        return SwapTest(math.nan, math.nan)
    truth, patients = pairs[0][0].truth, pairs[0][0].patients
    if metric != "dice" and truth is not None:
        return swap_answers(metric, truth, [(a.values, b.values) for a, b in pairs], patients, weights=weights)
    dice = np.array([a.values - b.values for a, b in pairs])  # (seeds and weights, cases)
    known = np.isfinite(dice)
    shares = np.nansum(weights[:, None] * dice / known.sum(1, keepdims=True), axis=0)
    return swap_means(np.where(known.any(0), shares, np.nan).tolist(), patients)
