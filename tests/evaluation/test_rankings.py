"""Corrected p-values, verdicts and ranks: against SciPy, by hand, and with what cannot be compared."""

import math

import pytest
from null_encoders import called_better
from scipy import stats

from medssl.evaluation.rankings import holm, rank_methods, told, told_beside
from medssl.imaging.errors import ConfigError


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.9])[0] == 1.0
    assert math.isnan(holm([0.5, math.nan])[1])
    assert holm([]) == []


def test_ranks_and_critical_difference():
    results = {"a": [0.9, 0.8, 0.7, 0.9], "b": [0.8, 0.7, 0.6, 0.7], "c": [0.7, 0.75, 0.5, 0.8]}
    found = rank_methods(results)
    assert dict(found.ranks) == {"a": 1.0, "b": 2.5, "c": 2.5}
    assert next(iter(found.ranks)) == "a"
    assert found.p_value == pytest.approx(stats.friedmanchisquare(*results.values()).pvalue)
    # Demsar 2006, table 5: q of Nemenyi's test at 0.05 is 2.343 for 3 methods
    assert found.critical_difference == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 4)), abs=1e-3)
    assert rank_methods({"a": [1.0, 1.0], "b": [1.0, 1.0]}).ranks == {"a": 1.5, "b": 1.5}
    assert found.to_json()["blocks"] == 4


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"a": [0.1]}, "two methods or more"),
        ({"a": [0.1], "b": [0.1, 0.2]}, "every method needs a result in every block"),
        ({"a": [], "b": []}, "one block at least"),
        ({"a": [0.1], "b": [math.nan]}, "b lack results"),
    ],
)
def test_what_cannot_be_ranked_is_refused(results: dict[str, list[float]], message: str):
    with pytest.raises(ConfigError, match=message):
        rank_methods(results)


def test_an_interval_in_words():
    assert [told(0.1, 0.2), told(-0.2, -0.1), told(-0.1, 0.1), told(math.nan, math.nan)] == [
        "better", "worse", "no difference shown", "no difference shown"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high", "p_value", "verdict"),
    [
        (0.7, [0.6, 0.65, 0.69], 0.01, 0.1, 0.04, "better"),
        (0.7, [0.6, 0.65, 0.69], 0.01, 0.1, 0.05, "no difference shown"),
        (0.7, [0.6, 0.65, 0.69], 0.01, 0.1, math.nan, "no difference shown"),
        (0.7, [0.55, 0.6, 0.71], 0.01, 0.1, 0.01, "no difference shown"),
        (0.7, [0.5, 0.6, 0.69], -0.01, 0.2, 0.01, "no difference shown"),
        (0.5, [0.6, 0.51], -0.1, -0.01, 0.01, "worse"),
        (0.5, [0.6, 0.49, 0.62], -0.1, -0.01, 0.01, "no difference shown"),
        (0.7, [0.6, math.nan], 0.01, 0.1, 0.01, "better"),
    ],
)
def test_one_encoder_is_better_than_others_only_where_it_is_than_each(
    ours: float, theirs: list[float], low: float, high: float, p_value: float, verdict: str
) -> None:
    assert told_beside(ours, theirs, low, high, p_value) == verdict


def test_random_weights_that_differ_are_less_often_told_from_one_more():
    """Nothing was learned, and encoders differ by more than patients tell: the interval alone errs every third time."""
    alone, beside = called_better(encoders=9, trials=500)
    assert alone > 0.25
    assert beside < 0.15
