"""Networks tested on the same cases: one number each, paired differences over seeds and patients, ranks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from medssl.evaluation.class_metrics import auroc, balanced_accuracy, quadratic_kappa
from medssl.evaluation.rankings import holm, paired_p_value, rank_methods, told
from medssl.evaluation.statistics import Interval, t_interval
from medssl.evaluation.study_plan import Metric
from medssl.imaging.errors import ConfigError

_RESAMPLES = 1000


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
    points = []
    for labels in sorted({row.labels for row in rows}):
        here = {arm: {r.seed: r for r in rows if (r.labels, r.arm) == (labels, arm)} for arm in arms}
        there = [arm for arm in arms if here[arm]]
        compared = [arm for arm in there if arm != reference and here.get(reference)]
        found = {arm: _compare(here[arm], here[reference], measure, metric) for arm in compared}
        corrected = dict(zip(compared, holm([found[arm]["p_value"] for arm in compared]), strict=True))
        for arm in compared:
            low, high = (_number(found[arm]["over_seeds"][end]) for end in ("low", "high"))
            found[arm] |= {"p_value_corrected": _plain(corrected[arm]), "verdict": told(low, high)}
            found[arm]["p_value"] = _plain(found[arm]["p_value"])
        points.append(
            {
                "labels": labels,
                "arms": {arm: _alone(here[arm], measure) for arm in there},
                "differences": found,
            }
        )
    return {"metric": metric, "reference": reference, "points": points, "ranking": _ranking(rows, arms, measure)}


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
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    every = [np.arange(len(a.cases)) for a, _ in pairs]
    by_seed = [measure(a, i) - measure(b, i) for (a, b), i in zip(pairs, every, strict=True)]
    return {
        "seeds": seeds,
        "seed_differences": [_plain(value) for value in by_seed],
        "over_seeds": t_interval(by_seed).to_json(),
        "over_seeds_and_patients": _crossed(pairs, measure).to_json(),
        "p_value": _p_value(pairs, by_seed, metric),
    }


def _crossed(pairs: Sequence[tuple[NetworkScores, NetworkScores]], measure: Measure) -> Interval:
    """Seeds and patients resampled, each on its own (Owen 2007, https://doi.org/10.1214/07-AOAS122), percentile."""
    if not pairs:
        return Interval(math.nan, math.nan, math.nan, "none: no pair of seeds", 0, 0)
    patients = np.array(pairs[0][0].patients)
    members = [np.flatnonzero(patients == name) for name in dict.fromkeys(patients.tolist())]
    whole = np.arange(len(patients))
    estimate = float(np.mean([measure(a, whole) - measure(b, whole) for a, b in pairs]))
    if len(pairs) < 2 or len(members) < 2:
        reason = "none: fewer than two seeds or patients"
        return Interval(estimate, math.nan, math.nan, reason, len(patients), len(members))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        cases = np.concatenate([members[m] for m in rng.integers(len(members), size=len(members))])
        by_seed = [measure(a, cases) - measure(b, cases) for a, b in pairs]
        drawn.append(float(np.mean([by_seed[s] for s in rng.integers(len(pairs), size=len(pairs))])))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    method = "bootstrap over seeds and patients"
    return Interval(estimate, float(low), float(high), method, len(patients), len(members))


def _p_value(pairs: Sequence[tuple[NetworkScores, NetworkScores]], by_seed: Sequence[float], metric: Metric) -> float:
    """Of Dice: swaps of the patients' mean differences. Of a number of all cases: Student's t of the seeds."""
    if metric == "dice" and pairs:
        mean = np.nanmean([a.values - b.values for a, b in pairs], axis=0)
        return paired_p_value(mean.tolist(), pairs[0][0].patients)
    if len(by_seed) < 2 or np.ptp(by_seed) == 0:
        return math.nan
    return float(stats.ttest_1samp(by_seed, 0).pvalue)


def _ranking(rows: Sequence[NetworkScores], arms: Sequence[str], measure: Measure) -> dict[str, Any] | None:
    """Ranks over the pairs of labels and seed that every arm has."""
    table = {(r.arm, r.labels, r.seed): measure(r, np.arange(len(r.cases))) for r in rows}
    blocks = [key for key in dict.fromkeys(k[1:] for k in table) if all((arm, *key) in table for arm in arms)]
    if len(arms) < 2 or not blocks:
        return None
    return rank_methods({arm: [table[(arm, *key)] for key in blocks] for arm in arms}).to_json()


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
