"""How well single lesions are found: candidates from probabilities, matched with the reference's lesions one to one.

A lesion is a connected part of the reference (diagonal neighbours count), a candidate a connected part of the voxels
whose probability is above a threshold, scored by its highest probability. Candidates and lesions that overlap enough
are paired so that the sum of overlaps is largest, each once. A lesion without a candidate is missed; a candidate
without a lesion is false, unless it overlaps enough with a lesion that went to another one: such a second hit counts
in the score of its case alone, which is that of the highest candidate, as in the challenges LUNA16 (Setio et al., 2017,
https://doi.org/10.1016/j.media.2017.06.015) and PI-CAI (Saha et al., 2024,
https://doi.org/10.1016/S1470-2045(24)00220-1).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label, maximum
from scipy.optimize import linear_sum_assignment

from medssl.evaluation.options import LesionOptions
from medssl.evaluation.statistics import statistic_interval
from medssl.tasks.classification import auroc

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False candidates a case at which the sensitivity is told, as in LUNA16."""

_Float = npt.NDArray[np.float64]
_Measure = Callable[[Sequence["CaseLesions"]], float]


@dataclass(frozen=True)
class CaseLesions:
    """Lesions of one class in one case.

    Args:
        found: (lesions,) score of the candidate of each lesion, 0 where it is missed.
        false: (m,) scores of the false candidates.
        highest: Score of the highest candidate, second hits among them, 0 without any: how sure the network is that the
            case has a lesion.
    """

    found: _Float
    false: _Float
    highest: float

    @property
    def hits(self) -> int:
        """Lesions that have a candidate."""
        return int((self.found > 0).sum())


def find_lesions(
    probability: npt.NDArray[np.float32],
    reference: npt.NDArray[np.bool_],
    options: LesionOptions,
    judged: npt.NDArray[np.bool_] | None = None,
) -> CaseLesions:
    """Match the candidates of a case with its lesions.

    Args:
        probability: (*S) of the class.
        reference: (*S) voxels of the class.
        options: Threshold, and which overlap makes a match.
        judged: (*S) voxels that count; None = all.
    """
    here = probability > options.threshold
    if judged is not None:
        here, reference = here & judged, reference & judged
    near = np.ones((3,) * reference.ndim)
    candidates, many = label(here, near)
    lesions, count = label(reference, near)
    scores = np.atleast_1d(np.asarray(maximum(probability, candidates, np.arange(1, many + 1)), dtype=np.float64))
    pairs = np.bincount((candidates * (count + 1) + lesions).ravel(), minlength=(many + 1) * (count + 1))
    shared = pairs.reshape(many + 1, count + 1)
    overlap = _overlap(shared, options)
    enough = overlap > 0 if options.match == "any" else overlap >= options.overlap
    found, free = np.zeros(count), np.ones(many, bool)
    for candidate, lesion in zip(*linear_sum_assignment(np.where(enough, overlap, 0), maximize=True), strict=True):
        if enough[candidate, lesion]:
            found[lesion], free[candidate] = scores[candidate], False
    return CaseLesions(found, scores[:many][free & ~enough.any(1)], float(scores[:many].max(initial=0)))


def summarise_lesions(cases: Sequence[CaseLesions], patients: Sequence[str], resamples: int = 1000) -> dict[str, Any]:
    """Numbers of one class over all cases with intervals over patients; JSON-able.

    `average_precision` over all candidates of all cases, `case_auroc`: whether a case has a lesion, by its highest
    score; `sensitivity` at each of `RATES` false candidates a case, and `froc`, their mean.

    Args:
        cases: One a case.
        patients: Their patients.
        resamples: Bootstrap resamples.
    """

    def measured(measure: _Measure) -> dict[str, Any]:
        statistic = partial(_of_drawn, measure, cases)
        return statistic_interval(statistic, patients, resamples=resamples).to_json()

    return {
        "lesions": sum(len(case.found) for case in cases),
        "found": sum(case.hits for case in cases),
        "false": sum(len(case.false) for case in cases),
        "cases_with_lesions": sum(bool(len(case.found)) for case in cases),
        "average_precision": measured(average_precision),
        "case_auroc": measured(case_auroc),
        "froc": measured(lambda drawn: float(np.mean(sensitivities(drawn)))),
        "sensitivity": {f"{rate:g}": measured(partial(_sensitivity, rate)) for rate in RATES},
    }


def average_precision(cases: Sequence[CaseLesions]) -> float:
    """Area under precision against recall in steps; lesions without a candidate are never recalled. NaN without any."""
    hits, false, lesions = _counts(cases)
    if not lesions:
        return float("nan")
    return float((np.diff(hits, prepend=0) / lesions * hits / np.maximum(hits + false, 1)).sum())


def case_auroc(cases: Sequence[CaseLesions]) -> float:
    """Chance that a case with a lesion has a higher score than one without; NaN where one of both is missing."""
    return auroc(np.array([case.highest for case in cases]), np.array([len(case.found) > 0 for case in cases]))


def sensitivities(cases: Sequence[CaseLesions], rates: Sequence[float] = RATES) -> _Float:
    """Share of the lesions found at each number of false candidates a case, linear between thresholds (FROC).

    Beyond the last candidate the curve stays flat. The same curve as MONAI's, whose cost grows with the square of the
    number of candidates and which leaves out the lowest threshold when no lesion is missed. NaN without lesions.
    """
    hits, false, lesions = _counts(cases)
    if not lesions:
        return np.full(len(rates), np.nan)
    along, up = np.concatenate([[0.0], false / len(cases)]), np.concatenate([[0.0], hits / lesions])
    return np.asarray(np.interp(rates, along, up), dtype=np.float64)


def _sensitivity(rate: float, cases: Sequence[CaseLesions]) -> float:
    return float(sensitivities(cases, (rate,))[0])


def _of_drawn(measure: _Measure, cases: Sequence[CaseLesions], drawn: npt.NDArray[np.int64]) -> float:
    return measure([cases[position] for position in drawn])


def _counts(cases: Sequence[CaseLesions]) -> tuple[_Float, _Float, int]:
    """Lesions found and false candidates at each score or above, from the highest score on, and all lesions."""
    found = np.concatenate([case.found for case in cases])
    false = np.concatenate([case.false for case in cases])
    scores = np.concatenate([found[found > 0], false])
    right = np.arange(len(scores)) < (found > 0).sum()
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-1))  # candidates of one score come together
    return np.cumsum(right[order])[last].astype(float), np.cumsum(~right[order])[last].astype(float), len(found)


def _overlap(shared: npt.NDArray[np.int64], options: LesionOptions) -> _Float:
    """(candidates, lesions) from the voxels of each pair, background first."""
    both = shared[1:, 1:].astype(np.float64)
    sizes = shared[1:].sum(1)[:, None] + shared[:, 1:].sum(0)
    if options.match == "any":
        return both
    share: _Float = 2 * both / np.maximum(sizes, 1) if options.match == "dice" else both / np.maximum(sizes - both, 1)
    return share


def lesion_rows(lesions: Mapping[str, CaseLesions], name: str) -> dict[str, str]:
    """Cells of a line of cases.csv; none for a class whose lesions were not asked for."""
    if name not in lesions:
        return {}
    own = lesions[name]
    return {"lesions": str(len(own.found)), "lesions_found": str(own.hits), "false_candidates": str(len(own.false))}
