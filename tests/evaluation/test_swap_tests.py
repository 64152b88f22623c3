"""Swap tests: against SciPy, against a swap of every pattern by hand, and with few patients who differ."""

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special, stats

from medssl.evaluation import class_metrics
from medssl.evaluation.swap_tests import _MEASURES, ClassNumber, smallest_p_value, swap_answers, swap_means

_NUMBERS: tuple[ClassNumber, ...] = (
    "auroc", "balanced_accuracy", "quadratic_kappa", "accuracy", "brier", "average_precision", "calibration_error",
)  # fmt: skip
_ORDER, _SHARES = ("auroc", "average_precision"), ("brier", "calibration_error")


def test_few_patients_are_swapped_in_every_way():
    values = [0.3, 0.1, -0.2, 0.4, 0.25]
    wanted = stats.permutation_test(
        (np.array(values),), np.sum, permutation_type="samples", alternative="two-sided", n_resamples=np.inf
    )
    assert swap_means(values, range(5)).p_value == pytest.approx(wanted.pvalue)
    assert swap_means([1.0, 1.0, 1.0], range(3)).p_value == pytest.approx(2 / 8)


def test_many_patients_are_swapped_at_random():
    values = np.random.default_rng(0).normal(0.4, 1, 40).tolist()
    wanted = stats.ttest_1samp(values, 0).pvalue
    assert swap_means(values, range(40)).p_value == pytest.approx(wanted, rel=0.3)
    assert swap_means([1.0] * 40, range(40)).p_value == 1 / 10_000


