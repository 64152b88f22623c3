"""LogME, H-score and PED: golden numbers of the papers' formulas, invariances and closed forms."""

import math

import numpy as np
import pytest
from scipy.stats import ortho_group

from medssl.evaluation.transferability import SCORES, displacements, h_score, logme, ped, ranking
from medssl.imaging.errors import ConfigError

_RATES = np.array([0.7, 1.3, 2.1, 2.9])
_FEATURES = np.sin(np.arange(12)[:, None] * _RATES + 0.1)
_LABELS = np.arange(12) % 3


def test_golden_numbers():
    assert logme(_FEATURES, _LABELS, official=True) == pytest.approx(-0.83511084, abs=1e-6)
    assert h_score(_FEATURES, _LABELS) == pytest.approx(1.06739930, abs=1e-6)


def test_names_of_classes_do_not_matter():
    assert logme(_FEATURES, _LABELS * 7 + 2) == pytest.approx(logme(_FEATURES, _LABELS))
    assert h_score(_FEATURES, _LABELS * 7 + 2) == pytest.approx(h_score(_FEATURES, _LABELS))


def test_logme_does_not_change_under_rotation_and_prefers_features_that_tell_classes_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 30)
    features = rng.normal(size=(90, 5)) + 4 * np.eye(5)[labels]
    turned = features @ ortho_group.rvs(5, random_state=0)
    assert logme(turned, labels) == pytest.approx(logme(features, labels))
    assert logme(features, labels) > logme(features, rng.permutation(labels)) + 0.1


def test_exact_evidence_is_that_of_the_gaussian_it_stands_for():
    """The highest log N(y; 0, F F^T / alpha + I / beta) over both numbers; features that are always 0 do nothing."""
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 3)) + labels[:, None]
    values, vectors = np.linalg.eigh(features @ features.T)
    best = []
    for k in range(2):
        target = (labels == k).astype(float)
        spread = 1 + values / np.geomspace(1e-8, 1e8, 4001)[:, None]  # a row for each alpha / beta
        beta = len(target) / ((vectors.T @ target) ** 2 / spread).sum(1)  # the best one, in closed form
        found = -0.5 * (len(target) * np.log(2 * math.pi / beta) + np.log(spread).sum(1) + len(target))
        best.append(found.max() / len(target))
    assert logme(features, labels) == pytest.approx(np.mean(best), abs=1e-5)
    wider = np.pad(features, ((0, 0), (0, 5)))
    assert logme(wider, labels) == pytest.approx(logme(features, labels))
    assert logme(wider, labels, official=True) != pytest.approx(logme(features, labels, official=True), abs=1e-3)


@pytest.mark.parametrize("score", ["logme", "ped_logme"])
def test_with_fewer_images_than_features_neither_their_size_nor_their_number_counts(score):
    rng = np.random.default_rng(0)
    labels, noise = np.arange(40) % 2, rng.normal(size=(40, 256))
    plain, large, few = (SCORES[score](features, labels) for features in (noise, 10 * noise, noise[:, :128]))
    assert large == pytest.approx(plain, abs=1e-3)
    assert few == pytest.approx(plain, abs=0.02)
    assert SCORES[score](noise + 0.5 * labels[:, None], labels) > plain + 0.2


def test_the_released_sum_takes_size_for_information():
    """Why it is not what is reported; the numbers of CHANGELOG."""
    labels, noise = np.arange(40) % 2, np.random.default_rng(0).normal(size=(40, 256))
    kinds = (noise, 10 * noise, noise + 0.5 * labels[:, None])
    assert [logme(f, labels, official=True) for f in kinds] == pytest.approx([15.3, 27.8, 18.2], abs=0.1)
    assert [logme(f, labels) for f in kinds] == pytest.approx([-1.07, -1.07, -0.65], abs=0.01)


def test_h_score_does_not_change_under_invertible_maps_and_has_its_bounds():
    mixing = np.random.default_rng(0).normal(size=(4, 4))
    assert h_score(_FEATURES @ mixing + 3, _LABELS) == pytest.approx(h_score(_FEATURES, _LABELS))
    assert h_score(np.eye(3)[_LABELS], _LABELS) == pytest.approx(2)
    labels = np.repeat([0, 1, 2], 30)
    features = np.random.default_rng(0).normal(size=(90, 5)) + 4 * np.eye(5)[labels]
    assert 0.8 * h_score(features, labels) < h_score(features, labels, shrink=True) < h_score(features, labels)


