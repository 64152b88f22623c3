from collections import Counter

import numpy as np
import pytest
import torch
from small_cache import small_cache

from medssl.data.cache import OUTSIDE, write_case
from medssl.data.dataset import CropPlan, StepDataset
from medssl.imaging.errors import CacheError

_SHAPES = {2: [(9, 12), (10, 8), (14, 9)], 3: [(9, 12, 8), (10, 8, 9), (8, 9, 10)]}


def _source(path, dims, **plan):
    cache = small_cache(path, _SHAPES[dims], labelled=[True] * 3, classes=["a", "b"], channels=2)
    return StepDataset(cache, cache.cases, CropPlan(**{"size": (4,) * dims, "batch_size": 4, **plan}))


def _joined(source, draws):
    return torch.cat([source[draw]["image"] for draw in draws])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_crop_is_a_piece_of_its_case_with_image_and_label_together(tmp_path, dims):
    source = _source(tmp_path, dims, labels=True, classes=True)
    batch = source[5]
    assert batch["image"].shape == (4, 2, *(4,) * dims)
    assert batch["label"].dtype == torch.int64
    assert batch["index"].tolist() == [20, 21, 22, 23]
    assert batch["step"].item() == 5
    cache = source._cache
    for sample, number in enumerate(batch["index"].tolist()):
        case = source.case_of(number)
        first = batch["image"][sample, 0].flatten()[0].item()
        start = np.unravel_index(round(first) - 1000 * int(case.case[1]), case.shape)
        window = tuple(slice(s, s + 4) for s in start)
        np.testing.assert_array_equal(batch["image"][sample, 1], cache.image(case)[1][window])
        np.testing.assert_array_equal(batch["label"][sample], cache.label(case)[window])
        assert cache.classes[batch["class_index"][sample]] == case.class_name


def test_each_crop_brings_the_voxel_size_of_its_case(tmp_path):
    sizes = [(0.7, 0.7, 5.0), (1.0, 1.0, 1.0), (2.0, 1.0, 3.0)]
    cache = small_cache(tmp_path, _SHAPES[3], patients=["a", "a", "b"], spacings_mm=sizes)
    source = StepDataset(cache, cache.cases, CropPlan((4, 4, 4), 12, partner="patient"))
    batch = source[0]
    assert batch["spacing_mm"].dtype == torch.float64
    of_case = [int(source.case_of(number).case[1]) for number in range(12)]
    assert batch["spacing_mm"].tolist() == [list(sizes[case]) for case in of_case]
    assert batch["partner_spacing_mm"].tolist() == [list(sizes[(1, 0, 2)[case]]) for case in of_case]
    (tmp_path / "cases" / "c1" / "image.b2nd").write_bytes(b"")  # the next case stands in for it
    stands_in = [sizes[2] if case == 1 else sizes[case] for case in of_case]
    batch = StepDataset(cache, cache.cases, CropPlan((4, 4, 4), 12))[0]
    assert batch["spacing_mm"].tolist() == [list(size) for size in stands_in]


@pytest.mark.parametrize(("axis", "kept"), [(0, [0.7, 5.0]), (1, [0.9, 5.0]), (2, [0.9, 0.7])])
def test_a_slice_brings_the_voxel_size_in_its_plane(tmp_path, axis, kept):
    cache = small_cache(tmp_path, [(9, 12, 8)], spacings_mm=[(0.9, 0.7, 5.0)])
    batch = StepDataset(cache, cache.cases, CropPlan((4, 4), 2, slice_axis=axis, partner="slice"))[0]
    assert batch["spacing_mm"].tolist() == batch["partner_spacing_mm"].tolist() == [kept, kept]


@pytest.mark.parametrize("dims", [2, 3])
def test_parts_workers_and_order_do_not_change_a_step(tmp_path, dims):
    whole = _source(tmp_path / "a", dims, seed=3)
    halves = _source(tmp_path / "b", dims, seed=3, parts=2)
    assert torch.equal(_joined(halves, [14, 15]), whole[7]["image"])
    assert torch.equal(whole[7]["image"], _source(tmp_path / "c", dims, seed=3)[7]["image"])
    assert not torch.equal(whole[7]["image"], whole[8]["image"])
    assert not torch.equal(whole[7]["image"], _source(tmp_path / "d", dims, seed=4)[7]["image"])
    loader = torch.utils.data.DataLoader(whole, batch_size=None, sampler=[7, 2], num_workers=1)
    assert torch.equal(next(iter(loader))["image"], whole[7]["image"])


