"""Results of single cases, and what they say together: means with intervals over patients, and paired differences."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.evaluation.lesions import CaseLesions, lesion_rows, summarise_lesions
from medssl.evaluation.metrics import ClassScore
from medssl.evaluation.statistics import Interval, comparable_dice, mean_interval, paired_difference
from medssl.evaluation.subgroups import CONVENTION, by_group
from medssl.evaluation.swap_tests import PAIRED_TEST, swap_means

CONVENTIONS = (
    "Masks are compared on the grid of the original image.",
    "A class that is neither in the prediction nor in the reference of a case says nothing there: it is left out of "
    "the means, and counted as both empty.",
    "A class missed altogether, or predicted where there is none, has Dice 0 and surface Dice 0; its distance is not "
    "defined, left out of the mean distance, and counted.",
    "Differences are paired, case by case, and of Dice alone: a class (or, in a mean over classes, all of them) that "
    "one arm rightly leaves empty and the other invents counts 1 against 0 there; what both leave empty stays out. So "
    "a difference need not be that of the means. Distances have no such best value and are not compared in pairs.",
    "Ignored voxels count nowhere; a structure whose whole boundary they hide has no distance and no surface Dice.",
    CONVENTION,
    "Intervals: 95 %, BCa bootstrap over patients; all cases of a patient are drawn together.",
    PAIRED_TEST,
)
"""What readers of a table must know."""


@dataclass(frozen=True)
class CaseResult:
    """Agreement of one predicted mask with its reference.

    Args:
        case: Its id.
        patient: Its patient.
        scores: Label name to score.
        voxel_size: Size of a voxel in `size_unit`; NaN where it is not known and others' is.
        size_unit: `mL`, `mm2` in 2D, or `pixels` where the image does not say how large they are.
        seconds: Time of prediction and restoring.
        groups: Site, sex and the like, for subgroups.
        lesions: Label name to its single lesions, where they were asked for.
    """

    case: str
    patient: str
    scores: Mapping[str, ClassScore]
    voxel_size: float
    size_unit: str = "mL"
    seconds: float = 0.0
    groups: Mapping[str, str] = field(default_factory=dict)
    lesions: Mapping[str, CaseLesions] = field(default_factory=dict)

    def without_lengths(self, spatial_dims: int) -> "CaseResult":
        """The same with distances, surface Dice and sizes not defined: of an image without mm beside images with."""
        scores = {name: replace(one, hd95_mm=math.nan, nsd=math.nan) for name, one in self.scores.items()}
        return replace(self, scores=scores, voxel_size=math.nan, size_unit=size_unit(spatial_dims))

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that are in the prediction or the reference; NaN where none is."""
        known = [score.dice for score in self.scores.values() if math.isfinite(score.dice)]
        return float(np.mean(known)) if known else math.nan

    def rows(self, arm: str) -> list[dict[str, Any]]:
        """Lines of cases.csv, one a class; what is not defined stays empty."""
        unit = self.size_unit.lower()
        return [
            {
                "arm": arm,
                "case": self.case,
                "patient": self.patient,
                "class": name,
                "state": score.state,
                "dice": _cell(score.dice),
                "hd95_mm": _cell(score.hd95_mm),
                "nsd": _cell(score.nsd),
                f"prediction_{unit}": _cell(score.prediction_voxels * self.voxel_size),
                f"reference_{unit}": _cell(score.reference_voxels * self.voxel_size),
                f"difference_{unit}": _cell((score.prediction_voxels - score.reference_voxels) * self.voxel_size),
                "seconds": f"{self.seconds:.3f}",
                **lesion_rows(self.lesions, name),
            }
            for name, score in self.scores.items()
        ]


def size_unit(spatial_dims: int) -> str:
    """Unit of the sizes of structures, where the image says how large a voxel is."""
    return "mL" if spatial_dims == 3 else "mm2"


