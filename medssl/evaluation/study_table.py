"""Networks tested on the same cases: one number each, paired differences over seeds and patients, ranks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.evaluation.class_metrics import auroc, balanced_accuracy, quadratic_kappa
from medssl.evaluation.rankings import LEVEL, NOT_SHOWN, holm, rank_methods, told
from medssl.evaluation.statistics import comparable_dice, crossed_interval, t_interval
from medssl.evaluation.study_plan import Metric
from medssl.evaluation.swap_tests import SwapTest, swap_answers, swap_means
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
    """

    arm: str
    labels: int
    seed: int
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    values: npt.NDArray[np.float64]
    truth: npt.NDArray[np.int64] | None = None


Measure = Callable[[NetworkScores, npt.NDArray[np.int64]], float]


def measure_of(metric: Metric) -> Measure:
    """The metric as a function of a tested network and positions of cases."""
    if metric == "dice":
        return _mean_dice
    found = {"auroc": auroc, "balanced_accuracy": balanced_accuracy, "quadratic_kappa": quadratic_kappa}[metric]

    def of_classes(tested: NetworkScores, drawn: npt.NDArray[np.int64]) -> float:
        if tested.truth is None:
            raise ConfigError([f"metric {metric} needs classes, {tested.arm} has none: use dice"])
        return found(tested.truth[drawn], tested.values[drawn])

    return of_classes


def compare_arms(rows: Sequence[NetworkScores], reference: str, metric: Metric) -> dict[str, Any]:
    """Every arm at every number of labels, and its differences to the reference; JSON-able.

    Args:
        rows: NetworkScores networks.
        reference: Arm that the others are compared with.
        metric: What is compared.

    Raises:
        ConfigError: Networks that were not tested on the same cases.
    """
    _check(rows)
    measure, arms = measure_of(metric), list(dict.fromkeys(row.arm for row in rows))
    points: list[dict[str, Any]] = []
    for labels in sorted({row.labels for row in rows}):
        here = {arm: {r.seed: r for r in rows if (r.labels, r.arm) == (labels, arm)} for arm in arms}
        there = [arm for arm in arms if here[arm]]
        compared = [arm for arm in there if arm != reference and here.get(reference)]
        found = {arm: _compare(here[arm], here[reference], measure, metric) for arm in compared}
        points.append(
            {
                "labels": labels,
                "arms": {arm: _alone(here[arm], measure) for arm in there},
                "differences": found,
            }
        )
    return {
        "metric": metric,
        "reference": reference,
        **_judge([found for point in points for found in point["differences"].values()]),
        "points": points,
        "slopes": _slopes(points, arms),
        "ranking": _ranking(rows, arms, measure, metric),
    }


