"""Predicts the class of whole images and measures how well classes are told apart, with intervals over patients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.class_metrics import (
    LESS_IS_BETTER,
    METRICS,
    ClassMetric,
    of_drawn,
    of_one_class,
    quadratic_kappa,
    reliability,
    share,
)
from medssl.evaluation.statistics import Interval, statistic_interval
from medssl.evaluation.subgroups import CONVENTION, by_group, few_of_a_class, few_patients, groups_of
from medssl.evaluation.swap_tests import PAIRED_TEST, ClassNumber, swap_answers
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.progress import Progress

CONVENTIONS = (
    "AUROC and average precision: each class against the rest, averaged over the classes; of two classes, the second "
    "is the positive one.",
    "Balanced accuracy: mean share of right answers over the classes that occur.",
    "Calibration error: mean distance of the highest probability from the share of right answers, in 15 even bins.",
    "Brier: mean squared distance of the probabilities from the truth, 0 to 1 for two classes, 0 to 2 for more.",
    CONVENTION,
    "Intervals: 95 %, percentile bootstrap over patients; all cases of a patient are drawn together, in a difference "
    "for both models.",
    PAIRED_TEST,
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
        groups: Site, sex and the like, for subgroups.
    """

    case: str
    patient: str
    truth: int
    probabilities: _Float
    groups: Mapping[str, str] = field(default_factory=dict)

    def row(self, arm: str, classes: Sequence[str]) -> dict[str, Any]:
        """Line of cases.csv."""
        return {
            "arm": arm,
            "case": self.case,
            "patient": self.patient,
            "class": classes[self.truth],
            "predicted": classes[int(self.probabilities.argmax())],
            **{f"probability_{n}": f"{share:.6g}" for n, share in zip(classes, self.probabilities, strict=True)},
        }


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

    Raises:
        MedsslError: Probabilities that are no numbers.
    """
    found = []
    with Progress("evaluate", len(cases)) as progress:
        for case in cases:
            shares = np.asarray(predict(cache.image(case)), dtype=np.float64)
            if not np.isfinite(shares).all():
                raise MedsslError(f"case {case.case!r}: the network's probabilities are no numbers", reason="nan")
            truth = classes.index(case.class_name)
            found.append(ClassPrediction(case.case, case.patient, truth, shares, groups_of(case)))
            progress.advance(note=case.case)
    return found


def class_warnings(predictions: Sequence[ClassPrediction], classes: Sequence[str], split: str) -> list[str]:
    """What cannot be measured because classes do not occur among the cases of a split, or have few patients."""
    found = {classes[p.truth] for p in predictions}
    few = few_patients(split, {p.patient for p in predictions})
    if len(found) < 2:
        return [
            *few,
            f"All cases are of class {next(iter(found), 'none')!r}: AUROC and average precision are not defined, and "
            "the other numbers say nothing about telling classes apart.",
        ]
    of_class = {name: {p.patient for p in predictions if classes[p.truth] == name} for name in classes}
    few += few_of_a_class(split, {name: patients for name, patients in of_class.items() if patients})
    absent = [repr(name) for name, patients in of_class.items() if not patients]
    return few + ([f"No case is of class {', '.join(absent)}: it is in no mean over classes."] if absent else [])


def summarise_classes(
    predictions: Sequence[ClassPrediction], classes: Sequence[str], resamples: int = 1000, order: Sequence[str] = ()
) -> dict[str, Any]:
    """Numbers with intervals, a line a class, parts of the cases, calibration and the confusion table; JSON-able.

    Args:
        predictions: At least one.
        classes: Names in the order of the probabilities.
        resamples: Bootstrap resamples.
        order: The classes from the least to the most, where they have an order: quadratic kappa is added.

    Raises:
        ConfigError: `order` does not hold the classes.
    """
    names, asked = _asked(classes, order)
    truth, shares = _in_order(predictions, classes, names)
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (truth, shares.argmax(axis=1)), 1)
    patients = [p.patient for p in predictions]

    def measured(statistic: Statistic) -> dict[str, Any]:
        return statistic_interval(statistic, patients, resamples=resamples).to_json()

    def of_part(part: npt.NDArray[np.int64]) -> dict[str, Interval]:
        own, found = [patients[position] for position in part], {}
        for name, metric in asked.items():
            statistic = partial(of_drawn, metric, truth[part], shares[part])
            found[name] = statistic_interval(statistic, own, resamples=resamples)
        return found

    return {
        "metrics": _json(of_part(np.arange(len(truth)))),
        "classes": {
            name: _of_class(truth == k, shares.argmax(axis=1) == k, shares[:, k], measured)
            for k, name in enumerate(names)
        },
        "class_names": names,
        "confusion": confusion.tolist(),
        "reliability": reliability(truth, shares),
        "subgroups": by_group([p.groups for p in predictions], patients, of_part, answers=truth.tolist()),
        "cases": len(predictions),
        "patients": len(set(patients)),
    }


def compare_classes(
    ours: Sequence[ClassPrediction],
    others: Mapping[str, Sequence[ClassPrediction]],
    classes: Sequence[str],
    resamples: int = 1000,
    order: Sequence[str] = (),
) -> dict[str, Any]:
    """Metrics of other models on the same cases, and the paired differences to them, ours minus theirs; JSON-able.

    A difference is tested by swaps of whole patients as well.

    Args:
        ours: Of the model that is evaluated.
        others: Name to predictions of the same cases in the same order.
        classes: Names in the order of the probabilities.
        resamples: Bootstrap resamples, where a patient is drawn for both models at once, and swaps.
        order: As in `summarise_classes`.
    """
    names, asked = _asked(classes, order)
    truth, first = _in_order(ours, classes, names)
    patients = [p.patient for p in ours]

    def measured(of: Callable[[ClassMetric], Statistic]) -> dict[str, Interval]:
        return {name: statistic_interval(of(metric), patients, resamples=resamples) for name, metric in asked.items()}

    found: dict[str, dict[str, Any]] = {"others": {}, "differences": {}, "tests": {}}
    for other, predictions in others.items():
        _, second = _in_order(predictions, classes, names)
        alone = measured(lambda metric, s=second: partial(of_drawn, metric, truth, s))  # type: ignore[misc]
        differences = measured(lambda metric, s=second: partial(_between, metric, truth, (first, s)))  # type: ignore[misc]
        found["others"][other] = {"metrics": _json(alone)}
        found["differences"][other] = _json(differences)
        found["tests"][other] = {
            name: swap_answers(cast(ClassNumber, name), truth, [(first, second)], patients, resamples).told(
                difference, name in LESS_IS_BETTER
            )
            for name, difference in differences.items()
        }
    return found


def _json(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval.to_json() for name, interval in intervals.items()}


def check_order(classes: Sequence[str], order: Sequence[str]) -> None:
    """Refuse an order of other classes.

    Raises:
        ConfigError: `order` does not hold the classes.
    """
    if order and sorted(order) != sorted(classes):
        raise ConfigError([f"measure.class_order {list(order)} must hold the classes {list(classes)}, each once"])


def _asked(classes: Sequence[str], order: Sequence[str]) -> tuple[list[str], dict[str, ClassMetric]]:
    """Classes as they are shown, and the metrics.

    Raises:
        ConfigError: As `check_order`.
    """
    check_order(classes, order)
    return list(order or classes), {**METRICS, **({"quadratic_kappa": quadratic_kappa} if order else {})}


def _in_order(
    predictions: Sequence[ClassPrediction], classes: Sequence[str], names: Sequence[str]
) -> tuple[npt.NDArray[np.int64], _Float]:
    """True classes (n,) and probabilities (n, K), of classes as they are shown."""
    columns = [classes.index(name) for name in names]
    truth = np.array([columns.index(p.truth) for p in predictions])
    return truth, np.stack([p.probabilities for p in predictions])[:, columns]


def _between(
    metric: ClassMetric, truth: npt.NDArray[np.int64], shares: tuple[_Float, _Float], drawn: npt.NDArray[np.int64]
) -> float:
    return of_drawn(metric, truth, shares[0], drawn) - of_drawn(metric, truth, shares[1], drawn)


def _of_class(
    positive: npt.NDArray[np.bool_],
    called: npt.NDArray[np.bool_],
    shares: _Float,
    measured: Callable[[Statistic], dict[str, Any]],
) -> dict[str, Any]:
    return {
        "auroc": measured(lambda i: of_one_class(roc_auc_score, positive[i], shares[i])),
        "average_precision": measured(lambda i: of_one_class(average_precision_score, positive[i], shares[i])),
        "recall": measured(lambda i: share(called[i][positive[i]])),
    }
