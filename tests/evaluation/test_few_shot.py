"""Prototypes and ML-kNN: by hand, their invariances, and that labels help."""

import numpy as np
import pytest
import torch

from medssl.evaluation.features import Features
from medssl.evaluation.few_shot import (
    few_shot_curve,
    multilabel_neighbours,
    prototype_scores,
    shot_interval,
    shots_left_out,
)
from medssl.evaluation.probe_data import ProbeData
from medssl.evaluation.probes import mean_auroc
from medssl.evaluation.statistics import statistic_interval


def _data(targets: torch.Tensor) -> ProbeData:
    count = len(targets)
    splits = tuple(("train", "train", "train", "val", "test")[n % 5] for n in range(count))
    names = tuple(f"q{k}" for k in range(targets.shape[1]))
    return ProbeData(torch.zeros(count, 1, 2, 2), targets, names, splits, tuple(f"p{n}" for n in range(count)))


def _planted(targets: torch.Tensor, strength: float, width: int = 8) -> torch.Tensor:
    vectors = torch.randn(len(targets), width, generator=torch.Generator().manual_seed(0))
    vectors[:, : targets.shape[1]] += strength * targets
    return vectors


_CLASSES = torch.nn.functional.one_hot(torch.arange(120) // 5 % 3, 3).bool()
_ANSWERS = torch.rand(120, 2, generator=torch.Generator().manual_seed(9)) > 0.5


def test_prototypes_by_hand():
    vectors = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.5, 0.5], [1.0, 1.0]])
    data = _data(torch.tensor([[True], [False], [True], [False]]))
    scores = prototype_scores(vectors, data, torch.tensor([0, 1]), torch.tensor([2, 3]))
    # centred by (1, 1): units (1, -1) / sqrt 2 and its opposite, which are the prototypes; the third lies on the first
    assert scores[0, 0] == pytest.approx(2)
    assert scores[1, 0] == pytest.approx(0)


@pytest.mark.parametrize("targets", [_CLASSES, _ANSWERS[:, :1], _ANSWERS], ids=["classes", "two", "answers"])
def test_prototypes_do_not_change_with_a_shift_or_a_scale(targets: torch.Tensor):
    data, vectors = _data(targets), _planted(targets, 2.0)
    known, asked = data.rows("train"), data.rows("test")
    first = prototype_scores(vectors, data, known, asked)
    assert first.shape == (24, targets.shape[1])
    np.testing.assert_allclose(prototype_scores(3 * vectors + 7, data, known, asked), first, atol=1e-5)


@pytest.mark.parametrize("targets", [_CLASSES, _ANSWERS], ids=["classes", "answers"])
def test_more_shots_reach_more(targets: torch.Tensor):
    data = _data(targets)
    features = Features({"noise": torch.randn(120, 8), "planted": _planted(targets, 1.5)}, torch.zeros(120, 1, 8))
    found = few_shot_curve(features, data, (1, 4, 16, 500), episodes=30)
    assert [shot.shots for shot in found] == [1, 4, 16]  # 500 of a class are not there
    assert {shot.chosen for shot in found} == {"planted"}
    assert found[0].test < found[1].test < found[2].test
    assert found[0].deviation > found[2].deviation
    assert found == few_shot_curve(features, data, (1, 4, 16), episodes=30)


def test_numbers_of_shots_that_there_are_not_are_told():
    """Split train has 72 of the images: 24 of each class; of the answer that few lack 5 are without."""
    assert shots_left_out(_data(_CLASSES), (1, 24)) == []
    told = shots_left_out(_data(_CLASSES), (16, 25, 500))
    assert told == ["frozen.shots 25, 500 left out: split train has 24 image(s) with 'q0'."]
    common = torch.ones(120, 1, dtype=torch.bool)
    common[_data(common).rows("train")[:5]] = False
    assert shots_left_out(_data(common), (8,)) == ["frozen.shots 8 left out: split train has 5 image(s) without 'q0'."]


@pytest.mark.parametrize("targets", [_CLASSES, _ANSWERS], ids=["classes", "answers"])
def test_an_interval_over_patients_is_that_of_every_resample_scored_anew(targets: torch.Tensor):
    data = _data(targets)
    patients = tuple(f"p{n // 10}" for n in range(120))  # two images of split test each
    data = ProbeData(data.images, targets, data.names, data.splits, patients)
    vectors = {"planted": _planted(targets, 1.5)}, {"noise": torch.randn(120, 8, generator=torch.manual_seed(1))}
    ours, theirs = (
        few_shot_curve(Features(pooled, torch.zeros(120, 1, 8)), data, (2,), episodes=3)[0] for pooled in vectors
    )
    rows = data.rows("test")
    answers = targets[rows].numpy()

    def area(drawn: np.ndarray, scores: np.ndarray) -> float:
        columns = [k for k in range(answers.shape[1]) if len(set(answers[drawn, k].tolist())) == 2]
        return float(np.mean([mean_auroc(answers[drawn][:, columns], part[drawn][:, columns]) for part in scores]))

    own = [patients[int(row)] for row in rows]
    alone = statistic_interval(lambda drawn: area(drawn, ours.scores), own, resamples=20)
    paired = statistic_interval(lambda d: area(d, ours.scores) - area(d, theirs.scores), own, resamples=20)
    for found, wanted in (
        (shot_interval([ours], (), data, 20), alone),
        (shot_interval([ours, ours], [theirs], data, 20), paired),
    ):
        assert (found.estimate, found.low, found.high) == pytest.approx((wanted.estimate, wanted.low, wanted.high))
        assert found.clusters == 12
    assert alone.estimate == pytest.approx(ours.test)
    assert paired.low > 0


def test_neighbours_for_several_answers_by_hand():
    """Zhang and Zhou's formulas, written out for one answer, k = 1 and four images on a line."""
    angles = torch.tensor([0.0, 0.1, 1.0, 1.1, 0.05])
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    data = _data(torch.tensor([[True], [True], [False], [False], [True]]))
    known = torch.arange(4)
    vectors = vectors - vectors[known].mean(0)  # what centring makes of them
    got = multilabel_neighbours(vectors, data, known, torch.tensor([4]), neighbours=1)
    # prior 3/6; both images with the answer have a neighbour with it: (1 + 2) / (2 + 2); of those without none has
    assert got[0, 0] == pytest.approx(0.5 * 0.75 / (0.5 * 0.75 + 0.5 * 0.25))


def test_neighbours_find_a_planted_answer():
    data = _data(_ANSWERS)
    known, asked = data.rows("train"), data.rows("test")
    scores = multilabel_neighbours(_planted(_ANSWERS, 6.0), data, known, asked)
    assert ((scores > 0.5) == data.targets[asked].numpy()).mean() > 0.9
    assert ((scores > 0) & (scores < 1)).all()
    assert multilabel_neighbours(_planted(_ANSWERS, 6.0), data, known[:3], asked).shape == (24, 2)  # fewer than k