def _judge(differences: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Correct p-values over all comparisons, give each its verdict; how many there are, and what could be shown at all.

    A verdict needs both: an interval over seeds and patients that leaves 0 out, and a corrected p-value below LEVEL.
    """
    corrected = holm([found["p_value"] for found in differences])
    for found, p_value in zip(differences, corrected, strict=True):
        low, high = (_number(found["over_seeds_and_patients"][end]) for end in ("low", "high"))
        found["p_value"], found["p_value_corrected"] = _plain(found["p_value"]), _plain(p_value)
        found["verdict"] = told(low, high) if p_value < LEVEL else NOT_SHOWN
    least = [found["smallest_p_value"] for found in differences if found["smallest_p_value"] is not None]
    return {"comparisons": len(least), "smallest_p_value_corrected": min(holm(least), default=None)}


def _mean_dice(tested: NetworkScores, drawn: npt.NDArray[np.int64]) -> float:
    values = tested.values[drawn]
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _alone(by_seed: Mapping[int, NetworkScores], measure: Measure) -> dict[str, Any]:
    everything = [measure(tested, np.arange(len(tested.cases))) for tested in by_seed.values()]
    return {"mean": t_interval(everything).to_json(), "seeds": dict(zip(by_seed, map(_plain, everything), strict=True))}


def _compare(
    ours: Mapping[int, NetworkScores], theirs: Mapping[int, NetworkScores], measure: Measure, metric: Metric
) -> dict[str, Any]:
    seeds = sorted(set(ours) & set(theirs))
    pairs = [_comparable([ours[seed], theirs[seed]], metric) for seed in seeds]
    counted = np.flatnonzero(np.any([_known(a) for a, _ in pairs], axis=0))

    def differences(drawn: npt.NDArray[np.int64]) -> list[float]:
        return [measure(a, counted[drawn]) - measure(b, counted[drawn]) for a, b in pairs]

    patients = [pairs[0][0].patients[position] for position in counted]
    by_seed = differences(np.arange(len(counted)))
    test = _test(pairs, by_seed, metric)
    return {
        "seeds": seeds,
        "seed_differences": [_plain(value) for value in by_seed],
        "over_seeds": t_interval(by_seed).to_json(),
        "over_seeds_and_patients": crossed_interval(differences, patients).to_json(),
        "p_value": test.p_value,
        "smallest_p_value": _plain(test.smallest),
    }


def _comparable(tested: Sequence[NetworkScores], metric: Metric) -> list[NetworkScores]:
    """The same with Dice 1 where one rightly left empty what another invented."""
    if metric != "dice":
        return list(tested)
    dice = comparable_dice([one.values for one in tested])
    return [replace(one, values=values) for one, values in zip(tested, dice, strict=True)]


def _known(tested: NetworkScores) -> npt.NDArray[np.bool_]:
    """(n,) cases that say something: all but those whose Dice is NaN."""
    if tested.truth is not None:
        return np.ones(len(tested.cases), dtype=bool)
    return np.isfinite(tested.values)


def _test(pairs: Sequence[Sequence[NetworkScores]], by_seed: Sequence[float], metric: Metric) -> SwapTest:
    """Swaps of patients' shares of mean Dice, or of their answers where the number is one of all cases."""
    if not len(by_seed) or not np.isfinite(by_seed).all():
        return SwapTest(math.nan, math.nan)
    truth, patients = pairs[0][0].truth, pairs[0][0].patients
    if metric != "dice" and truth is not None:
        return swap_answers(metric, truth, [(a.values, b.values) for a, b in pairs], patients)
    dice = np.array([a.values - b.values for a, b in pairs])  # (seeds, cases)
    known = np.isfinite(dice)
    shares = np.nansum(dice / known.sum(1, keepdims=True), axis=0)
    return swap_means(np.where(known.any(0), shares, np.nan).tolist(), patients)


def _slopes(points: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> dict[str, Any]:
    """What each arm gains with every doubling of the labels; arms with results at two numbers of labels or more.

    Least squares of a seed's metric on the binary logarithm of the number of labels, over the seeds that the arm has at
    all its numbers, so that the mean of their slopes is the slope of their means. After the slopes over the logarithm
    of the share of labels in Wolf et al. (Scientific Reports 13:20260, 2023, https://arxiv.org/abs/2308.06534).
    """
    found = {}
    for arm in arms:
        here = {point["labels"]: point["arms"][arm]["seeds"] for point in points if arm in point["arms"]}
        seeds = [seed for seed in next(iter(here.values())) if all(own.get(seed) is not None for own in here.values())]
        if len(here) < 2 or not seeds:
            continue
        table = np.array([[own[seed] for seed in seeds] for own in here.values()])  # (labels, seeds)
        slopes = np.polyfit(np.log2(list(here)), table, 1)[0].tolist()
        found[arm] = {"per_doubling": t_interval(slopes).to_json(), "seeds": dict(zip(seeds, slopes, strict=True))}
    return found


def _ranking(
    rows: Sequence[NetworkScores], arms: Sequence[str], measure: Measure, metric: Metric
) -> dict[str, Any] | None:
    """Ranks over test patients (Dice), else over the pairs of labels and seed; of those that every arm has.

    Pairs of labels and seed are tested on the same patients, so they are no independent blocks: a number of all cases
    has ranks alone, neither Friedman's p nor Nemenyi's distance.
    """
    table = {(r.arm, r.labels, r.seed): r for r in rows}
    keys = [key for key in dict.fromkeys(k[1:] for k in table) if all((arm, *key) in table for arm in arms)]
    if len(arms) < 2 or not keys:
        return None
    blocks = [_comparable([table[(arm, *key)] for arm in arms], metric) for key in keys]
    if metric == "dice":
        by_patient = _of_patients(np.array([[one.values for one in block] for block in blocks]), blocks[0][0].patients)
        if not by_patient.size:
            return None
        found = rank_methods(dict(zip(arms, by_patient.tolist(), strict=True)))
        return {**found.to_json(), "blocks_are": "patients"}
    numbers = [[measure(one, np.arange(len(one.cases))) for one in block] for block in blocks]
    ranks = rank_methods({arm: [block[n] for block in numbers] for n, arm in enumerate(arms)})
    return {**ranks.to_json(), "p_value": None, "critical_difference": None, "blocks_are": "pairs of labels and seed"}


def _of_patients(dice: npt.NDArray[np.float64], patients: Sequence[str]) -> npt.NDArray[np.float64]:
    """(arms, patients) mean Dice of (keys, arms, cases), NaN for the same cases of all arms; of patients with some."""
    names = np.array(patients)
    own = [dice[:, :, names == name] for name in dict.fromkeys(patients)]
    return np.array([np.nanmean(values, axis=(0, 2)) for values in own if np.isfinite(values).any()]).T


def _check(rows: Sequence[NetworkScores]) -> None:
    problems = []
    for row in rows:
        if row.cases != rows[0].cases or row.patients != rows[0].patients:
            problems.append(
                f"{row.arm}, {row.labels} labels, seed {row.seed} was not tested on the cases of {rows[0].arm}: "
                "results on different test sets are not compared"
            )
    if problems:
        raise ConfigError(problems)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
