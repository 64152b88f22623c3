"""Selectors: what the published rule promises, likeness by hand, and a coreset that takes what was planted."""

from collections.abc import Callable

import numpy as np
import pytest
from slow_likeness import by_cosine

from medssl.data.curate import Rows, coreset, every_nth, exemplars
from medssl.data.likeness import (
    Likeness,
    by_bits,
    by_information,
    by_structure,
    difference_hash,
    grey_levels,
    least_alike,
    rescaled,
)


def _images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 24, 20)).astype(np.float32)


def _hashes(images: np.ndarray) -> np.ndarray:
    return np.stack([difference_hash(image) for image in images])


def _bits(hashes: np.ndarray) -> Callable[[Rows], Likeness]:
    return lambda own: by_bits(hashes[own])


def test_a_hash_does_not_see_a_shift_of_intensity_but_a_mirror():
    image = _images(1)[0]
    assert np.array_equal(difference_hash(image), difference_hash(3 * image + 100))
    assert not np.array_equal(difference_hash(image), difference_hash(image[:, ::-1]))
    assert np.array_equal(difference_hash(image), difference_hash(image.astype(np.float64) * 1e-6))
    ramp = np.tile(np.arange(18, dtype=np.float32), (16, 1))
    assert np.unpackbits(difference_hash(ramp)).tolist() == [1] * 64
    assert not difference_hash(np.ones((16, 18), np.float32)).any()


@pytest.mark.parametrize(("of", "published"), [("waves", "9454545454545454"), ("rings", "754b35354bb5da35")])
def test_a_hash_is_that_of_the_published_code(of: str, published: str):
    """`imagehash.dhash` (ImageHash 4.3.2) of the picture in 256 levels of grey, as text."""
    y, x = np.mgrid[:60, :75]
    image = 1000 * np.sin(x * y / 37) + 300 * np.cos(x / 3) if of == "waves" else np.hypot(x - 31, y - 22) % 11
    assert difference_hash(image.astype(np.float32)).tobytes().hex() == published


def test_the_kept_are_unlike_and_the_dropped_are_like_a_kept_one():
    rng = np.random.default_rng(1)
    hashes = np.packbits(np.repeat(rng.integers(0, 2, (12, 64)), 8, axis=0) ^ (rng.random((96, 64)) < 0.04), axis=1)
    groups = [f"v{n // 24}" for n in range(96)]
    likeness = by_bits(hashes)
    kept, dropped = exemplars(_bits(hashes), groups, -6)
    assert sorted([*kept, *(d.item for d in dropped)]) == list(range(96))
    assert len(kept) < 40
    for group in set(groups):
        own = np.array([n for n in kept if groups[n] == group])
        for item in own:
            assert (likeness(int(item), own[own != item]) < -6).all()
    for drop in dropped:
        assert drop.like in kept
        assert groups[drop.like] == groups[drop.item]
        assert drop.likeness >= -6
    assert exemplars(_bits(hashes), groups, -6) == (kept, dropped)


def _whole_set(
    likeness: Likeness, groups: list[str], threshold: float
) -> tuple[list[int], list[tuple[int, int, float]]]:
    """The same rule with likeness of all images at once."""
    kept, dropped = [], []
    for name in sorted(set(groups)):
        left = [n for n, group in enumerate(groups) if group == name]
        while left:
            first, *others = left
            kept.append(first)
            found = likeness(first, np.array(others)) if others else []
            dropped += [(n, first, float(f)) for n, f in zip(others, found, strict=True) if f >= threshold]
            left = [n for n, f in zip(others, found, strict=True) if f < threshold]
    return sorted(kept), sorted(dropped)


@pytest.mark.parametrize(("rule", "threshold"), [("ssim", 0.5), ("mutual information", 0.7), ("dhash", -20)])
def test_likeness_of_one_group_at_a_time_finds_the_same(rule: str, threshold: float):
    rng = np.random.default_rng(3)
    images = np.repeat(_images(8), 4, axis=0) + rng.choice([0.02, 0.5, 2.0], (32, 1, 1)) * _images(32, 4)
    small = np.stack([rescaled(image, 32, 32) for image in images[rng.permutation(32)]])
    groups = [f"v{n}" for n in rng.integers(0, 3, 32)]
    codes = {"ssim": small, "mutual information": grey_levels(small), "dhash": _hashes(small)}[rule]
    measure = {"ssim": by_structure, "mutual information": by_information, "dhash": by_bits}[rule]
    sizes = []

    def of_group(own: Rows) -> Likeness:
        sizes.append(len(own))
        return measure(codes[own])

    kept, dropped = exemplars(of_group, groups, threshold)
    assert (kept, [(d.item, d.like, d.likeness) for d in dropped]) == _whole_set(measure(codes), groups, threshold)
    assert 3 < len(kept) < 32
    assert sorted(sizes) == sorted(groups.count(name) for name in set(groups))


