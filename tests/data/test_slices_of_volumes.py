"""2D crops of 3D cases, and neighbouring slices."""

import numpy as np
import pytest
import torch
from small_cache import small_cache

from medssl.data.dataset import CropPlan, StepDataset
from medssl.imaging.errors import CacheError

_SHAPE = (9, 8, 7)


def _source(path, shape=_SHAPE, **plan):
    cache = small_cache(path, [shape, shape], labelled=[True, True], channels=2)
    return StepDataset(cache, cache.cases, CropPlan(**{"size": (4, 3), "batch_size": 200, **plan}))


def _places(values, shape=_SHAPE):
    """Case, and index in it, of first voxels."""
    return [(round(v) // 1000, *(int(n) for n in np.unravel_index(round(v) % 1000, shape))) for v in values.tolist()]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_a_flat_piece_of_its_case_with_its_label(tmp_path, axis):
    source = _source(tmp_path, slice_axis=axis, labels=True, foreground=0.5)
    batch = source[0]
    assert batch["image"].shape == (200, 2, 4, 3)
    assert batch["label"].shape == (200, 4, 3)
    box = [4, 3]
    box.insert(axis, 1)
    seen = set()
    for sample, place in enumerate(_places(batch["image"][:, 0, 0, 0])):
        case, start = source.cases[place[0]], place[1:]
        window = tuple(slice(s, s + n) for s, n in zip(start, box, strict=True))
        np.testing.assert_array_equal(batch["image"][sample], source._cache.image(case)[:, *window].squeeze(axis + 1))
        np.testing.assert_array_equal(batch["label"][sample], source._cache.label(case)[window].squeeze(axis))
        seen.add(start[axis])
    assert seen == set(range(_SHAPE[axis]))


@pytest.mark.parametrize(("gap_mm", "steps"), [(0.0, {1}), (1.9, {1}), (3.0, {1, 2, 3})])
def test_a_neighbour_is_the_same_place_of_a_slice_within_reach_above_or_below(tmp_path, gap_mm, steps):
    source = _source(tmp_path, slice_axis=2, partner="slice", slice_gap_mm=gap_mm)
    batch = source[1]
    own, other = (_places(batch[name][:, 0, 0, 0]) for name in ("image", "partner"))
    jumps = {there[3] - here[3] for here, there in zip(own, other, strict=True)}
    assert jumps == steps | {-step for step in steps}
    assert all(here[:3] == there[:3] for here, there in zip(own, other, strict=True))
    assert {there[3] for there in other} == set(range(7))
    halves = _source(tmp_path / "b", slice_axis=2, partner="slice", slice_gap_mm=gap_mm, parts=2)
    assert torch.equal(torch.cat([halves[2]["partner"], halves[3]["partner"]]), batch["partner"])


def test_a_case_of_one_slice_is_its_own_neighbour(tmp_path):
    batch = _source(tmp_path, (9, 8, 1), slice_axis=2, partner="slice")[0]
    assert torch.equal(batch["partner"], batch["image"])


def test_slices_of_slices_are_refused(tmp_path):
    cache = small_cache(tmp_path, [(9, 8)])
    with pytest.raises(CacheError, match="are of 3D ones"):
        StepDataset(cache, cache.cases, CropPlan((4, 3), 2, slice_axis=0))
