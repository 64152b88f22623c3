"""What arms gain with every doubling of the labels, and which of two holds better as labels shrink."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medssl.evaluation.statistics import t_interval
from medssl.evaluation.study_plan import Metric
from medssl.evaluation.study_scores import NetworkScores, difference


def slopes(points: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> dict[str, Any]:
    """What each arm gains with every doubling of the labels; arms with results at two numbers of labels or more.

    Least squares of a seed's metric on the binary logarithm of the number of labels, over the seeds that the arm has at
    all its numbers, so that the mean of their slopes is the slope of their means. After the slopes over the logarithm
    of the share of labels in Wolf et al. (Scientific Reports 13:20260, 2023, https://arxiv.org/abs/2308.06534).
    """
    found = {}
    for arm in arms:
        here = {point["labels"]: point["arms"][arm]["seeds"] for point in points if arm in point["arms"]}
        seeds = [seed for seed in next(iter(here.values())) if all(own.get(seed) is not None for own in here.values())]
        if len(here) < 2 or not seeds:
            continue
        table = np.array([[own[seed] for seed in seeds] for own in here.values()])  # (labels, seeds)
        by_seed = (_weights(list(here)) @ table).tolist()
        found[arm] = {"per_doubling": t_interval(by_seed).to_json(), "seeds": dict(zip(seeds, by_seed, strict=True))}
    return found


def slope_difference(
    ours: Mapping[int, Mapping[int, NetworkScores]], theirs: Mapping[int, Mapping[int, NetworkScores]], metric: Metric
) -> dict[str, Any] | None:
    """How the gains per doubling of two arms differ, over the seeds that both have at all numbers that both have.

    Args:
        ours: Number of labels to seed to network.
        theirs: Of the other arm.
        metric: What is compared.

    Returns:
        As `difference`, and the numbers of `labels`; None with fewer than two numbers, or no such seed.
    """
    labels = sorted(number for number in ours if ours[number] and theirs.get(number))
    seeds = set.intersection(*(set(own[number]) for number in labels for own in (ours, theirs))) if labels else set()
    if len(labels) < 2 or not seeds:
        return None
    pairs = {seed: [(ours[number][seed], theirs[number][seed]) for number in labels] for seed in seeds}
    return {"labels": labels, **difference(pairs, metric, _weights(labels).tolist())}


def _weights(labels: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """What each number of labels counts in the least-squares slope over its binary logarithm."""
    places = np.log2(labels)
    centred = places - places.mean()
    return np.asarray(centred / (centred**2).sum())