def test_grey_levels_are_even_bins_of_a_byte():
    levels = grey_levels(np.array([0, 0.9 / 64, 1 / 64, 0.5, 63 / 64, 1], np.float32))
    assert levels.tolist() == [0, 0, 1, 32, 63, 63]
    assert levels.dtype == np.uint8


def test_limits_of_the_threshold():
    hashes, groups = _hashes(_images(10)), ["a"] * 4 + ["b"] * 6
    assert exemplars(_bits(hashes), groups, 1)[0] == list(range(10))  # nothing is more alike than the same
    assert exemplars(_bits(hashes), groups, -64)[0] == [0, 4]
    same = np.repeat(hashes[:1], 5, axis=0)
    assert exemplars(_bits(same), ["a"] * 5, 0)[0] == [0]
    counts = [len(exemplars(_bits(_hashes(_images(60, s))), ["a"] * 60, t)[0]) for s in range(5) for t in (-20, -30)]
    assert np.mean(counts[::2]) > np.mean(counts[1::2])


def test_order_of_volumes_does_not_matter():
    hashes = _hashes(_images(20))
    kept, _ = exemplars(_bits(hashes), ["a"] * 10 + ["b"] * 10, -24)
    swapped, _ = exemplars(_bits(np.concatenate([hashes[10:], hashes[:10]])), ["b"] * 10 + ["a"] * 10, -24)
    assert sorted((n + 10) % 20 for n in swapped) == kept


@pytest.mark.parametrize("measure", [by_structure, by_information], ids=["ssim", "mutual information"])
def test_an_image_is_most_like_itself(measure):
    images = np.stack([rescaled(image, 32, 32) for image in _images(4)])
    images = np.concatenate([images, (images[:1] + 0.02 * _images(1, 5)[:, :1, :1]).clip(0, 1), 1 - images[:1]])
    found = measure(grey_levels(images) if measure is by_information else images)(0, np.arange(6))
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found.argmax() == 0
    assert found[4] > found[1:4].max()
    if measure is by_information:
        assert found[5] > 0.9  # inverted intensities tell as much


def test_cosine_of_embeddings():
    embeddings = np.array([[1, 0], [2, 0], [0, 3], [-1, 0]], np.float32)
    assert by_cosine(embeddings)(0, np.arange(4)) == pytest.approx([1, 1, 0, -1])


def test_every_nth_of_each_group():
    assert every_nth(["a"] * 5 + ["b"] * 3, 2) == [0, 2, 4, 5, 7]
    assert every_nth(["a"] * 3, 1) == [0, 1, 2]


def test_a_coreset_takes_what_is_like_the_target_first():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(30, 8)).astype(np.float32)
    near = np.repeat(target, 2, axis=0) + 0.01 * rng.normal(size=(60, 8)).astype(np.float32)
    pool = np.concatenate([rng.normal(size=(200, 8)).astype(np.float32), near])
    taken, utilities = coreset(target, pool, budget=60, stop=False)
    assert len(taken) == len(set(taken)) == 60
    assert sum(item >= 200 for item in taken) >= 55
    assert utilities == sorted(utilities, reverse=True)
    everything, _ = coreset(target, pool, budget=10_000, stop=False)
    assert everything == list(range(260))
    alone, _ = coreset(target[:1], pool, budget=5, stop=False)
    units = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    assert alone == sorted(np.argsort(-(units @ target[0]), kind="stable")[:5].tolist())


def test_a_cliff_of_likeness_ends_it():
    target = np.eye(4, dtype=np.float32)[:1]
    pool = np.concatenate([np.tile(target, (40, 1)), np.tile(np.eye(4, dtype=np.float32)[1:2], (100, 1))])
    pool += 0.001 * np.random.default_rng(0).normal(size=pool.shape).astype(np.float32)
    taken, utilities = coreset(target, pool, budget=140)
    assert taken == list(range(40))
    assert utilities[-1] < 0.95 * utilities[19]


def test_centres_that_want_the_same_image_share_it_in_a_round():
    target = np.array([[1, 0], [1, 0.01]], np.float32)
    pool = np.array([[1, 0.005], [0, 1], [-1, 0]], np.float32)
    assert coreset(target, pool, budget=1, stop=False)[0] == [0]


def test_images_are_as_alike_as_in_the_channel_in_which_they_are_least_so():
    hashes = np.zeros((3, 2, 8), np.uint8)
    hashes[1, 1, 0], hashes[2, 0, 0], hashes[2, 1, 0] = 0b111, 0b1, 0b11
    both = least_alike([by_bits(hashes[:, channel]) for channel in range(2)])
    assert both(0, np.array([1, 2])).tolist() == [-3, -2]
