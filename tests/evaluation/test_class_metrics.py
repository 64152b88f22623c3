"""Metrics of class probabilities against closed forms and hand-made cases."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.classification import MulticlassCalibrationError

from medssl.evaluation.class_metrics import METRICS, brier, calibration_error, quadratic_kappa, reliability


def _sure(chosen: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[chosen]


def test_quadratic_kappa_counts_how_far_an_answer_is_off():
    truth = np.array([0, 1, 2, 3, 4])
    assert quadratic_kappa(truth, _sure([0, 1, 2, 3, 4], 5)) == 1
    assert quadratic_kappa(truth, _sure([4, 3, 2, 1, 0], 5)) == pytest.approx(-1)
    near, far = (quadratic_kappa(truth, _sure(chosen, 5)) for chosen in ([0, 1, 2, 3, 3], [0, 1, 2, 3, 0]))
    # 1 - sum of squared distances over that of independent answers with the same counts
    assert near == pytest.approx(1 - 1 / (sum((a - b) ** 2 for a in range(5) for b in (0, 1, 2, 3, 3)) / 5))
    assert far < near
    assert math.isnan(quadratic_kappa(np.zeros(3, int), _sure([0, 0, 0], 5)))


def test_calibration_error_of_one_bin_and_of_a_calibrated_model():
    shares = np.tile([0.2, 0.8], (10, 1))
    assert calibration_error(np.array([1] * 8 + [0] * 2), shares) == pytest.approx(0, abs=1e-6)
    assert calibration_error(np.array([1] * 3 + [0] * 7), shares) == pytest.approx(0.5, abs=1e-6)
    bins = reliability(np.array([1] * 3 + [0] * 7), shares)
    assert bins == [{"confidence": pytest.approx(0.8), "accuracy": pytest.approx(0.3), "cases": 10}]


def test_certain_answers_are_in_the_last_bin_of_fifteen():
    """A hundred at exactly 1, of which 90 are right, and a hundred at 0.95, all right: 0.025 in one bin."""
    sure = np.array([1.0] * 100 + [0.95] * 100)
    shares = np.stack([1 - sure, sure], axis=1)
    truth = np.array([1] * 90 + [0] * 10 + [1] * 100)
    assert calibration_error(truth, shares) == pytest.approx(0.025, abs=1e-6)


def test_calibration_error_is_the_mean_distance_over_bins():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([1, 1, 1], 200)
    truth = rng.integers(0, 3, 200)
    by_bin = sum(b["cases"] * abs(b["confidence"] - b["accuracy"]) for b in reliability(truth, shares)) / 200
    assert calibration_error(truth, shares) == pytest.approx(by_bin, abs=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_calibration_error_is_that_of_torchmetrics_where_nothing_is_certain(classes: int):
    rng = np.random.default_rng(classes)
    shares = rng.dirichlet([0.4] * classes, 500).clip(1e-4, 1 - 1e-4)
    truth = np.where(rng.random(500) < 0.6, shares.argmax(1), rng.integers(0, classes, 500))
    theirs = MulticlassCalibrationError(classes, n_bins=15, norm="l1")(
        torch.from_numpy(shares), torch.from_numpy(truth)
    )
    assert calibration_error(truth, shares) == pytest.approx(float(theirs), abs=1e-5)
    assert float(theirs) > 0.05


def test_brier_has_the_scale_it_says():
    assert brier(np.array([0, 1]), np.array([[0.9, 0.1], [0.4, 0.6]])) == pytest.approx((0.01 + 0.16) / 2)
    assert brier(np.array([0, 1, 2]), _sure([1, 2, 0], 3)) == pytest.approx(2)
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], 50)
    truth = np.arange(50) % 3
    assert brier(truth, shares) == pytest.approx(brier_score_loss(truth, shares, labels=[0, 1, 2]))


@pytest.mark.parametrize("name", METRICS)
def test_one_class_alone_is_no_error(name: str):
    value = METRICS[name](np.zeros(4, int), np.tile([0.7, 0.3], (4, 1)))
    assert math.isnan(value) or 0 <= value <= 1