def test_h_score_is_that_of_a_class_mean_measured_for_every_image():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 5)), rng.integers(0, 7, 60) * 3
    means = np.stack([features[labels == label].mean(0) for label in labels])
    centred, between = features - features.mean(0), means - means.mean(0)
    slow = np.trace(np.linalg.pinv(centred.T @ centred / 60) @ (between.T @ between / 60))
    assert h_score(features, labels) == pytest.approx(slow, rel=1e-12)


def test_shrinkage_keeps_h_score_honest_where_features_outnumber_samples():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(20, 60)), np.arange(20) % 2
    assert h_score(features, labels) == pytest.approx(1, abs=1e-6)  # the maximum, of pure noise
    assert h_score(features, labels, shrink=True) < 0.5


_POINTS = np.array([[0, 0], [0.4, 0], [1, 0.2], [1.4, 0.2]])
_TWO = np.array([0, 0, 1, 1])


def test_displacement_of_overlapping_classes():
    assert all(np.all(move == 0) for move in displacements(_POINTS, _TWO, reach=2).values())
    moves = displacements(_POINTS, _TWO, reach=4)
    assert moves[0] == pytest.approx([-0.00284465, -0.00056893], abs=1e-8)
    assert np.linalg.norm(moves[0]) == pytest.approx(0.00290098, abs=1e-8)
    assert moves[0] + moves[1] == pytest.approx([0, 0])


def test_ped_moves_whole_classes_apart_and_nothing_else():
    assert np.array_equal(ped(_POINTS, _TWO, reach=2), _POINTS)
    moved = ped(_POINTS, _TWO, reach=4)
    assert moved[1] - moved[0] == pytest.approx(_POINTS[1] - _POINTS[0])
    before, after = (np.linalg.norm(p[:2].mean(0) - p[2:].mean(0)) for p in (_POINTS, moved))
    assert after > before
    same = np.array([[0.0, 1], [1, 0], [0, 1], [1, 0]])
    assert np.array_equal(ped(same, _TWO, reach=4), same)  # no direction to go
    scaled = ped(_POINTS * [1, 100], _TWO, reference=_POINTS * [1, 100], reach=4)
    assert np.isfinite(scaled).all()


def test_rank_correlation():
    assert ranking([1, 2, 3], [0.1, 0.5, 0.9]) == pytest.approx(1)
    assert ranking([3, 2, 1], [0.1, 0.5, 0.9]) == pytest.approx(-1)
    assert math.isnan(ranking([1], [1]))


@pytest.mark.parametrize("name", SCORES)
def test_every_score_prefers_the_better_features(name: str):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    good, poor = (rng.normal(size=(80, 6)) + gap * np.eye(6)[labels] for gap in (4.0, 1.0))
    assert SCORES[name](good, labels) > SCORES[name](poor, labels)


@pytest.mark.parametrize(
    ("features", "labels", "told"),
    [
        (np.full((4, 2), np.nan), [0, 1, 0, 1], "not finite"),
        (np.zeros((4, 2)), [0, 0, 0, 0], "all of one class"),
        (np.zeros((4, 2)), [0, 1, 0, 1], "do not vary"),
        (np.full((4, 2), [3.0, -1e4]) + 1e-4 * np.eye(4, 2), [0, 1, 0, 1], "do not vary"),  # rounding of float32
        (np.zeros(4), [0, 1, 0, 1], r"features \(N, D\)"),
    ],
)
def test_what_cannot_be_scored_is_refused(features: np.ndarray, labels: list[int], told: str):
    for score in (logme, h_score, ped):
        with pytest.raises(ConfigError, match=told):
            score(features, labels)


def test_evidence_does_not_depend_on_the_scale_of_features():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(33, 300)), rng.integers(0, 2, 33)
    plain = logme(features, labels)
    for scale in (1e-6, 1e7, 1e12):
        assert logme(scale * features, labels) == pytest.approx(plain, abs=1e-3)
