"""Swap tests: against SciPy, against a swap of every pattern by hand, and with few patients who differ."""

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from medssl.evaluation import class_metrics
from medssl.evaluation.statistics import statistic_interval
from medssl.evaluation.swap_tests import (
    _MEASURES,
    ClassNumber,
    smallest_p_value,
    swap_answers,
    swap_means,
    swap_medians,
    swap_scores,
)

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


def test_every_swap_of_scores_by_hand():
    """Two questions, two draws beside two encoders, scores on other scales with ties."""
    rng = np.random.default_rng(3)
    answers = rng.random((12, 2)) < 0.5
    patients = np.arange(12) // 2
    scores = [(rng.integers(0, 6, (12, 2)) * 10.0 - 7, rng.integers(0, 5, (12, 2)) / 5) for _ in range(4)]
    scaled = [
        tuple((one - np.median(one, axis=0)) / stats.iqr(one, axis=0) for one in (ours, theirs))
        for ours, theirs in scores
    ]
    differences = []
    for pattern in product((False, True), repeat=6):
        moved = np.array(pattern)[patients][:, None]
        each = [
            roc_auc_score(answers, np.where(moved, b, a)) - roc_auc_score(answers, np.where(moved, a, b))
            for a, b in scaled
        ]
        differences.append(abs(np.mean(each)))
    number = np.mean([roc_auc_score(answers, a) - roc_auc_score(answers, b) for a, b in scores])
    assert differences[0] == pytest.approx(abs(number)), "without a swap it is the number itself"
    wanted = np.mean(np.array(differences) >= differences[0] - 1e-9)
    assert 0 < wanted < 1
    assert swap_scores(answers, scores, patients.tolist()).p_value == pytest.approx(wanted)


def test_a_clear_gain_of_scores_is_found_and_two_rare_patients_show_nothing():
    rng = np.random.default_rng(0)
    answers = (np.arange(40) % 2 == 1)[:, None]
    good, noise = answers + rng.normal(0, 0.5, (40, 1)), rng.normal(size=(40, 1))
    assert swap_scores(answers, [(100 * good, noise)] * 3, range(40)).p_value < 0.001
    rare = (np.arange(40) < 2)[:, None]
    found = swap_scores(rare, [(noise + 9 * rare, noise - 9 * rare)], range(40))
    assert (found.p_value, found.smallest) == (0.5, 0.5)
    ends = statistic_interval(
        lambda drawn: (
            roc_auc_score(rare[drawn], (noise + 9 * rare)[drawn])
            - roc_auc_score(rare[drawn], (noise - 9 * rare)[drawn])
            if rare[drawn].any()
            else math.nan
        ),
        range(40),
    )
    assert ends.low > 0.5, "the interval alone would say better"
    assert math.isnan(swap_scores(np.ones((4, 1), bool), [(noise[:4], noise[4:8])], range(4)).p_value)


def test_swaps_of_scores_of_few_rare_patients_err_no_more_often_than_they_say():
    """Encoders that are alike, 200 times, 4 of 24 patients of the second class; the binomial error is 1.5 %."""
    rng = np.random.default_rng(1)
    answers = (np.arange(24) < 4)[:, None]
    wrong = 0
    for _ in range(200):
        arms = rng.normal(size=(2, 24, 1)) + answers
        pairs = [tuple(arms + rng.normal(size=(2, 24, 1))) for _ in range(2)]
        wrong += swap_scores(answers, pairs, range(24), 200).p_value <= 0.05  # type: ignore[arg-type]
    assert wrong / 200 <= 0.095


def test_every_swap_of_medians_by_hand():
    """One run beside two, a case without a number; patient 1 has two cases."""
    rng = np.random.default_rng(5)
    ours, theirs = rng.uniform(size=(1, 5, 2)), rng.uniform(size=(2, 5, 2)) + 0.2
    ours[0, 2, 1] = theirs[:, 2, 1] = math.nan
    patients, both = np.array([0, 1, 1, 2, 3]), np.concatenate([ours, ours])
    differences = []
    for pattern in product((False, True), repeat=4):
        moved = np.array(pattern)[patients][None, :, None]
        first, second = np.where(moved, theirs, both), np.where(moved, both, theirs)
        differences.append(abs(np.nanmedian(first) - np.nanmedian(second)))
    wanted = np.mean(np.array(differences) >= differences[0] - 1e-9)
    found = swap_medians(ours, theirs, patients.tolist())
    assert 0 < wanted < 1
    assert (found.p_value, found.smallest) == (wanted, 2 / 2**4)
    assert swap_medians(ours, np.concatenate([ours, ours]), patients.tolist()).p_value == 1
    assert math.isnan(swap_medians(ours * math.nan, theirs, patients.tolist()).p_value)
