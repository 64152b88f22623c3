"""What a coarser grid misses of an image comes back with the value beside it, and nothing else changes."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.imaging.geometry import Geometry
from medssl.imaging.preprocess import (
    Intensity,
    Preprocess,
    Restoration,
    prepare_volume,
    restore_label,
    restore_scores,
)
from medssl.imaging.resample import index_map, regrid_label
from medssl.imaging.target_grid import oriented, right_angled, spaced
from medssl.imaging.volume import Volume

_STEADY = settings(deadline=None, derandomize=True, database=None)
_STEPS = st.sampled_from([0.1, 0.25, 0.3, 0.4, 0.5, 0.625, 0.7, 1.0, 1.3, 2.0])
_ORIENTATIONS = [
    "".join(codes) for axes in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*axes)
]


@st.composite
def _records(draw, tilted: bool) -> Restoration:
    """Native and prepared grid of an image of any shape, voxel size, orientation and rotation."""
    dims = 3 if tilted else draw(st.sampled_from([2, 3]))
    shape = tuple(draw(st.lists(st.integers(1, 26), min_size=dims, max_size=dims)))
    affine = np.diag([*draw(st.tuples(_STEPS, _STEPS, _STEPS)), 1.0])
    if tilted:
        affine[1, 2] = affine[2, 2] * np.tan(np.deg2rad(draw(st.sampled_from([-20, -7, 12, 25]))))
    turn = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 99))).normal(size=(3, 3)))[0]
    affine[:3] = (turn if draw(st.booleans()) else np.eye(3)) @ affine[:3]
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    native = Geometry(affine, shape)
    grid = oriented(native, draw(st.sampled_from(_ORIENTATIONS)))
    if tilted:
        grid = right_angled(grid)
    spacing = tuple(draw(st.sampled_from([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])) for _ in range(dims))
    return Restoration(native, spaced(grid, spacing))


def _places(record: Restoration) -> np.ndarray:
    """Index (*T, d) on the prepared grid of every voxel of the image."""
    matrix, offset = index_map(record.prepared, record.native)
    return np.stack(np.meshgrid(*map(np.arange, record.native.shape), indexing="ij"), -1) @ matrix.T + offset


def _one_hot(mask: np.ndarray) -> np.ndarray:
    return np.stack([mask == value for value in range(4)]).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "old", "new"),
    [(61, 1, 3), (60, 1, 3), (45, 0.625, 2.5), (41, 0.5, 2), (42, 0.5, 2), (61, 1, 2), (7, 1, 4)],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_outermost_slices_of_a_finer_image_are_not_emptied(size, old, new, axis):
    shape, spacing = [6, 6, 6], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = size, new
    geometry = Geometry(np.diag([old if a == axis else 1.0 for a in range(3)] + [1.0]), tuple(shape))
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    record = prepare_volume(Volume(image, geometry), Preprocess(spacing_mm=tuple(spacing))).record
    assert restore_label(np.ones(record.prepared.shape, np.uint8), record).array.all()
    scores = restore_scores(np.full((2, *record.prepared.shape), 0.5, np.float32), record)
    np.testing.assert_array_equal(scores, 0.5)


@given(_records(tilted=False))
@settings(_STEADY, max_examples=150)
def test_an_image_that_was_not_cropped_comes_back_whole(record):
    ones = np.ones(record.prepared.shape, np.uint8)
    np.testing.assert_array_equal(restore_label(ones, record).array, 1)
    np.testing.assert_allclose(restore_scores(ones[None].astype(np.float32), record), 1, rtol=1e-5)


@given(_records(tilted=True))
@settings(_STEADY, max_examples=80)
def test_a_tilted_image_comes_back_whole(record):
    assert restore_label(np.ones(record.prepared.shape, np.uint8), record).array.all()


@given(st.booleans().flatmap(lambda tilted: _records(tilted=tilted)), st.integers(0, 2**32 - 1))
@settings(_STEADY, max_examples=150)
def test_within_the_outer_centres_masks_come_back_as_before(record, seed):
    """There nothing beyond the prepared grid has a share, whatever it is taken for."""
    mask = np.random.default_rng(seed).integers(0, 4, record.prepared.shape).astype(np.uint8)
    before = regrid_label(mask, record.prepared, record.native)
    steps = np.abs(index_map(record.prepared, record.native)[0])
    mixed = bool(np.any((steps > 1e-6).sum(axis=1) > 1))  # then the filter goes a voxel further
    filters = np.maximum(steps.sum(axis=1), 1) - (0 if mixed else 1) + 1e-6
    places = _places(record)
    within = np.all((places > filters) & (places < np.array(mask.shape) - 1 - filters), axis=-1)
    first, second = np.sort(restore_scores(_one_hot(mask), record), axis=0)[:1:-1]
    within &= first - second > 1e-4  # of two classes with equal shares either may win
    np.testing.assert_array_equal(restore_label(mask, record).array[0][within], before[within])


@given(st.booleans().flatmap(lambda tilted: _records(tilted=tilted)), st.integers(0, 2**32 - 1))
@settings(_STEADY, max_examples=100)
def test_a_mask_lies_where_its_scores_do(record, seed):
    """To the rim: a structure's mask is where its share, which a fractional segmentation tells, is above a half."""
    mask = np.random.default_rng(seed).integers(0, 2, record.prepared.shape).astype(np.uint8)
    share = restore_scores(mask[None].astype(np.float32), record)[0]
    sure = np.abs(share - 0.5) > 1e-4
    np.testing.assert_array_equal(restore_label(mask, record).array[0][sure], share[sure] > 0.5)


