"""The area of images that count several times: both forms are one, and the area of the images repeated."""

import math
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medssl.evaluation.weighted_auroc import by_order, by_pairs, mean_area


@pytest.mark.parametrize("values", [3, 10**6], ids=["many ties", "few ties"])
def test_table_and_order_win_the_same_pairs(values: int):
    rng = np.random.default_rng(0)
    for with_it, without in ((1, 40), (40, 1), (23, 31)):
        ahead, behind = (rng.integers(0, values, (7, count)).astype(float) for count in (with_it, without))
        for _ in range(5):
            times, others = (rng.integers(0, 4, count).astype(float) for count in (with_it, without))
            assert by_order(ahead, behind)(times, others) == by_pairs(ahead, behind)(times, others)


@pytest.mark.parametrize("rows", [1, 200], ids=["by order", "by pairs"])
def test_the_area_is_that_of_the_images_repeated(rows: int):
    rng = np.random.default_rng(1)
    answers, times = rng.uniform(size=60) < 0.4, rng.integers(0, 4, 60)
    scores = np.round(rng.normal(size=(rows, 60)) + answers, 1)
    repeated = np.repeat(np.arange(60), times)
    expected = np.mean([roc_auc_score(answers[repeated], row[repeated]) for row in scores])
    assert mean_area(scores, answers)(times.astype(float)) == pytest.approx(expected)
    assert math.isnan(mean_area(scores, answers)(times * answers.astype(float)))


def test_memory_does_not_grow_with_the_pairs():
    rng = np.random.default_rng(2)
    answers, scores = rng.uniform(size=4000) < 0.5, rng.normal(size=(2, 4000))
    tracemalloc.start()
    mean_area(scores, answers)(np.ones(4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20, "all pairs are 4 million numbers"
