"""Shares with exact intervals, and overlaps, beside slow oracles."""

import math
from fractions import Fraction

import numpy as np
import pytest

from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.runtime.performance.overlap import Overlap, overlaps
from medssl.runtime.performance.proportion import Proportion


def _at_most(hits: int, total: int, share: float) -> float:
    """Probability of `hits` or fewer, in exact arithmetic."""
    p = Fraction(share)
    return float(sum(math.comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(hits + 1)))


@pytest.mark.parametrize(("hits", "total"), [(5, 10), (1, 3), (29, 30), (97, 100), (2, 400)])
def test_the_ends_of_an_interval_leave_a_fortieth_on_each_side(hits: int, total: int):
    low, high = Proportion(hits, total).interval()
    assert low < hits / total < high
    assert 1 - _at_most(hits - 1, total, low) == pytest.approx(0.025, rel=1e-6)
    assert _at_most(hits, total, high) == pytest.approx(0.025, rel=1e-6)


def test_intervals_of_none_of_all_and_of_a_published_table():
    assert Proportion(0, 30).interval() == pytest.approx((0.0, 1 - 0.025 ** (1 / 30)), abs=1e-9)
    assert Proportion(30, 30).interval() == pytest.approx((0.025 ** (1 / 30), 1.0), abs=1e-9)
    assert Proportion(5, 10).interval() == pytest.approx((0.1871, 0.8129), abs=5e-5)
    assert Proportion(81, 263).interval() == pytest.approx((0.2527, 0.3676), abs=5e-5)  # Newcombe 1998, table I
    assert str(Proportion(0, 0)) == "none"
    assert Proportion(0, 0).to_json() == {"hits": 0, "total": 0, "share": None, "interval_95": []}


def test_intervals_cover_the_true_share_as_often_as_they_say():
    for share in (0.05, 0.5, 0.83):
        ends = [Proportion(k, 20).interval() for k in range(21)]
        chances = [math.comb(20, k) * share**k * (1 - share) ** (20 - k) for k in range(21)]
        covered = sum(c for c, (low, high) in zip(chances, ends, strict=True) if low <= share <= high)
        assert covered >= 0.95


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 11)])
@pytest.mark.parametrize("ignore", [None, 9])
def test_overlaps_count_voxels_as_sets_of_places_do(shape: tuple[int, ...], ignore: int | None):
    rng = np.random.default_rng(3)
    found, drawn = (rng.choice([0, 1, 2, 255], shape).astype(np.uint8) for _ in range(2))
    drawn[rng.random(shape) < 0.2] = 9
    grid = Geometry(np.eye(4), shape)
    told, ignored = overlaps(Volume(found[None], grid), Volume(drawn[None], grid), [1, 2, 3, 255], ignore)
    judged = {place for place in np.ndindex(shape) if drawn[place] != ignore}
    for value, overlap in told.items():
        own, true = ({p for p in judged if array[p] == value} for array in (found, drawn))
        assert overlap == Overlap(len(own), len(true), len(own & true))
    assert ignored == found.size - len(judged)
    assert (told[3].dice, told[3].state) == (None, "both-empty")


def test_dice_is_that_of_evaluate():
    metrics = pytest.importorskip("medssl.evaluation.metrics", exc_type=ImportError)
    rng = np.random.default_rng(5)
    found, drawn = (rng.choice([0, 1, 2, 9], (6, 7, 8), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8) for _ in range(2))
    found[found == 2], drawn[drawn == 2], found[found == 9] = 0, 2, 4
    grid = Geometry(np.eye(4), found.shape)
    told, _ = overlaps(Volume(found[None], grid), Volume(drawn[None], grid), [1, 2, 3, 4], 9)
    theirs = metrics.score_classes(found, drawn, [1, 2, 3, 4], (1, 1, 1), ignore=9)
    assert {theirs[value].state for value in told} == {"scored", "missed", "invented", "both-empty"}
    for value, overlap in told.items():
        assert overlap.state == theirs[value].state
        assert math.isnan(theirs[value].dice) if overlap.dice is None else overlap.dice == theirs[value].dice