def test_each_epoch_has_every_case_once_in_a_new_order(tmp_path):
    source = _source(tmp_path, 2)
    epochs = [[source.case_of(3 * epoch + i).case for i in range(3)] for epoch in range(20)]
    assert all(sorted(epoch) == ["c0", "c1", "c2"] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3


def test_drawn_evenly_over_patients_an_epoch_has_every_patient_once_by_any_of_their_cases(tmp_path):
    cache = small_cache(tmp_path, [(9, 12)] * 5, patients=["a", "b", "a", "a", "c"])
    source = StepDataset(cache, cache.cases, CropPlan((4, 4), 3, evenly="patients"))
    drawn = [source.case_of(number) for number in range(300)]
    for epoch in range(100):
        assert sorted(case.patient for case in drawn[3 * epoch : 3 * epoch + 3]) == ["a", "b", "c"]
    times = Counter(case.case for case in drawn)
    assert times["c1"] == times["c4"] == 100
    assert all(20 <= times[name] <= 47 for name in ("c0", "c2", "c3"))
    assert source.case_of(0) == drawn[0]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.5, 20), (1.0, 40), (1 / 3, 13)])
def test_the_share_of_crops_around_foreground_is_exact(tmp_path, share, expected):
    # The corner voxel lies in few crops unless it is aimed at; both classes are aimed at alike.
    cache = small_cache(tmp_path, [(64, 64)], labelled=[True])
    source = StepDataset(cache, cache.cases, CropPlan((4, 4), 4, labels=True, foreground=share))
    labels = torch.cat([source[draw]["label"] for draw in range(10)])
    aimed = [bool((label > 0).any()) for label in labels]
    due = [int((n + 1) * share) > int(n * share) for n in range(40)]
    assert sum(due) == expected
    assert all(hit for hit, wanted in zip(aimed, due, strict=True) if wanted)
    corners = sum(bool((label == 2).any()) for label in labels)
    assert corners >= expected // 5


def test_no_crop_is_aimed_at_voxels_that_nobody_judged(tmp_path):
    cache = small_cache(tmp_path, [(64, 64)], labelled=[True], ignore_label=2)  # the corner voxel
    source = StepDataset(cache, cache.cases, CropPlan((4, 4), 4, labels=True, foreground=1.0))
    labels = torch.cat([source[draw]["label"] for draw in range(10)])
    assert all(bool((label == 1).any()) for label in labels)


def test_every_position_is_drawn_and_none_outside(tmp_path):
    cache = small_cache(tmp_path, [(6, 5)])
    source = StepDataset(cache, cache.cases, CropPlan((4, 4), 8))
    corners = torch.cat([source[draw]["image"][:, 0, 0, 0] for draw in range(30)])
    assert set(corners.tolist()) == {0, 1, 5, 6, 10, 11}


def test_a_case_smaller_than_the_crop_is_centred_and_padded(tmp_path):
    cache = small_cache(tmp_path, [(2, 6)], labelled=[True])
    source = StepDataset(cache, cache.cases, CropPlan((4, 4), 1, labels=True))
    batch = source[0]
    image, label = batch["image"][0, 0], batch["label"][0]
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[2], image[3])
    assert torch.equal(image[2] - image[1], torch.full((4,), 6.0))
    assert (label[0] == OUTSIDE).all()
    assert (label[3] == OUTSIDE).all()
    start = round(float(image[1, 0])) - round(float(cache.image(cache.cases[0])[0, 0, 0]))
    np.testing.assert_array_equal(label[1:3], cache.label(cache.cases[0])[:, start : start + 4])


def test_flat_crops_are_drawn_again(tmp_path):
    cache = small_cache(tmp_path, [(40, 4)])
    image = np.zeros((1, 40, 4), np.float32)
    image[:, 20:] = np.random.default_rng(0).normal(size=(20, 4))
    write_case(tmp_path, cache.cases[0], image, None, {})
    plans = [CropPlan((4, 4), 40, min_std=low) for low in (0.0, 0.5)]
    flat = [int((StepDataset(cache, cache.cases, p)[0]["image"].float().std((1, 2, 3)) < 0.5).sum()) for p in plans]
    assert flat[0] > 12
    assert flat[1] <= 2


