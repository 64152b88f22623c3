"""How well probabilities of classes agree with the truth: telling apart, order, calibration.

Each takes the true class numbers (n,) and probabilities (n, K), and is NaN where it is not defined, for instance where
only one class occurs.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score

CALIBRATION_BINS = 15

_Int = npt.NDArray[np.int64]
_Float = npt.NDArray[np.float64]
ClassMetric = Callable[[_Int, _Float], float]


def auroc(truth: _Int, shares: _Float) -> float:
    """Area under the ROC curve, each class against the rest, mean over the classes where it is defined."""
    return _mean_over_classes(roc_auc_score, truth, shares)


def average_precision(truth: _Int, shares: _Float) -> float:
    """Average precision, each class against the rest, mean over the classes where it is defined."""
    return _mean_over_classes(average_precision_score, truth, shares)


def accuracy(truth: _Int, shares: _Float) -> float:
    """Share of right answers."""
    return share(shares.argmax(1) == truth)


def balanced_accuracy(truth: _Int, shares: _Float) -> float:
    """Mean share of right answers over the classes that occur."""
    chosen = shares.argmax(1)
    return float(np.mean([share(chosen[truth == k] == k) for k in np.unique(truth)]))


def quadratic_kappa(truth: _Int, shares: _Float) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968) of classes in their order; 0 = no better than chance."""
    chosen = shares.argmax(1)
    if len(np.union1d(truth, chosen)) < 2:
        return float("nan")
    return float(cohen_kappa_score(truth, chosen, weights="quadratic", labels=list(range(shares.shape[1]))))


def calibration_error(truth: _Int, shares: _Float) -> float:
    """Expected calibration error of the highest probability over 15 even bins (Guo et al., ICML 2017)."""
    bins = reliability(truth, shares)
    return sum(b["cases"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(truth)


def brier(truth: _Int, shares: _Float) -> float:
    """Mean squared distance of the probabilities from the truth: 0 to 1 for two classes, 0 to 2 for more.

    Brier 1950. scikit-learn's refuses probabilities that do not sum to 1, as those of one class against the rest.
    """
    distance = ((shares - np.eye(shares.shape[1])[truth]) ** 2).sum(1).mean()
    return float(distance / 2 if shares.shape[1] == 2 else distance)


METRICS: Mapping[str, ClassMetric] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "balanced_accuracy": balanced_accuracy,
    "accuracy": accuracy,
    "calibration_error": calibration_error,
    "brier": brier,
}
"""Name to metric, all but those of ordered classes."""

_MEANS_OVER_CLASSES = (auroc, average_precision, balanced_accuracy)
LESS_IS_BETTER = ("calibration_error", "brier")
"""Of these metrics."""


def of_drawn(metric: ClassMetric, truth: _Int, shares: _Float, drawn: _Int) -> float:
    """The metric of cases that are drawn from all.

    A mean over classes is NaN where one of all cases' classes was not drawn: a mean over the others is another number.
    """
    if metric in _MEANS_OVER_CLASSES and len(np.unique(truth[drawn])) < len(np.unique(truth)):
        return float("nan")
    return metric(truth[drawn], shares[drawn])


def of_one_class(score: Callable[..., float], positive: npt.NDArray[np.bool_], shares: _Float) -> float:
    """Score of one class against the rest."""
    return float(score(positive, shares)) if positive.any() and not positive.all() else float("nan")


def share(right: npt.NDArray[np.bool_]) -> float:
    """Share of True; NaN of nothing."""
    return float(right.mean()) if len(right) else float("nan")


def reliability(truth: _Int, shares: _Float) -> list[dict[str, float]]:
    """Bins of the highest probability that hold cases: `confidence` and `accuracy` (means) and `cases`."""
    highest, right = shares.max(1), shares.argmax(1) == truth
    bins = np.minimum((highest * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        {
            "confidence": float(highest[bins == b].mean()),
            "accuracy": float(right[bins == b].mean()),
            "cases": int((bins == b).sum()),
        }
        for b in np.unique(bins)
    ]


def _mean_over_classes(score: Callable[..., float], truth: _Int, shares: _Float) -> float:
    """With two classes both are the same question, so only the second is asked."""
    asked = [1] if shares.shape[1] == 2 else range(shares.shape[1])
    known = [s for k in asked if np.isfinite(s := of_one_class(score, truth == k, shares[:, k]))]
    return float(np.mean(known)) if known else float("nan")