def test_cases_of_a_patient_are_swapped_together():
    assert swap_means([1.0] * 12, [n // 4 for n in range(12)]).p_value == pytest.approx(2 / 8)
    assert swap_means([0.5, math.nan, 0.5], [0, 1, 2]).p_value == pytest.approx(2 / 4)
    assert math.isnan(swap_means([math.nan], [0]).p_value)


def test_patients_whose_swap_changes_nothing_make_p_no_smaller():
    found = swap_means([0.0] * 40 + [0.3] * 4, range(44))
    assert (found.p_value, found.smallest) == (2 / 2**4, 2 / 2**4)
    alike = swap_means([0.0] * 40, range(40))
    assert (alike.p_value, alike.smallest) == (1.0, 1.0)


def test_p_values_of_nothing_are_spread_evenly():
    rng = np.random.default_rng(0)
    found = [swap_means(rng.normal(size=10).tolist(), range(10)).p_value for _ in range(400)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("patients", [1, 2, 6, 14, 40])
def test_the_smallest_p_value_is_that_of_patients_who_all_bring_alike(patients: int):
    found = swap_means([0.3] * patients, range(patients))
    assert found.p_value == found.smallest == smallest_p_value(patients, 9999)


def _shares(rng: np.random.Generator, cases: int, classes: int) -> npt.NDArray[np.float64]:
    return np.round(rng.dirichlet(np.ones(classes), cases), 1)  # with ties


@pytest.mark.parametrize("metric", _NUMBERS)
@pytest.mark.parametrize("classes", [2, 4])
def test_many_swaps_at_once_are_measured_as_each_alone(metric: ClassNumber, classes: int):
    rng = np.random.default_rng(classes)
    for _ in range(10):
        truth = np.append([0, 1], rng.integers(0, classes, 8))
        shares = np.stack([_shares(rng, 10, classes) for _ in range(3)])
        answers = shares if metric in _ORDER + _SHARES else shares.argmax(2)[:, :, None]
        wanted = [getattr(class_metrics, metric)(truth, one) for one in shares]
        assert _MEASURES[metric](truth, answers) == pytest.approx(wanted)


def test_kappa_is_not_defined_where_one_class_alone_occurs():
    assert np.isnan(_MEASURES["quadratic_kappa"](np.ones(3, dtype=int), np.ones((2, 3, 1), dtype=int))).all()


def _scaled(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logits = special.logit(shares.clip(1e-12, 1 - 1e-12))
    return (logits - np.median(logits, axis=0)) / stats.iqr(logits, axis=0)


@pytest.mark.parametrize("metric", _NUMBERS)
@pytest.mark.parametrize("weights", [(), (0.5, -2.0)])
def test_every_swap_of_patients_over_seeds_by_hand(metric: ClassNumber, weights: tuple[float, ...]):
    """Four patients of two cases; a patient's cases change sides in both seeds together."""
    rng = np.random.default_rng(7)
    truth, patients = np.tile([0, 1, 2, 1], 2), np.tile(np.arange(4), 2)
    seeds = [(_shares(rng, 8, 3), _shares(rng, 8, 3)) for _ in range(2)]
    measure = getattr(class_metrics, metric)
    answers = [tuple(_scaled(one) if metric in _ORDER else one for one in pair) for pair in seeds]
    differences = []
    for pattern in product((False, True), repeat=4):
        moved = np.array(pattern)[patients][:, None]
        each = [measure(truth, np.where(moved, b, a)) - measure(truth, np.where(moved, a, b)) for a, b in answers]
        differences.append(abs(np.dot(weights or (0.5, 0.5), each)))
    wanted = np.mean(np.array(differences) >= differences[0] - 1e-9)
    assert 0 < wanted < 1
    assert swap_answers(metric, truth, seeds, patients.tolist(), weights=weights).p_value == pytest.approx(wanted)


@pytest.mark.parametrize("metric", _NUMBERS)
def test_two_patients_who_differ_among_forty_who_do_not_show_nothing(metric: ClassNumber):
    common = np.random.default_rng(0).uniform(0, 0.4, 40)
    ours, theirs = (np.append(common, [rare] * 2) for rare in (0.9, 0.1))
    truth = np.repeat([0, 1], [40, 2])
    seeds = [tuple(np.stack([1 - share, share], 1) for share in (ours, theirs))] * 3
    found = swap_answers(metric, truth, seeds, range(42))  # type: ignore[arg-type]
    assert (found.p_value, found.smallest) == (0.5, 0.5)


def test_an_arm_whose_probabilities_are_higher_or_surer_is_told_by_their_order_alone():
    rng = np.random.default_rng(3)
    truth = np.arange(40) % 2
    good, bad = truth + rng.normal(0, 0.5, 40), truth + rng.normal(0, 2.0, 40)

    def p_value(*arms: npt.NDArray[np.float64]) -> float:
        shares = [1 / (1 + np.exp(-arm)) for arm in arms]
        pair = tuple(np.stack([1 - share, share], 1) for share in shares)
        return swap_answers("auroc", truth, [pair], range(40)).p_value  # type: ignore[list-item]

    assert p_value(good, bad) < 0.05
    assert p_value(good, bad + 4) == p_value(good, bad / 3) == p_value(good, bad)
    assert p_value(good, good + 4) == p_value(good, good / 3) == 1


def test_many_patients_swap_answers_at_random_and_p_is_never_zero():
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 2
    right, noise = 0.1 + 0.8 * truth, rng.uniform(size=60)
    seeds = [tuple(np.stack([1 - share, share], 1) for share in (right, noise))]
    found = swap_answers("auroc", truth, seeds, range(60))  # type: ignore[arg-type]
    assert found.p_value == found.smallest == 1 / 10_000


@pytest.mark.parametrize("metric", _NUMBERS[:3])
def test_swaps_of_few_rare_patients_err_no_more_often_than_they_say(metric: ClassNumber):
    """Arms that are alike, 200 times, 4 of 24 patients of the second class; the binomial error is 1.5 %."""
    rng = np.random.default_rng(1)
    truth = (np.arange(24) < 4).astype(int)
    wrong = 0
    for _ in range(200):
        own = rng.normal(size=(2, 24))
        pairs = [
            tuple(np.stack([-one, one], 1) for one in own + rng.normal(size=(2, 24)) + 2 * truth - 1) for _ in range(2)
        ]
        wrong += swap_answers(metric, truth, pairs, range(24), 200).p_value <= 0.05  # type: ignore[arg-type]
    assert wrong / 200 <= 0.095