def test_flat_crops_that_are_centred_on_a_structure_stay_and_those_of_cases_without_one_are_drawn_again(tmp_path):
    cache = small_cache(tmp_path, [(40, 4)] * 3, labelled=[True, False, True])
    image = np.zeros((1, 40, 4), np.float32)
    image[:, 20:] = np.random.default_rng(0).normal(size=(20, 4))
    box = np.zeros((40, 4), np.uint8)
    box[8:12] = 1  # where the image is flat
    for case, label in zip(cache.cases, (box, None, np.zeros_like(box)), strict=True):
        write_case(tmp_path, case, image, label, {})
    flat = {}
    for low in (0.0, 0.5):
        source = StepDataset(cache, cache.cases, CropPlan((4, 4), 120, foreground=1.0, min_std=low))
        cases = np.array([source.case_of(number).case for number in range(120)])
        alike = source[0]["image"].float().std((1, 2, 3)).numpy() < 0.5
        flat[low] = {name: int(alike[cases == name].sum()) for name in ("c0", "c1", "c2")}
    assert flat[0.0]["c0"] == flat[0.5]["c0"] == 40
    for name in ("c1", "c2"):
        assert flat[0.0][name] > 12
        assert flat[0.5][name] <= 2


def test_a_case_without_label_counts_as_ignored(tmp_path):
    cache = small_cache(tmp_path, [(6, 6), (6, 6)], labelled=[True, False], ignore_label=255)
    source = StepDataset(cache, cache.cases, CropPlan((4, 4), 2, labels=True, foreground=1.0))
    batch = source[0]
    bare = [source.case_of(number).case == "c1" for number in (0, 1)]
    assert sorted(bare) == [False, True]
    for label, without in zip(batch["label"], bare, strict=True):
        assert bool((label == 255).all()) == without


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"size": (4, 4, 4)}, "2D cases, crops of size"),
        ({"labels": True}, "1 cases have no label, first 'c1'"),
        ({"classes": True}, "2 cases have no class"),
    ],
)
def test_a_plan_that_the_cache_cannot_serve_is_refused(tmp_path, plan, message):
    cache = small_cache(tmp_path, [(6, 6), (6, 6)], labelled=[True, False])
    with pytest.raises(CacheError, match=message):
        StepDataset(cache, cache.cases, CropPlan(**{"size": (4, 4), "batch_size": 2, **plan}))


def test_no_cases_are_refused(tmp_path):
    cache = small_cache(tmp_path, [(6, 6)])
    with pytest.raises(CacheError, match="no cases to train on"):
        StepDataset(cache, [], CropPlan((4, 4), 2))


def test_a_partner_is_the_same_place_of_another_case_of_the_patient(tmp_path):
    cache = small_cache(tmp_path, [(20, 9), (38, 9), (20, 9), (7, 6)], patients=["a", "a", "a", "b"])
    plan = CropPlan((2, 3), batch_size=400, partner="patient")
    batch = StepDataset(cache, cache.cases, plan)[0]
    pairs = set()
    for own, other in zip(batch["image"].float(), batch["partner"].float(), strict=True):
        (case, at), (partner, place) = (divmod(float(crop[0, 0, 0]), 1000) for crop in (own, other))
        pairs.add((int(case), int(partner)))
        if {case, partner} == {0, 2}:
            assert place == at
        if (case, partner) == (0, 1):
            assert divmod(place, 9) == (2 * (at // 9), at % 9)
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b} | {(3, 3)}
    again = StepDataset(cache, cache.cases, CropPlan((2, 3), batch_size=100, partner="patient"))[2]
    assert torch.equal(again["partner"], batch["partner"][200:300])


def test_a_damaged_partner_is_told_and_another_or_the_crop_itself_stands_in(tmp_path):
    cache = small_cache(tmp_path, [(8, 8)] * 2, patients=["a", "a"])
    (tmp_path / "cases" / "c1" / "image.b2nd").write_bytes(b"nothing")
    batch = StepDataset(cache, cache.cases, CropPlan((4, 4), batch_size=2, partner="patient"))[0]
    assert batch["damaged"].tolist() == [1]
    assert torch.equal(batch["partner"], batch["image"])


def test_air_is_air_in_every_channel(tmp_path):
    """Air has another constant in each channel, which is no contrast in the image."""
    cache = small_cache(tmp_path, [(16, 16)], channels=2)
    image = np.full((2, 16, 16), [[[-0.4]], [[-0.8]]], np.float32)
    image[1, 12:, 12:] = np.random.default_rng(0).normal(size=(4, 4))
    write_case(cache.path, cache.cases[0], image, None, {})
    crops = StepDataset(cache, cache.cases, CropPlan((4, 4), 64, min_std=0.1))[0]["image"].float()
    flat = crops.std((2, 3)).amax(1) < 0.1
    anywhere = StepDataset(cache, cache.cases, CropPlan((4, 4), 64))[0]["image"].float().std((2, 3)).amax(1) < 0.1
    assert flat.sum() < 0.7 * anywhere.sum()
