"""What patients add, taken away, against the number measured anew of all others' cases."""

import numpy as np
import pytest

from medssl.evaluation import study_scores
from medssl.evaluation.class_metrics import auroc, balanced_accuracy, of_drawn, quadratic_kappa
from medssl.evaluation.study_scores import NetworkScores, difference
from medssl.evaluation.without_each import (
    auroc_without_each,
    balanced_accuracy_without_each,
    quadratic_kappa_without_each,
)

_PAIRS = (
    (auroc, auroc_without_each),
    (balanced_accuracy, balanced_accuracy_without_each),
    (quadratic_kappa, quadratic_kappa_without_each),
)


def _drawn(rng: np.random.Generator, classes: int, cases: int, patients: int) -> tuple[np.ndarray, ...]:
    """Classes, tied probabilities and patients, some with cases of several classes."""
    numbers = np.unique(rng.integers(0, patients, cases), return_inverse=True)[1]
    return rng.integers(0, classes, cases), np.round(rng.dirichlet(np.ones(classes), cases), 1), numbers


@pytest.mark.parametrize(("metric", "without_each"), _PAIRS)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_without_each_patient_it_is_the_number_of_the_others(metric, without_each, classes: int):
    rng, missing = np.random.default_rng(classes), 0
    for cases, patients in ((60, 200), (60, 12), (9, 4), (7, 7)) * 5:
        truth, shares, numbers = _drawn(rng, classes, cases, patients)
        every = range(numbers.max() + 1)
        slow = [of_drawn(metric, truth, shares, np.flatnonzero(numbers != patient)) for patient in every]
        missing += np.isnan(slow).sum()
        np.testing.assert_allclose(without_each(truth, shares, numbers), slow, rtol=1e-12, atol=1e-12)
    assert missing or metric is quadratic_kappa, "some patients were the only ones of a class"


@pytest.mark.parametrize(("metric", "without_each"), _PAIRS)
def test_one_class_alone(metric, without_each):
    truth, shares = np.ones(4, int), np.array([[0.2, 0.8]] * 4)
    slow = [of_drawn(metric, truth, shares, np.delete(np.arange(4), n)) for n in range(4)]
    np.testing.assert_array_equal(without_each(truth, shares, np.arange(4)), slow)


def test_the_interval_of_a_study_is_that_of_every_number_measured_anew(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    truth, patients = rng.integers(0, 2, 40), [f"p{n}" for n in rng.integers(0, 15, 40)]

    def network(arm: str, seed: int) -> NetworkScores:
        shares = np.round(rng.dirichlet([1, 1], 40), 1)
        return NetworkScores(arm, 4, seed, tuple(map(str, range(40))), tuple(patients), shares, truth)

    by_seed = {seed: [(network("a", seed), network("b", seed)) for _ in range(2)] for seed in range(3)}

    def ends() -> list[float]:
        found = difference(by_seed, "auroc", (0.7, -0.3))["over_seeds_and_patients"]
        return [found[name] for name in ("estimate", "low", "high")]

    fast = ends()
    monkeypatch.setattr(study_scores, "_WITHOUT_EACH", {})
    assert fast == pytest.approx(ends(), rel=1e-12)
