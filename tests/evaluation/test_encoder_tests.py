"""Verdicts of frozen encoders: a clear gain is found, few patients show nothing, and many comparisons are corrected."""

import numpy as np
import pytest
import torch

from medssl.evaluation.encoder_tests import Compared, told_corrected
from medssl.evaluation.few_shot import Shot
from medssl.evaluation.frozen_arms import Frozen, differences, shot_differences
from medssl.evaluation.probe_data import ProbeData
from medssl.evaluation.probes import ProbeResult
from medssl.evaluation.statistics import Interval
from medssl.evaluation.swap_tests import SwapTest


def _data(answers: np.ndarray) -> ProbeData:
    count = len(answers)
    return ProbeData(
        torch.zeros(count, 1), torch.from_numpy(answers), ("q",), ("test",) * count, tuple(map(str, range(count)))
    )


def _encoder(answers: np.ndarray, strength: float, seed: int, draws: int = 3) -> Frozen:
    """An encoder whose probes and prototypes tell the answers as well as the strength says."""
    rng = np.random.default_rng(seed)
    own = strength * answers + rng.normal(size=answers.shape)
    scores = tuple(own + rng.normal(0, 0.3, answers.shape) for _ in range(draws))
    probe, shot = (
        ProbeResult("", 0.5, 0.5, scores),
        Shot(4, "mean", 0.5, 0.5 + strength / 10, 0.0, draws, np.stack(scores)),
    )
    return Frozen({0: {"linear": probe}}, (shot,), {})


@pytest.mark.parametrize(("strength", "verdict"), [(3.0, "better"), (0.0, "no difference shown")])
def test_a_gain_over_random_weights_is_found_by_probes_and_prototypes(strength: float, verdict: str):
    answers = (np.arange(40) % 2 == 1)[:, None]
    data, random = _data(answers), [_encoder(answers, 0.0, seed) for seed in (1, 2, 3)]
    ours = _encoder(answers, strength, 0)
    found = told_corrected(
        {
            "differences": {"random": differences(ours, random, data, 200)},
            "shot_differences": {"random": shot_differences(ours, random, data, 200)},
        }
    )
    both = found["differences"]["random"]["0"]["linear"], found["shot_differences"]["random"]["4"]
    assert [one["verdict"] for one in both] == [verdict] * 2
    assert found["comparisons"] == 2
    assert all(one["p_value_corrected"] >= one["p_value"] for one in both)
    assert found["warnings"] == []


def test_two_rare_patients_show_nothing_where_the_interval_alone_would():
    answers = (np.arange(40) < 2)[:, None]
    data = _data(answers)
    found = told_corrected({"random": differences(_encoder(answers, 9.0, 0), [_encoder(answers, -9.0, 1)], data, 500)})[
        "random"
    ]["0"]["linear"]
    assert found["low"] > 0.5
    assert found["verdict"] == "no difference shown"


def _compared(p_value: float) -> Compared:
    return Compared(0.8, [0.6], Interval(0.2, 0.1, 0.3, "m", 9, 9), SwapTest(p_value, 0.0001))


def test_many_comparisons_are_corrected_together():
    many = {name: {"0": {"linear": _compared(0.01), "knn": _compared(0.02)}} for name in ("a", "b", "c")}
    found = told_corrected({"differences": many, "shot_differences": {"a": {"1": _compared(0.0001)}}})
    assert found["comparisons"] == 7
    assert found["shot_differences"]["a"]["1"]["p_value_corrected"] == pytest.approx(0.0007)
    assert found["shot_differences"]["a"]["1"]["verdict"] == "better"
    assert found["differences"]["a"]["0"]["linear"]["p_value_corrected"] == pytest.approx(0.06)
    assert {one["verdict"] for arm in found["differences"].values() for one in arm["0"].values()} == {
        "no difference shown"
    }
    assert told_corrected({"a": _compared(0.01)})["a"]["verdict"] == "better"


def test_too_few_patients_for_a_verdict_are_told():
    few = Compared(0.8, [0.6], Interval(0.2, 0.1, 0.3, "m", 6, 6), SwapTest(2 / 64, 2 / 64))
    (told,) = told_corrected({"a": few, "b": few})["warnings"]
    assert told.startswith("2 of 2 comparisons cannot show a difference: of so few patients of split test p")
    assert told_corrected({"a": few})["warnings"] == []
