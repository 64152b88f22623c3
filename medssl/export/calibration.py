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

    temperature = _best(loss)
    numbers = _before_and_after(loss, temperature)
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

    temperature = _best(loss)
    numbers = _before_and_after(loss, temperature)
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


def _best(loss: Callable[[float], float]) -> float:
    found = minimize_scalar(lambda x: loss(float(np.exp(x))), bounds=np.log(_RANGE), method="bounded")
    return float(np.exp(found.x))


def _before_and_after(loss: Callable[[float], float], temperature: float) -> dict[str, Any]:
    return {"nll_before": loss(1.0), "nll_after": loss(temperature)}


def _mean(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    return float((values * weights).sum() / weights.sum())
