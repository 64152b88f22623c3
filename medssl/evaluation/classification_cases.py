"""Predicts the class of whole images and measures how well classes are told apart, with intervals over patients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.statistics import statistic_interval
from medssl.imaging.progress import Progress

CONVENTIONS = (
    "AUROC and average precision: each class against the rest, averaged over the classes; of two classes, the second "
    "is the positive one.",
    "Balanced accuracy: mean share of right answers over the classes that occur.",
    "Intervals: 95 %, percentile bootstrap over patients; all cases of a patient are drawn together.",
)
_Float = npt.NDArray[np.float64]
Statistic = Callable[[npt.NDArray[np.int64]], float]


@dataclass(frozen=True)
class ClassPrediction:
    """Probabilities of one case.

    Args:
        case: Its id.
        patient: Its patient.
        truth: Position of its class.
        probabilities: (K,).
    """

    case: str
    patient: str
    truth: int
    probabilities: _Float


def predict_classes(
    cache: Cache,
    cases: Sequence[CachedCase],
    classes: Sequence[str],
    predict: Callable[[npt.NDArray[np.float32]], _Float],
) -> list[ClassPrediction]:
    """Probabilities of every case.

    Args:
        cache: Prepared cache.
        cases: Cases with a class.
        classes: Classes in the order of the model.
        predict: Prepared image (C, *S) to probabilities (K,).
    """
    found = []
    with Progress("evaluate", len(cases)) as progress:
        for case in cases:
            shares = np.asarray(predict(cache.image(case)), dtype=np.float64)
            found.append(ClassPrediction(case.case, case.patient, classes.index(case.class_name), shares))
            progress.advance(note=case.case)
    return found


def summarise_classes(
    predictions: Sequence[ClassPrediction], classes: Sequence[str], resamples: int = 1000
) -> dict[str, Any]:
    """Numbers with intervals, a line a class, and the confusion table; JSON-able."""
    truth = np.array([p.truth for p in predictions])
    shares = np.stack([p.probabilities for p in predictions])
    chosen = shares.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (truth, chosen), 1)
    patients = [p.patient for p in predictions]

    def measured(statistic: Statistic) -> dict[str, Any]:
        return statistic_interval(statistic, patients, resamples=resamples).to_json()

    return {
        "metrics": {
            "auroc": measured(lambda i: _mean_over_classes(roc_auc_score, truth[i], shares[i])),
            "average_precision": measured(lambda i: _mean_over_classes(average_precision_score, truth[i], shares[i])),
            "balanced_accuracy": measured(lambda i: _balanced(truth[i], chosen[i])),
            "accuracy": measured(lambda i: _share(truth[i] == chosen[i])),
        },
        "classes": {name: _of_class(truth == k, chosen == k, shares[:, k], measured) for k, name in enumerate(classes)},
        "class_names": list(classes),
        "confusion": confusion.tolist(),
        "cases": len(predictions),
        "patients": len(set(patients)),
    }


def _of_class(
    positive: npt.NDArray[np.bool_],
    called: npt.NDArray[np.bool_],
    shares: _Float,
    measured: Callable[[Statistic], dict[str, Any]],
) -> dict[str, Any]:
    return {
        "auroc": measured(lambda i: _one_class(roc_auc_score, positive[i], shares[i])),
        "average_precision": measured(lambda i: _one_class(average_precision_score, positive[i], shares[i])),
        "recall": measured(lambda i: _share(called[i][positive[i]])),
    }


def _balanced(truth: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> float:
    return float(np.mean([_share(chosen[truth == k] == k) for k in np.unique(truth)]))


def _one_class(score: Callable[..., float], positive: npt.NDArray[np.bool_], shares: _Float) -> float:
    """Score of one class against the rest; NaN where only one of both occurs."""
    return float(score(positive, shares)) if positive.any() and not positive.all() else float("nan")


def _mean_over_classes(score: Callable[..., float], truth: npt.NDArray[np.int64], shares: _Float) -> float:
    """With two classes both are the same question, so only the second is asked."""
    asked = [1] if shares.shape[1] == 2 else range(shares.shape[1])
    known = [s for k in asked if np.isfinite(s := _one_class(score, truth == k, shares[:, k]))]
    return float(np.mean(known)) if known else float("nan")


def _share(right: npt.NDArray[np.bool_]) -> float:
    return float(right.mean()) if len(right) else float("nan")
