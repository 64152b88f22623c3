"""Frozen encoders beside one another: every probe, with intervals over patients and paired differences."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medssl.evaluation.bags import bag_probe
from medssl.evaluation.encoder_tests import Compared
from medssl.evaluation.feature_map import principal_map
from medssl.evaluation.features import Features
from medssl.evaluation.few_shot import Shot, few_shot_curve, multilabel_neighbours, shot_interval
from medssl.evaluation.frozen import frozen_features
from medssl.evaluation.options import FrozenOptions
from medssl.evaluation.probe_data import ProbeData, draw_labelled
from medssl.evaluation.probes import ProbeResult, Scores, attentive_probe, best_option, knn_probe, linear_probe
from medssl.evaluation.statistics import Interval, statistic_interval
from medssl.evaluation.swap_tests import SwapTest, swap_scores
from medssl.evaluation.transferability import SCORES
from medssl.imaging.errors import ConfigError
from medssl.models.encoder import Encoder
from medssl.tasks.classification import auroc

RANDOM = "random weights"
"""Name of the arm of encoders before any training."""


@dataclass(frozen=True)
class Frozen:
    """What is found of one encoder.

    Args:
        probes: Number of labels to probe to result.
        shots: Prototypes of a few images a class.
        transferability: Score to value, mean over the questions; NaN where the features do not vary.
        feature_map: Split test on a plane; None where the features have no two directions.
    """

    probes: dict[int, dict[str, ProbeResult]]
    shots: tuple[Shot, ...]
    transferability: dict[str, float]
    feature_map: dict[str, Any] | None = None


def judge_encoder(encoder: Encoder, data: ProbeData, options: FrozenOptions) -> Frozen:
    """Run every protocol on the features of an encoder; its weights stay as they are.

    Raises:
        MedsslError: Features that are no numbers.
        CacheError: Split train is too small for the labels asked.
    """
    drawn = {labels: draw_labelled(data, labels, options.draws) for labels in options.labels}  # before what takes long
    features = frozen_features(encoder, data, options.blocks)
    probes = {labels: _probes(features, data, draws) for labels, draws in drawn.items()}
    shots = few_shot_curve(features, data, options.shots, options.episodes)
    plane = principal_map(features.pooled["mean"].numpy(), data)
    return Frozen(probes, tuple(shots), _transferability(features, data), plane)


def summarise_arm(found: Sequence[Frozen], data: ProbeData, resamples: int) -> dict[str, Any]:
    """Numbers of an arm, the mean over its encoders; JSON-able.

    Args:
        found: One encoder, or several with random weights.
        data: What they were asked.
        resamples: Bootstrap resamples.
    """
    return {
        "encoders": len(found),
        "probes": {
            str(labels): {
                name: {
                    "auroc": _interval([f.probes[labels][name] for f in found], (), data, resamples).to_json(),
                    "each": [_auroc(f.probes[labels][name], data) for f in found],
                    "chosen": [f.probes[labels][name].chosen for f in found],
                    "val": float(np.mean([f.probes[labels][name].val for f in found])),
                    "questions": _of_questions([f.probes[labels][name] for f in found], data, resamples),
                }
                for name in probes
            }
            for labels, probes in found[0].probes.items()
        },
        "shots": [
            {
                "shots": shot.shots,
                "auroc": float(np.mean([f.shots[n].test for f in found])),
                "deviation": float(np.mean([f.shots[n].deviation for f in found])),
                "episodes": shot.episodes,
                "interval": shot_interval([f.shots[n] for f in found], (), data, resamples).to_json(),
                "each": [f.shots[n].test for f in found],
            }
            for n, shot in enumerate(found[0].shots)
        ],
        "transferability": {
            name: None if math.isnan(value) else value
            for name in found[0].transferability
            for value in [float(np.mean([f.transferability[name] for f in found]))]
        },
    }


def differences(
    ours: Frozen, theirs: Sequence[Frozen], data: ProbeData, resamples: int
) -> dict[str, dict[str, Compared]]:
    """Number of labels to probe to the paired difference of AUROC, ours minus theirs, over the same patients."""

    def compared(first: ProbeResult, others: Sequence[ProbeResult]) -> Compared:
        area, *areas = (_auroc(found, data) for found in (first, *others))
        return Compared(area, areas, _interval([first], others, data, resamples), _swapped(first.scores, others, data))

    return {
        str(labels): {name: compared(found, [f.probes[labels][name] for f in theirs]) for name, found in probes.items()}
        for labels, probes in ours.probes.items()
    }


def area_of_part(found: ProbeResult, data: ProbeData, part: npt.NDArray[np.int64], resamples: int) -> Interval:
    """Mean AUROC of a probe over questions and draws on some images of split test, by their positions within it."""
    rows = data.rows("test")[part]
    statistic = partial(_difference, data.targets[rows].numpy(), [scores[part] for scores in found.scores], [])
    return statistic_interval(statistic, [data.patients[int(row)] for row in rows], resamples=resamples)


def shot_differences(ours: Frozen, theirs: Sequence[Frozen], data: ProbeData, resamples: int) -> dict[str, Compared]:
    """Images a class to the paired difference of the prototypes' AUROC, ours minus theirs, over the same patients."""

    def compared(first: Shot, others: Sequence[Shot]) -> Compared:
        interval = shot_interval([first], others, data, resamples)
        return Compared(first.test, [shot.test for shot in others], interval, _swapped(first.scores, others, data))

    return {str(shot.shots): compared(shot, [f.shots[n] for f in theirs]) for n, shot in enumerate(ours.shots)}


