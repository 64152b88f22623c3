"""Frozen features with a handful of labels: prototypes over many episodes, neighbours for several answers at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medssl.evaluation.features import Features
from medssl.evaluation.probe_data import ProbeData
from medssl.evaluation.probes import Scores, centred_units, mean_auroc, nearest
from medssl.evaluation.statistics import Interval, statistic_interval
from medssl.evaluation.weighted_auroc import mean_area

_NEIGHBOURS, _SMOOTHING = 10, 1.0  # of ML-kNN


@dataclass(frozen=True)
class Shot:
    """What prototypes of so many images a class reach.

    Args:
        shots: Images of each class (of each answer, where an image has several).
        chosen: Pooling, chosen on split val.
        val: Mean AUROC on split val.
        test: Mean AUROC on split test over the episodes.
        deviation: Standard deviation of it over the episodes.
        episodes: How many.
        scores: (episodes, n, K) of split test.
    """

    shots: int
    chosen: str
    val: float
    test: float
    deviation: float
    episodes: int
    scores: Scores = field(compare=False, repr=False)


def prototype_scores(vectors: Tensor, data: ProbeData, known: Tensor, asked: Tensor) -> Scores:
    """SimpleShot (Wang et al., 2019, https://arxiv.org/abs/1911.04623): distance to class means of unit vectors.

    Centred by the known images, as in the few-shot evaluation of UNI (Chen et al., 2024). Where images are of one class
    out of several the score is minus the distance to its mean; where there are two, or several answers an image, that
    of the images without the answer is added.

    Args:
        vectors: (N, E).
        data: Whose answers are learned.
        known: Images with labels.
        asked: Images (n) to score.

    Returns:
        (n, K).
    """
    units = centred_units(vectors, known)
    answers = data.targets[known].double()
    scores = -torch.cdist(units[asked].double(), _means(units[known].double(), answers))
    if not data.exclusive:
        scores = scores + torch.cdist(units[asked].double(), _means(units[known].double(), 1 - answers))
    found: Scores = scores.numpy()
    return found


def few_shot_curve(
    features: Features, data: ProbeData, shots: Sequence[int], episodes: int = 100, seed: int = 0
) -> list[Shot]:
    """Prototypes of few images, drawn again and again; every episode is asked about all of split val and test.

    Args:
        features: Of all images.
        data: Their answers.
        shots: Images of each class; numbers that split train cannot give are left out (`shots_left_out`).
        episodes: Draws for each number.
        seed: Seed of the draws.
    """
    found = []
    for count in shots:
        rng = np.random.default_rng([seed, count])
        drawn = [_episode(data, count, rng) for _ in range(episodes)]
        draws = [draw for draw in drawn if draw is not None]
        if len(draws) == episodes:
            found.append(_shot(features, data, count, draws))
    return found


def shots_left_out(data: ProbeData, shots: Sequence[int]) -> list[str]:
    """What to say of numbers of images a class that split train cannot give; nothing where it can give all."""
    fewest, kind = min((len(group), kind) for kind, group in _groups(data).items())
    missing = ", ".join(str(count) for count in shots if count > fewest)
    return [f"frozen.shots {missing} left out: split train has {fewest} image(s) {kind}."] if missing else []


def shot_interval(ours: Sequence[Shot], theirs: Sequence[Shot], data: ProbeData, resamples: int) -> Interval:
    """Mean AUROC over questions, episodes and encoders, or its difference, with an interval over patients.

    Args:
        ours: So many images a class, an encoder each.
        theirs: Others to subtract; none: `()`.
        data: What was asked.
        resamples: Bootstrap resamples. The episodes stay as they were drawn.
    """
    rows = data.rows("test")
    answers = data.targets[rows].numpy()
    asked = [answers[:, column] for column in range(answers.shape[1])]
    areas = [
        [
            mean_area(np.concatenate([shot.scores[..., column] for shot in found]), own)
            for found in (ours, theirs)
            if found
        ]
        for column, own in enumerate(asked)
        if own.any() and not own.all()
    ]

    def statistic(drawn: npt.NDArray[np.int64]) -> float:
        times = np.bincount(drawn, minlength=len(answers)).astype(np.float64)
        found = [first(times) - sum(other(times) for other in others) for first, *others in areas]
        return float(np.mean(found)) if found else math.nan  # NaN of one: a mean over fewer is another number

    return statistic_interval(statistic, [data.patients[int(row)] for row in rows], resamples=resamples)


def multilabel_neighbours(
    vectors: Tensor, data: ProbeData, known: Tensor, asked: Tensor, neighbours: int = _NEIGHBOURS
) -> Scores:
    """ML-kNN (Zhang and Zhou, 2007, https://doi.org/10.1016/j.patcog.2006.12.019) by cosine, smoothing 1.

    How likely an answer is, given how many of the nearest images have it, learned from the known images themselves.

    Args:
        vectors: (N, E).
        data: Whose answers are learned.
        known: Images with labels.
        asked: Images (n) to score.
        neighbours: Neighbours k; at most all but one of the known images.

    Returns:
        (n, K) probabilities.
    """
    units = centred_units(vectors, known)
    answers = data.targets[known]
    k = min(neighbours, len(known) - 1)
    counts = answers[nearest(units, known, known, k)[1]].sum(1)  # (m, K) neighbours with the answer
    seen = answers[nearest(units, asked, known, k)[1]].sum(1)  # (n, K)
    prior = (_SMOOTHING + answers.sum(0)) / (2 * _SMOOTHING + len(known))
    columns = []
    for column in range(answers.shape[1]):
        here, there = (_likelihood(counts[answers[:, column] == value, column], k) for value in (True, False))
        with_it, without = prior[column] * here[seen[:, column]], (1 - prior[column]) * there[seen[:, column]]
        columns.append(with_it / (with_it + without))
    scores: Scores = torch.stack(columns, dim=1).double().numpy()
    return scores


def _likelihood(counts: Tensor, k: int) -> Tensor:
    """(k + 1,) smoothed shares of images whose neighbours have the answer so many times."""
    tally = torch.bincount(counts, minlength=k + 1).double()
    return (_SMOOTHING + tally) / (_SMOOTHING * (k + 1) + tally.sum())


def _means(units: Tensor, weights: Tensor) -> Tensor:
    """(K, E) means of the images with each answer, not normalised again."""
    return (weights.T @ units) / weights.sum(0)[:, None]


def _episode(data: ProbeData, shots: int, rng: np.random.Generator) -> Tensor | None:
    """Images of split train, `shots` with each answer; None where there are too few."""
    groups = list(_groups(data).values())
    if min(len(group) for group in groups) < shots:
        return None
    picked: list[npt.NDArray[np.int64]] = [rng.choice(group, shots, replace=False) for group in groups]
    return data.rows("train")[torch.from_numpy(np.unique(np.concatenate(picked)))]


def _groups(data: ProbeData) -> dict[str, npt.NDArray[np.int64]]:
    """Places in split train of the images with each answer, and without it where an image may have several or none."""
    answers = data.targets[data.rows("train")].numpy()
    sides = {"with": answers} if data.exclusive else {"with": answers, "without": ~answers}
    return {
        f"{side} {name!r}": np.flatnonzero(given[:, k])
        for side, given in sides.items()
        for k, name in enumerate(data.names)
    }


def _shot(features: Features, data: ProbeData, shots: int, draws: Sequence[Tensor]) -> Shot:
    val, test = data.rows("val"), data.rows("test")

    def scored(pooling: str, asked: Tensor) -> Scores:
        return np.stack([prototype_scores(features.pooled[pooling], data, known, asked) for known in draws])

    def judged(scores: Scores, asked: Tensor) -> list[float]:
        answers = data.targets[asked].numpy()
        return [mean_auroc(answers, of_episode) for of_episode in scores]

    on_val = {pooling: float(np.mean(judged(scored(pooling, val), val))) for pooling in features.pooled}
    chosen = max(on_val, key=lambda pooling: on_val[pooling])
    scores = scored(chosen, test)
    values = judged(scores, test)
    return Shot(shots, chosen, on_val[chosen], float(np.mean(values)), float(np.std(values)), len(draws), scores)
