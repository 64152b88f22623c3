"""Probes: planted signals are found, chance is chance, and the test split decides nothing."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medssl.evaluation.features import Features
from medssl.evaluation.probe_data import ProbeData
from medssl.evaluation.probes import ProbeResult, attentive_probe, knn_probe, linear_probe, mean_auroc

_PROBES = (knn_probe, linear_probe, attentive_probe)
_Probe = Callable[[Features, ProbeData], ProbeResult]


def _data(targets: torch.Tensor) -> ProbeData:
    count = len(targets)
    splits = tuple(("train", "train", "train", "val", "test")[n % 5] for n in range(count))
    names = tuple(f"q{k}" for k in range(targets.shape[1]))
    return ProbeData(torch.zeros(count, 1, 2, 2), targets, names, splits, tuple(f"p{n}" for n in range(count)))


def _features(targets: torch.Tensor, strength: float, seed: int = 0) -> Features:
    """Noise, with the answers in the first columns of one pooling and of one cell."""
    generator = torch.Generator().manual_seed(seed)
    count, questions = targets.shape
    planted = torch.randn(count, 8, generator=generator)
    planted[:, :questions] += strength * targets
    tokens = torch.randn(count, 4, 8, generator=generator)
    tokens[:, 2, :questions] += strength * targets
    return Features({"noise": torch.randn(count, 8, generator=generator), "planted": planted}, tokens)


def _targets(count: int = 150, questions: int = 2) -> torch.Tensor:
    return torch.rand(count, questions, generator=torch.Generator().manual_seed(9)) > 0.5


@pytest.mark.parametrize("probe", _PROBES)
def test_a_planted_answer_is_found(probe: _Probe):
    result = probe(_features(_targets(), 5.0), _data(_targets()))
    assert result.test > 0.9
    assert "noise" not in result.chosen
    assert result.scores.shape == (30, 2)


@pytest.mark.parametrize("probe", _PROBES)
def test_noise_is_no_better_than_chance(probe: _Probe):
    found = [probe(_features(_targets(400), 0.0, seed), _data(_targets(400))).test for seed in range(3)]
    assert abs(float(np.mean(found)) - 0.5) < 0.08


@pytest.mark.parametrize("probe", _PROBES)
def test_the_test_split_decides_nothing(probe: _Probe):
    targets = _targets()
    data, features = _data(targets), _features(targets, 1.0)
    first = probe(features, data)
    rows = data.rows("test")
    for values in (*features.pooled.values(), features.tokens):
        values[rows] = values[rows].flip(0)
    targets[rows] = ~targets[rows]
    second = probe(features, data)
    assert (second.chosen, second.val) == (first.chosen, first.val)
    np.testing.assert_allclose(second.scores, first.scores[::-1], atol=1e-5)


@pytest.mark.parametrize("probe", _PROBES)
def test_the_same_again_and_the_global_generator_is_left_alone(probe: _Probe):
    data, features = _data(_targets()), _features(_targets(), 1.0)
    before = torch.get_rng_state()
    first, second = probe(features, data), probe(features, data)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert torch.equal(torch.get_rng_state(), before)


def test_neighbours_vote_by_their_cosine():
    targets = _targets(60, 1)
    features, data = _features(targets, 1.0), _data(targets)
    result = knn_probe(Features({"planted": features.pooled["planted"]}, features.tokens), data)
    asked = data.rows("test")
    known = torch.cat([data.rows("train"), data.rows("val")])
    vectors = features.pooled["planted"] - features.pooled["planted"][known].mean(0)
    expected = []
    for row in asked:
        near = []
        for other in known:
            cosine = float(vectors[row] @ vectors[other] / vectors[row].norm() / vectors[other].norm())
            near.append((cosine, bool(targets[other, 0])))
        near.sort(reverse=True)
        weights = np.exp(np.array([c for c, _ in near[:20]]) / 0.07)
        expected.append(float(weights @ np.array([a for _, a in near[:20]]) / weights.sum()))
    np.testing.assert_allclose(result.scores[:, 0], expected, rtol=1e-4)
    assert result.test == pytest.approx(roc_auc_score(targets[asked, 0], expected))


def test_the_mean_area_is_that_over_the_questions():
    targets = np.array([[True, False], [False, True], [True, False], [False, False]])
    scores = np.array([[0.9, 0.1], [0.2, 0.9], [0.1, 0.2], [0.3, 0.3]])
    assert mean_auroc(targets, scores) == pytest.approx((0.5 + 1.0) / 2)