@given(_records(tilted=False), st.integers(0, 2**32 - 1))
@settings(_STEADY, max_examples=60)
def test_outside_the_outer_centres_the_nearest_voxel_counts(record, seed):
    """Slabs of one value along an axis, so that the value of the nearest voxel is not mixed with others."""
    rng = np.random.default_rng(seed)
    step = np.abs(index_map(record.prepared, record.native)[0]).max(axis=1)
    places = _places(record)
    for axis, size in enumerate(record.prepared.shape):
        values = rng.integers(0, 5, size).astype(np.uint8)
        mask = np.zeros(record.prepared.shape, np.uint8)
        mask += values.reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
        found = restore_label(mask, record).array[0]
        if step[axis] <= 1:  # a finer image; a coarser one has the mean of several
            assert np.all(found[places[..., axis] <= 0] == values[0])
            assert np.all(found[places[..., axis] >= size - 1] == values[-1])


@pytest.mark.parametrize("new", [1.0, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("begin", [9, 10, 11])
@pytest.mark.parametrize("size", range(6, 14))
def test_beyond_a_crop_all_is_background(new, begin, size):
    """What the crop kept comes back; what it cut off does so for no more than the rounding can explain."""
    image = np.zeros((1, 40, 40, 40), np.float32)
    image[0, begin : begin + size, 12:20, 30:] = 1 + np.arange(10, dtype=np.float32)
    preprocess = Preprocess(crop="nonzero", spacing_mm=(new, 1.0, 1.0), intensity=Intensity("none"))
    record = prepare_volume(Volume(image, Geometry(np.eye(4), (40, 40, 40))), preprocess).record
    found = restore_label(np.ones(record.prepared.shape, np.uint8), record).array[0].astype(bool)
    assert found[begin - 4 : begin + size + 4, 8:24, 26:].all()
    assert not found[:, :8].any()
    assert not found[:, 24:].any()
    assert not found[:, :, :26].any()
    along = _places(record)[..., 0]
    reach = max(0.25 - 0.5 / new, 0) + 1e-3
    assert not found[(along < -0.5 - reach) | (along > record.prepared.shape[0] - 0.5 + reach)].any()
    scores = restore_scores(np.ones((1, *record.prepared.shape), np.float32), record)[0]
    np.testing.assert_array_equal(scores > 0, found)


@pytest.mark.parametrize("angle", [0.0, 0.2])
def test_no_more_memory_is_taken_than_for_any_other_mask(angle):
    """Of 160^3 voxels: whole maps of floats would be 16 MB each."""
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[1, 2] = 0.5 * np.tan(angle)
    native = Geometry(affine, (160, 160, 160))
    grid = spaced(right_angled(native), (2.0, 2.0, 2.0))
    record = Restoration(native, Geometry(grid.affine, tuple(n - 9 for n in grid.shape)))  # as a crop, much is cleared
    mask = np.ones(record.prepared.shape, np.uint8)

    def peak(restore) -> int:
        tracemalloc.start()
        restore()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    before = peak(lambda: regrid_label(mask, record.prepared, native))
    assert peak(lambda: restore_label(mask, record)) < before + (10 << 20)
