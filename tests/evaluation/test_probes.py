"""Probes: planted signals are found, chance is chance, and the test split decides nothing."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medssl.evaluation import probes
from medssl.evaluation.features import Features
from medssl.evaluation.probe_data import ProbeData, draw_labelled
from medssl.evaluation.probes import ProbeResult, attentive_probe, knn_probe, knn_scores, linear_probe, mean_auroc
from medssl.imaging.errors import CacheError

_PROBES = (knn_probe, linear_probe, attentive_probe)
_Probe = Callable[[Features, ProbeData, list[torch.Tensor]], ProbeResult]


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
    data = _data(_targets())
    result = probe(_features(_targets(), 5.0), data, draw_labelled(data, 40, 2))
    assert result.test > 0.85
    assert "noise" not in result.chosen


@pytest.mark.parametrize("probe", _PROBES)
def test_noise_is_no_better_than_chance(probe: _Probe):
    data = _data(_targets(400))
    found = [probe(_features(_targets(400), 0.0, seed), data, [data.rows("train")]).test for seed in range(3)]
    assert abs(float(np.mean(found)) - 0.5) < 0.08


@pytest.mark.parametrize("probe", _PROBES)
def test_the_test_split_decides_nothing(probe: _Probe):
    targets = _targets()
    data, features = _data(targets), _features(targets, 1.0)
    draws = draw_labelled(data, 30, 2)
    first = probe(features, data, draws)
    rows = data.rows("test")
    for values in (*features.pooled.values(), features.tokens):
        values[rows] = values[rows].flip(0)
    targets[rows] = ~targets[rows].flip(0)
    second = probe(features, data, draws)
    assert (second.chosen, second.val) == (first.chosen, first.val)
    assert second.test == pytest.approx(1 - first.test, abs=1e-6)


@pytest.mark.parametrize("probe", _PROBES)
def test_the_same_again_and_the_global_generator_is_left_alone(probe: _Probe):
    data, features = _data(_targets()), _features(_targets(), 1.0)
    before, draws = torch.get_rng_state(), draw_labelled(data, 30, 2)
    assert probe(features, data, draws) == probe(features, data, draws)
    assert torch.equal(torch.get_rng_state(), before)


def test_neighbours_vote_by_their_cosine():
    targets = _targets(60, 1)
    data, planted = _data(targets), _features(targets, 1.0).pooled["planted"]
    known, asked = data.rows("train"), data.rows("test")
    vectors = planted - planted[known].mean(0)
    expected = []
    for row in asked:
        near = []
        for other in known:
            cosine = float(vectors[row] @ vectors[other] / vectors[row].norm() / vectors[other].norm())
            near.append((cosine, bool(targets[other, 0])))
        near.sort(reverse=True)
        weights = np.exp(np.array([c for c, _ in near[:20]]) / 0.07)
        expected.append(float(weights @ np.array([a for _, a in near[:20]]) / weights.sum()))
    np.testing.assert_allclose(knn_scores(planted, data, known, asked)[:, 0], expected, rtol=1e-4)


def test_draws_hold_each_answer_and_are_the_same_again():
    data = _data(_targets())
    draws = draw_labelled(data, 8, 5)
    assert len(draws) == 5
    for rows in draws:
        assert set(rows.tolist()) <= set(data.rows("train").tolist())
        assert len(set(rows.tolist())) == 8
        assert (data.targets[rows].sum(0) >= 2).all()
        assert (data.targets[rows].sum(0) <= 6).all()
    assert all(torch.equal(a, b) for a, b in zip(draws, draw_labelled(data, 8, 5), strict=True))
    assert not torch.equal(draws[0], draws[1])
    with pytest.raises(CacheError, match=r"frozen\.labels 91: split train has 90 images: ask for at most so many"):
        draw_labelled(data, 91, 1)


def test_why_nothing_can_be_drawn_is_told():
    targets = _targets()
    targets[:, 1] = False
    targets[0, 1] = True
    with pytest.raises(CacheError) as error:
        draw_labelled(_data(targets), 4, 2, option="labels_used of set chest")
    said = error.value.message
    assert error.value.reason == "too-few"
    assert said.startswith("labels_used of set chest 4: 0 of 2 draws of 4 of the 90 images of split train succeeded")
    assert "at least 2 images with and 2 without each class or structure" in said
    assert "the most one-sided are 'q1' (1 of 90), 'q0' (" in said
    assert "Raise labels_used of set chest (0 = all images)" in said


def test_the_mean_area_is_that_over_the_questions():
    targets = np.array([[True, False], [False, True], [True, False], [False, False]])
    scores = np.array([[0.9, 0.1], [0.2, 0.9], [0.1, 0.2], [0.3, 0.3]])
    assert mean_auroc(targets, scores) == pytest.approx((0.5 + 1.0) / 2)


def test_class_tokens_of_blocks_are_tried_by_the_linear_probe_alone():
    data, features = _data(_targets()), _features(_targets(), 5.0)
    hidden = Features(
        {"noise": features.pooled["noise"]}, features.tokens, blocks={"tokens": features.pooled["planted"]}
    )
    draws = draw_labelled(data, 40, 2)
    assert "tokens" in linear_probe(hidden, data, draws).chosen
    assert linear_probe(hidden, data, draws).test > 0.85 > knn_probe(hidden, data, draws).test


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_neighbours_in_blocks_are_those_of_the_whole_table(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes, "_BLOCK", block)
    units = torch.nn.functional.normalize(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    known, asked = torch.arange(0, 60, 2), torch.arange(20, 60)
    table = units[asked] @ units[known].T
    for row, image in enumerate(asked.tolist()):
        table[row, known == image] = -torch.inf
    values, places = probes.nearest(units, asked, known, 4)
    wanted = table.topk(4, dim=1)
    assert torch.equal(places, wanted.indices)
    torch.testing.assert_close(values, wanted.values)
    assert not (known[places] == asked[:, None]).any(), "no image is its own neighbour"
