import numpy as np
import pytest

from medssl.data.fingerprint import case_fingerprint, merge, propose
from medssl.data.splits import assign_splits, empty_splits, folds, nested_subset, parse_fractions
from medssl.imaging.errors import ConfigError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Source, Volume

_PATIENTS = [f"p{k:02d}" for k in range(40)]


def test_shares_are_kept_and_every_patient_has_one_split():
    splits = assign_splits([*_PATIENTS, *_PATIENTS], (0.7, 0.15, 0.15), seed=1)
    assert sorted(splits) == _PATIENTS
    assert [list(splits.values()).count(name) for name in ("train", "val", "test")] == [28, 6, 6]
    assert splits == assign_splits(_PATIENTS[::-1], (0.7, 0.15, 0.15), seed=1)
    assert splits != assign_splits(_PATIENTS, (0.7, 0.15, 0.15), seed=2)


def test_a_small_share_still_gets_a_patient():
    assert sorted(assign_splits(["a", "b", "c"], (0.9, 0.05, 0.05), seed=0).values()) == ["test", "train", "val"]


def test_splits_that_stay_empty_are_named():
    few = assign_splits(["a", "b"], (0.7, 0.15, 0.15), seed=0)
    assert empty_splits((0.7, 0.15, 0.15), few) == ["val", "test"]
    assert empty_splits((1, 0, 0), assign_splits(["a"], (1, 0, 0), seed=0)) == [], "none was asked for"
    assert empty_splits((0.7, 0.15, 0.15), assign_splits(_PATIENTS, (0.7, 0.15, 0.15), seed=0)) == []


def test_subsets_are_nested():
    for seed in range(3):
        small, large = (nested_subset(_PATIENTS, n, seed) for n in (4, 16))
        assert large[:4] == small
    with pytest.raises(ConfigError, match="there are 40"):
        nested_subset(_PATIENTS, 41, 0)


def test_subsets_have_the_shares_of_all():
    groups = {patient: "ill" if n < 10 else "well" for n, patient in enumerate(_PATIENTS)}
    for seed in range(5):
        order = nested_subset(_PATIENTS, 40, seed, groups)
        assert sorted(order) == _PATIENTS
        for number in (4, 8, 20):
            assert nested_subset(_PATIENTS, number, seed, groups) == order[:number]
            assert sum(groups[patient] == "ill" for patient in order[:number]) == number // 4
    assert nested_subset(_PATIENTS, 8, 0, groups) != nested_subset(_PATIENTS, 8, 1, groups)


def test_folds_hold_every_patient_out_once():
    parts = folds(_PATIENTS, 5, seed=0)
    assert sorted(patient for part in parts for patient in part) == _PATIENTS
    assert {len(part) for part in parts} == {8}
    with pytest.raises(ConfigError):
        folds(_PATIENTS, 1, seed=0)


@pytest.mark.parametrize("number", [2, 3, 5])
def test_folds_share_the_classes_out_evenly(number: int):
    groups = {patient: "ill" if n % 4 == 0 else "well" for n, patient in enumerate(_PATIENTS)}
    for seed in range(20):
        parts = folds(_PATIENTS, number, seed, groups)
        assert sorted(patient for part in parts for patient in part) == _PATIENTS
        ill = [sum(groups[patient] == "ill" for patient in part) for part in parts]
        assert max(ill) - min(ill) <= 1
    assert folds(_PATIENTS, number, 0, groups) != folds(_PATIENTS, number, 1, groups)


@pytest.mark.parametrize("text", ["70/30", "a/b/c", "-1/1/1", "0/1/1"])
def test_unusable_fractions(text: str):
    with pytest.raises(ConfigError, match="split"):
        parse_fractions(text)


def test_fingerprint_counts_and_proposes_with_reasons():
    def case(spacing: float, voxels: int) -> dict[str, object]:
        label = np.zeros((8, 8, 8), np.uint8)
        label.ravel()[:voxels] = 2
        volume = Volume(
            np.arange(512, dtype=np.float32).reshape(1, 8, 8, 8), Geometry(np.diag([1, 1, spacing, 1]), (8, 8, 8))
        )
        return case_fingerprint(volume, label)

    whole = merge([case(5.0, 3), case(6.0, 4), case(7.0, 5)])
    assert whole["spacing_mm"] == {
        "median": [1, 1, 6],
        "smallest": [1, 1, 5],
        "largest": [1, 1, 7],
        "tenth_percentile": [1, 1, 5.2],
    }
    assert whole["label_voxels"]["2"] == 12
    spacing, patch, batch = propose(whole, 3)
    assert spacing.startswith("spacing_mm [1.0, 1.0, 5.2]: the median, but axis 2 is 6.0 times coarser")
    assert patch.startswith("patch [8, 8, 8]")
    assert batch.startswith("batch 2:"), "three small images fill no larger batch"
    assert whole["without_spacing"] == 0
    many = merge([case(5.0, 3)] * 400)
    assert propose(many, 3)[2].startswith("batch 20:"), "5 % of 400 images of one patch each"


def test_pictures_without_a_pixel_size_count_for_no_spacing():
    """1 mm stands in their geometry for want of one; a radiograph's size at the detector is one."""

    def case(spacing: float, **told: bool) -> dict[str, object]:
        geometry = Geometry(np.diag([spacing, spacing, 1, 1]), (64, 48))
        array = np.arange(64 * 48, dtype=np.float32).reshape(1, 64, 48)
        return case_fingerprint(Volume(array, geometry, source=Source(**told)), None)

    picture, radiograph = case(1.0, calibrated=False), case(0.2, calibrated=False, at_detector=True)
    none = merge([picture, picture])
    assert (none["spacing_mm"], none["without_spacing"]) == ({}, 2)
    assert propose(none, 2)[:2] == [
        "spacing_mm null: no image tells how large its voxels are.",
        "patch [64, 48]: the median image, shrunk alike along all axes to what fits small memory, in steps of 8.",
    ]
    some = merge([picture, radiograph])
    assert some["spacing_mm"]["smallest"] == some["spacing_mm"]["largest"] == [0.2, 0.2]
    assert propose(some, 2)[0] == "spacing_mm [0.2, 0.2]: the median of the data; 1 of 2 images do not tell theirs."
