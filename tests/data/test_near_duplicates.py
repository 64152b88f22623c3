"""The search by faiss keeps and drops what the plain rule does, whatever the block, and finds all neighbours."""

import numpy as np
import pytest
from slow_likeness import by_cosine

from medssl.data import near_duplicates
from medssl.data.curate import exemplars
from medssl.data.likeness import by_bits, unit_rows
from medssl.data.near_duplicates import CosineSearch, HashSearch, distinct, nearest


def _hashes(count: int, copies: int, flips: float, seed: int) -> np.ndarray:
    """Random hashes, each again and again with a few bits turned, in random order."""
    rng = np.random.default_rng(seed)
    bits = np.repeat(rng.integers(0, 2, (count, 64)), copies, axis=0) ^ (rng.random((count * copies, 64)) < flips)
    return np.packbits(rng.permutation(bits), axis=1)


def _groups(count: int, many: int) -> list[str]:
    return [f"g{n}" for n in np.random.default_rng(2).integers(0, many, count)]


@pytest.mark.parametrize("most", [0, 3, 6, 24, 30])
@pytest.mark.parametrize("many", [1, 7])
def test_hashes_are_dropped_as_by_the_plain_rule(most: int, many: int, monkeypatch: pytest.MonkeyPatch):
    hashes, groups = _hashes(60, 9, 0.05, seed=most), _groups(540, many)
    wanted = exemplars(lambda own: by_bits(hashes[own]), groups, -most)
    assert len(wanted[0]) < 540 or most == 0
    assert distinct(HashSearch(hashes, most), groups) == wanted
    monkeypatch.setattr(near_duplicates, "_BLOCK", 7)
    assert distinct(HashSearch(hashes, most), groups) == wanted


@pytest.mark.parametrize("least", [-1.0, 0.3, 0.9, 0.98])
def test_embeddings_are_dropped_as_by_the_plain_rule(least: float, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(3)
    vectors = np.repeat(rng.normal(size=(50, 12)), 8, axis=0) + 0.1 * rng.normal(size=(400, 12))
    vectors, groups = rng.permutation(vectors).astype(np.float32), _groups(400, 3)
    kept, dropped = exemplars(lambda own: by_cosine(vectors[own]), groups, least)
    for block in (1024, 11):
        monkeypatch.setattr(near_duplicates, "_BLOCK", block)
        found, others = distinct(CosineSearch(vectors, least), groups)
        assert found == kept
        assert [(d.item, d.like) for d in others] == [(d.item, d.like) for d in dropped]
        assert [d.likeness for d in others] == pytest.approx([d.likeness for d in dropped], abs=1e-5)


def test_copies_go_at_a_threshold_of_one_whatever_their_scale():
    vector = np.random.default_rng(0).normal(size=(1, 300)).astype(np.float32)
    copies = np.concatenate([vector * factor for factor in (1, 0.37, 900, -1)])
    assert distinct(CosineSearch(copies, 1.0), ["a"] * 4)[0] == [0, 3]
    assert distinct(HashSearch(np.zeros((5000, 8), np.uint8), 0), ["a"] * 5000)[0] == [0]


def test_nothing_and_one_image():
    assert distinct(HashSearch(np.zeros((0, 8), np.uint8), 6), []) == ([], [])
    assert distinct(HashSearch(np.zeros((1, 8), np.uint8), 6), ["a"]) == ([0], [])


def test_the_nearest_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    known, asked = (unit_rows(rng.normal(size=(n, 9))) for n in (70, 5))
    cosines, places = nearest(known, asked, 4)
    every = asked @ known.T
    assert np.array_equal(places, np.argsort(-every, axis=1)[:, :4])
    assert cosines == pytest.approx(-np.sort(-every, axis=1)[:, :4], abs=1e-6)
    assert nearest(known, asked, 1000)[1].shape == (5, 70)
