"""Arms of a study on the same cases: one number each, paired differences over seeds and patients, ranks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.evaluation.rankings import NOT_SHOWN, holm, rank_methods, told_tested
from medssl.evaluation.statistics import t_interval
from medssl.evaluation.study_plan import Metric
from medssl.evaluation.study_scores import Measure, NetworkScores, comparable, difference, measure_of, plain
from medssl.evaluation.study_slopes import slope_difference, slopes
from medssl.imaging.errors import ConfigError

HOLDS_BETTER, HOLDS_WORSE = "holds better", "holds worse"
"""Verdicts of the gains per doubling of two arms: the first loses less, or more, as labels shrink."""

_Tested = dict[int, dict[int, NetworkScores]]
"""Number of labels to seed to network."""


def compare_arms(
    rows: Sequence[NetworkScores], reference: str, metric: Metric, pairs: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Every arm at every number of labels, its differences to the reference, and those of further pairs; JSON-able.

    Args:
        rows: Tested networks.
        reference: Arm that the others are compared with.
        metric: What is compared.
        pairs: Arms that are compared beside that, the first minus the second.

    Raises:
        ConfigError: Networks that were not tested on the same cases.
    """
    _check(rows)
    measure, arms = measure_of(metric), list(dict.fromkeys(row.arm for row in rows))
    tested: dict[str, _Tested] = {arm: {} for arm in arms}
    for row in rows:
        tested[row.arm].setdefault(row.labels, {})[row.seed] = row
    numbers = sorted({row.labels for row in rows})
    points: list[dict[str, Any]] = [
        {
            "labels": labels,
            "arms": {arm: _alone(tested[arm][labels], measure) for arm in arms if labels in tested[arm]},
            "differences": {
                arm: found
                for arm in arms
                if arm != reference and (found := _compare(tested, arm, reference, labels, metric)) is not None
            },
        }
        for labels in numbers
    ]
    compared = [_pair(tested, *pair, numbers, metric) for pair in pairs if all(arm in tested for arm in pair)]
    differences = [found for point in points for found in point["differences"].values()]
    differences += [found for pair in compared for found in pair["points"]]
    return {
        "metric": metric,
        "reference": reference,
        **_judge(differences, [pair["slope"] for pair in compared if pair["slope"] is not None]),
        "points": points,
        "pairs": compared,
        "slopes": slopes(points, arms),
        "ranking": _ranking(rows, arms, measure, metric),
    }


def _compare(
    tested: Mapping[str, _Tested], ours: str, theirs: str, labels: int, metric: Metric
) -> dict[str, Any] | None:
    """Their difference at a number of labels; None without a seed that both have there."""
    first, second = (tested.get(arm, {}).get(labels, {}) for arm in (ours, theirs))
    seeds = set(first) & set(second)
    return difference({seed: [(first[seed], second[seed])] for seed in seeds}, metric) if seeds else None


def _pair(
    tested: Mapping[str, _Tested], ours: str, theirs: str, numbers: Sequence[int], metric: Metric
) -> dict[str, Any]:
    points = [(labels, _compare(tested, ours, theirs, labels, metric)) for labels in numbers]
    return {
        "arm": ours,
        "against": theirs,
        "points": [{"labels": labels, **found} for labels, found in points if found is not None],
        "slope": slope_difference(tested[ours], tested[theirs], metric),
    }


def _judge(differences: Sequence[dict[str, Any]], of_slopes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Correct p-values over all comparisons, give each its verdict; how many there are, and what could be shown at all.

    Corrected is the larger of two p-values: that of the swaps of patients, which knows nothing of other seeds, and that
    of the interval over seeds and patients. Of two slopes the smaller one holds better.
    """
    every = [*differences, *of_slopes]
    for found, p_value in zip(every, holm([_larger(found) for found in every]), strict=True):
        low, high = (_number(found["over_seeds_and_patients"][end]) for end in ("low", "high"))
        found["p_value"], found["p_value_corrected"] = plain(found["p_value"]), plain(p_value)
        found["verdict"] = told_tested(low, high, p_value)
    for found in of_slopes:
        found["verdict"] = {"better": HOLDS_WORSE, "worse": HOLDS_BETTER}.get(found["verdict"], NOT_SHOWN)
    least = [found["smallest_p_value"] for found in every if found["smallest_p_value"] is not None]
    return {"comparisons": len(least), "smallest_p_value_corrected": min(holm(least), default=None)}


def _larger(found: Mapping[str, Any]) -> float:
    """The larger p-value of a comparison; NaN where one is missing."""
    both = (found["p_value"], _number(found["p_value_seeds_and_patients"]))
    return math.nan if any(map(math.isnan, both)) else max(both)


def _alone(by_seed: Mapping[int, NetworkScores], measure: Measure) -> dict[str, Any]:
    everything = [measure(tested, np.arange(len(tested.cases))) for tested in by_seed.values()]
    return {"mean": t_interval(everything).to_json(), "seeds": dict(zip(by_seed, map(plain, everything), strict=True))}


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
    blocks = [comparable([table[(arm, *key)] for arm in arms], metric) for key in keys]
    if metric == "dice":
        by_patient = _of_patients(np.array([[one.values for one in block] for block in blocks]), blocks[0][0].patients)
        if not by_patient.size:
            return None
        found = rank_methods(dict(zip(arms, by_patient.tolist(), strict=True)))
        return {**found.to_json(), "blocks_are": "patients"}
    numbers = [[measure(one, np.arange(len(one.cases))) for one in block] for block in blocks]
    numbers = [block for block in numbers if np.isfinite(block).all()]
    if not numbers:
        return None
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