def _swapped(ours: Iterable[Scores], theirs: Sequence[ProbeResult] | Sequence[Shot], data: ProbeData) -> SwapTest:
    """Patients of split test swapped in all draws and beside all encoders together."""
    rows = data.rows("test")
    pairs = [pair for other in theirs for pair in zip(ours, other.scores, strict=True)]
    return swap_scores(data.targets[rows].numpy(), pairs, [data.patients[int(row)] for row in rows])


def _probes(features: Features, data: ProbeData, draws: Sequence[Tensor]) -> dict[str, ProbeResult]:
    found = {"knn": knn_probe(features, data, draws), "linear": linear_probe(features, data, draws)}
    if data.targets.shape[1] > 1 and not data.exclusive:
        found["multilabel_knn"] = best_option(
            list(features.pooled),
            lambda p, known, asked: multilabel_neighbours(features.pooled[p], data, known, asked),
            data,
            draws,
        )
    attention = {"attentive": attentive_probe} if features.there is None else {"bag_attention": bag_probe}
    return {**found, **{name: probe(features, data, draws) for name, probe in attention.items()}}


def _transferability(features: Features, data: ProbeData) -> dict[str, float]:
    """Of all labels of split train; each question on its own where an image has several answers."""
    rows = data.rows("train")
    values, answers = features.pooled["mean"][rows].numpy(), data.targets[rows].numpy()
    questions = [answers.argmax(1)] if data.exclusive else list(answers.T.astype(int))
    try:
        return {name: float(np.mean([score(values, labels) for labels in questions])) for name, score in SCORES.items()}
    except ConfigError:  # a collapsed encoder: its probes tell that
        return dict.fromkeys(SCORES, math.nan)


def _of_questions(found: Sequence[ProbeResult], data: ProbeData, resamples: int) -> dict[str, Any]:
    """Question to its own AUROC; empty where there is one alone."""
    several = data.names if data.targets.shape[1] > 1 else ()
    return {name: _interval(found, (), data, resamples, slice(k, k + 1)).to_json() for k, name in enumerate(several)}


def _interval(
    ours: Sequence[ProbeResult],
    theirs: Sequence[ProbeResult],
    data: ProbeData,
    resamples: int,
    questions: slice = slice(None),
) -> Interval:
    """Mean AUROC over questions, draws and encoders, or its difference, with an interval over patients."""
    rows = data.rows("test")
    first, second = ([scores[:, questions] for one in found for scores in one.scores] for found in (ours, theirs))
    statistic = partial(_difference, data.targets[rows, questions].numpy(), first, second)
    return statistic_interval(statistic, [data.patients[int(row)] for row in rows], resamples=resamples)


def _auroc(result: ProbeResult, data: ProbeData) -> float | None:
    """Of one encoder; None where no question has both answers."""
    area = _mean_auroc(data.targets[data.rows("test")].numpy(), list(result.scores))
    return area if math.isfinite(area) else None


def _difference(
    answers: npt.NDArray[np.bool_], ours: Sequence[Scores], theirs: Sequence[Scores], drawn: npt.NDArray[np.int64]
) -> float:
    if (_asks(answers) & ~_asks(answers[drawn])).any():  # a mean over the other questions is another number
        return math.nan
    first = _mean_auroc(answers[drawn], [scores[drawn] for scores in ours])
    return first - _mean_auroc(answers[drawn], [scores[drawn] for scores in theirs]) if theirs else first


def _asks(answers: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(Q,) questions that have both answers."""
    return np.asarray(answers.any(0) & ~answers.all(0))


def _mean_auroc(answers: npt.NDArray[np.bool_], scores: Sequence[Scores]) -> float:
    """Mean over scores and over the questions that have both answers; NaN where none has."""
    areas = [auroc(found[:, k], answers[:, k]) for found in scores for k in range(answers.shape[1])]
    known = [area for area in areas if np.isfinite(area)]
    return float(np.mean(known)) if known else float("nan")