def summarise(results: Sequence[CaseResult], resamples: int = 1000) -> dict[str, Any]:
    """Means with intervals over patients: overall Dice, and everything a class; JSON-able.

    Args:
        results: At least one, all with the same classes.
        resamples: Bootstrap resamples of the numbers of single lesions.
    """
    patients = [result.patient for result in results]
    names = list(results[0].scores)

    def of_part(part: npt.NDArray[np.int64]) -> dict[str, Interval]:
        found = [results[position] for position in part]
        return {"mean_dice": mean_interval([r.mean_dice for r in found], [r.patient for r in found])}

    def of_classes(part: npt.NDArray[np.int64]) -> dict[str, dict[str, Any]]:
        return {name: _class_numbers([results[position] for position in part], name) for name in names}

    return {
        "cases": len(results),
        "patients": len(set(patients)),
        "mean_dice": mean_interval([result.mean_dice for result in results], patients).to_json(),
        "size_unit": results[0].size_unit,
        "classes": {name: _class_summary(results, name, patients) for name in names},
        "lesions": {
            name: summarise_lesions([result.lesions[name] for result in results], patients, resamples)
            for name in results[0].lesions
        },
        "subgroups": by_group([result.groups for result in results], patients, of_part, of_classes),
        "seconds_per_case": float(np.median([result.seconds for result in results])),
    }


def _class_summary(results: Sequence[CaseResult], name: str, patients: Sequence[str]) -> dict[str, Any]:
    predicted = [r.scores[name].prediction_voxels * r.voxel_size for r in results]
    reference = [r.scores[name].reference_voxels * r.voxel_size for r in results]
    return {
        **_class_numbers(results, name),
        "size_difference": _agreement(np.subtract(predicted, reference).tolist(), patients),
        "mean_reference_size": float(np.nanmean(reference)),
    }


def _class_numbers(results: Sequence[CaseResult], name: str) -> dict[str, Any]:
    """Means of a class with intervals over patients, and how many cases are in none of them or not in the distance."""
    patients, scores = [result.patient for result in results], [result.scores[name] for result in results]
    states = [score.state for score in scores]
    return {
        **{
            metric: mean_interval([getattr(score, metric) for score in scores], patients).to_json()
            for metric in ("dice", "hd95_mm", "nsd")
        },
        "distance_not_defined": sum(math.isinf(score.hd95_mm) for score in scores),
        **{state.replace("-", "_"): states.count(state) for state in ("scored", "both-empty", "missed", "invented")},
    }


def _agreement(differences: Sequence[float], patients: Sequence[str]) -> dict[str, Any]:
    """Bias with its interval and the limits of agreement (Bland and Altman 1986): bias +- 1.96 standard deviations."""
    bias = mean_interval(differences, patients)
    if bias.n < 2:
        return {"bias": bias.to_json(), "limits_of_agreement": None}
    half = 1.96 * float(np.nanstd(differences, ddof=1))
    return {"bias": bias.to_json(), "limits_of_agreement": [bias.estimate - half, bias.estimate + half]}


def differences(ours: Sequence[CaseResult], theirs: Sequence[CaseResult]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Paired differences of Dice, ours minus theirs, over the cases that both have (`comparable_dice`); JSON-able.

    Returns:
        The differences with intervals over patients, and their tests by swaps of whole patients with verdicts.
    """
    other = {result.case: result for result in theirs}
    pairs = [(result, other[result.case]) for result in ours if result.case in other]
    patients = [result.patient for result, _ in pairs]
    names = list(pairs[0][0].scores) if pairs else []

    def compare(dice: Callable[[CaseResult], float]) -> tuple[dict[str, Any], dict[str, Any]]:
        first, second = comparable_dice([[dice(one[arm]) for one in pairs] for arm in (0, 1)]).tolist()
        difference = paired_difference(first, second, patients)
        return difference.to_json(), swap_means(np.subtract(first, second).tolist(), patients).told(difference)

    mean, test = compare(lambda result: result.mean_dice)
    of_classes = {name: compare(partial(_dice, name)) for name in names}
    return (
        {"cases": len(pairs), "mean_dice": mean, "classes": {name: found for name, (found, _) in of_classes.items()}},
        {"mean_dice": test, "classes": {name: tested for name, (_, tested) in of_classes.items()}},
    )


def _dice(name: str, result: CaseResult) -> float:
    return result.scores[name].dice


def best_median_worst(results: Sequence[CaseResult]) -> dict[str, CaseResult]:
    """Cases to look at; fewer where there are fewer than three."""
    order = sorted((r for r in results if math.isfinite(r.mean_dice)), key=lambda r: (-r.mean_dice, r.case))
    if not order:
        return {}
    picked = {"best": order[0], "median": order[(len(order) - 1) // 2], "worst": order[-1]}
    unique: dict[str, CaseResult] = {}
    for name in ("best", "worst", "median"):
        if all(picked[name].case != result.case for result in unique.values()):
            unique[name] = picked[name]
    return {name: unique[name] for name in picked if name in unique}


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""
