"""The linear probe of frozen features image by image, as a classifier, and for parts of the cases."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.evaluation.class_metrics import ClassMetric, balanced_accuracy, of_drawn, quadratic_kappa
from medssl.evaluation.frozen_arms import Frozen, area_of_part
from medssl.evaluation.probe_data import ProbeData
from medssl.evaluation.probes import ProbeResult, Scores
from medssl.evaluation.statistics import statistic_interval
from medssl.evaluation.subgroups import by_group, groups_of

_Numbers = npt.NDArray[np.int64]


def linear_of(found: Frozen) -> tuple[int, ProbeResult]:
    """The linear probe that is told image by image, and its labels: all (0) where asked for, else the most."""
    labels = 0 if 0 in found.probes else max(found.probes)
    return labels, found.probes[labels]["linear"]


def case_rows(arm: str, probe: ProbeResult, data: ProbeData) -> list[dict[str, Any]]:
    """Lines of cases.csv, an image of split test each, with the mean score over the draws of every class asked for.

    Args:
        arm: The encoder's name.
        probe: Linear; its scores are log odds.
        data: Classes of images, or of bags, which go by the name of their first case.
    """
    mean = np.mean(probe.scores, axis=0)
    cases = [data.cases[int(row)] for row in data.rows("test")]
    return [
        {
            "arm": arm, "case": case.case, "patient": case.patient, "class": case.class_name,
            **{f"score_{name}": float(score) for name, score in zip(data.names, scores, strict=True)},
        }
        for case, scores in zip(cases, mean, strict=True)
    ]  # fmt: skip


def parts_of_probe(probe: ProbeResult, data: ProbeData, classes: bool, resamples: int) -> dict[str, Any]:
    """AUROC of a probe on the parts of split test: by site, sex, age and scanner; JSON-able.

    Args:
        probe: What is told.
        data: What it was asked.
        classes: Whether images have one class each: parts with few patients of one are marked too.
        resamples: Bootstrap resamples.
    """
    cases = [data.cases[int(row)] for row in data.rows("test")]
    return by_group(
        [groups_of(case) for case in cases],
        [case.patient for case in cases],
        lambda part: {"auroc": area_of_part(probe, data, part, resamples)},
        answers=_truth(data).tolist() if classes else (),
    )


def probe_as_classifier(
    probe: ProbeResult, data: ProbeData, classes: Sequence[str], order: Sequence[str], resamples: int
) -> dict[str, Any]:
    """Balanced accuracy of the class with the highest score, and quadratic kappa of ordered classes; JSON-able.

    Means over the draws, with intervals over patients.

    Args:
        probe: Linear; of two classes it says the second where its score is above 0.
        data: Classes of images or bags.
        classes: Of the cache.
        order: The same from the least to the most, where they have an order.
        resamples: Bootstrap resamples.
    """
    metrics: dict[str, ClassMetric] = {"balanced_accuracy": balanced_accuracy}
    if order:
        metrics["quadratic_kappa"] = quadratic_kappa
    columns = [classes.index(name) for name in order or classes]
    truth = np.array([columns.index(answer) for answer in _truth(data)])
    shares = [(scores if len(classes) > 2 else np.hstack([-scores, scores]))[:, columns] for scores in probe.scores]
    patients = [data.patients[int(row)] for row in data.rows("test")]
    return {
        name: statistic_interval(partial(_mean, metric, truth, shares), patients, resamples=resamples).to_json()
        for name, metric in metrics.items()
    }


def _mean(metric: ClassMetric, truth: _Numbers, shares: Sequence[Scores], drawn: _Numbers) -> float:
    return float(np.mean([of_drawn(metric, truth, own, drawn) for own in shares]))


def _truth(data: ProbeData) -> _Numbers:
    """(n,) number of the class of each image of split test."""
    targets = data.targets[data.rows("test")].numpy()
    return np.asarray(targets[:, 0] if targets.shape[1] == 1 else targets.argmax(1), dtype=np.int64)
