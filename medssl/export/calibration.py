"""One temperature for the logits, and the errors of volumes, from cases that the networks have not learned from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from medssl.runtime.confidence import called_probability
from medssl.runtime.sliding_window import Activation, sigmoid, softmax

_RANGE = (0.05, 20.0)
_BINS = 15
_TINY = 1e-12
_NEAR = 1.1
"""A temperature within this factor of an end of the range is that end: the data do not bound it."""


@dataclass(frozen=True)
class LogitSample:
    """Logits of one case.

    Args:
        logits: (N, K): of voxels (segmentation) or of windows (classification).
        truth: (N,) classes of the voxels, or (1,) class of the case.
    """

    logits: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int64]


def fit_temperature(samples: Sequence[LogitSample], activation: Activation) -> tuple[float, dict[str, Any]]:
    """Temperature of voxels with the lowest negative log-likelihood of the truth, and what it changes.

    Where the cases do not bound it, it is 1 and the numbers say what is missing.
    With `sigmoid`, where the called class is reported against all others, of whether that class is right.

    Args:
        samples: One a case; each case counts alike, however many voxels it has.
        activation: How logits become probabilities.
    """
    logits = np.concatenate([s.logits for s in samples]).T
    truth = np.concatenate([s.truth for s in samples])
    weights = np.concatenate([np.full(len(s.truth), 1 / max(len(s.truth), 1)) for s in samples])
    called = logits.argmax(axis=0)
    right = called == truth

    def loss(temperature: float) -> float:
        if activation == "sigmoid":
            share = called_probability(logits, called, activation, temperature)
            return _mean(-np.log(np.where(right, share, 1 - share) + _TINY), weights)
        return _mean(-np.log(called_probability(logits, truth, activation, temperature) + _TINY), weights)

    temperature, numbers = _best(loss, bool(right.all()))
    if "missing" in numbers:
        return temperature, numbers
    for name, value in (("before", 1.0), ("after", temperature)):
        shares = called_probability(logits, called, activation, value)
        numbers[f"calibration_error_{name}"] = calibration_error(shares, right, weights)
    return temperature, {**numbers, "voxels": len(truth)}


def fit_window_temperature(samples: Sequence[LogitSample], activation: Activation) -> tuple[float, dict[str, Any]]:
    """The same for images that are classified: probabilities are means over windows."""
    function = {"softmax": softmax, "sigmoid": sigmoid}[activation]
    truth = np.array([int(s.truth[0]) for s in samples])

    def shares(temperature: float) -> npt.NDArray[np.float64]:
        return np.array([function(s.logits / np.float32(temperature)).mean(axis=0) for s in samples], dtype=np.float64)

    def loss(temperature: float) -> float:
        found = shares(temperature)
        own = found[np.arange(len(truth)), truth]
        if activation == "softmax":
            return float(-np.log(own + _TINY).mean())
        others = -np.log(1 - found + _TINY).sum(axis=1) + np.log(1 - own + _TINY)
        return float((others - np.log(own + _TINY)).mean())

    temperature, numbers = _best(loss, bool((shares(1.0).argmax(axis=1) == truth).all()))
    if "missing" in numbers:
        return temperature, numbers
    for name, value in (("before", 1.0), ("after", temperature)):
        found = shares(value)
        right = found.argmax(axis=1) == truth
        numbers[f"calibration_error_{name}"] = calibration_error(found.max(axis=1), right, np.ones(len(truth)))
    return temperature, numbers


def calibration_error(
    shares: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]
) -> float:
    """Mean difference between what was said and how often it held, over bins of what was said (Guo et al. 2017)."""
    bins = np.minimum((shares * _BINS).astype(int), _BINS - 1)
    said, held = (np.bincount(bins, weights=weights * values, minlength=_BINS) for values in (shares, right))
    return float(np.abs(said - held).sum() / weights.sum())


def volume_errors(cases: Sequence[tuple[str, float, float]], floor_ml: float) -> npt.NDArray[np.float64]:
    """|true - measured| / (measured + floor) of each patient, the largest of its cases.

    Args:
        cases: Patient, measured and true volume in mL.
        floor_ml: Keeps the errors of small volumes finite.
    """
    worst: dict[str, float] = {}
    for patient, measured, true in cases:
        worst[patient] = max(worst.get(patient, 0.0), abs(true - measured) / (measured + floor_ml))
    return np.array(list(worst.values()))


def _best(loss: Callable[[float], float], all_right: bool) -> tuple[float, dict[str, Any]]:
    """Temperature with the lowest loss, and the loss before and after; 1 and what is missing where none is bounded.

    Without an error among the cases every smaller temperature is better, down to a certainty that nothing supports.
    """
    if all_right:
        return 1.0, {"missing": "no error among the cases held out, so nothing bounds how certain the model may be"}
    found = minimize_scalar(lambda x: loss(float(np.exp(x))), bounds=np.log(_RANGE), method="bounded")
    temperature = float(np.exp(found.x))
    if not _NEAR * _RANGE[0] < temperature < _RANGE[1] / _NEAR:
        reason = f"the best temperature lies at an end of the range that is searched, {temperature:.3g}"
        return 1.0, {"missing": f"{reason}: the cases held out do not bound it"}
    return temperature, {"nll_before": loss(1.0), "nll_after": loss(temperature)}


def _mean(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    return float((values * weights).sum() / weights.sum())
