"""Predictions that are known in advance, through restoring, reading and scoring on the native grid."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cohort import SHAPE, SPACING_MM, make_cache

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.segmentation_cases import (
    Outcome,
    classified_cases,
    evaluate_cases,
    labelled_cases,
    left_out,
    native_image,
)
from medssl.evaluation.summaries import summarise
from medssl.evaluation.threshold_rule import fit_thresholds
from medssl.imaging.errors import CacheError


@pytest.fixture(scope="module", params=[2, 3])
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cohort"), request.param)


def test_the_labels_themselves_are_perfect_on_the_native_grid(cache: Cache) -> None:
    cases = labelled_cases(cache, "test")
    answers = iter([cache.label(case) for case in cases])
    outcome = evaluate_cases(cache, cases, {"oracle": lambda image: next(answers)})
    assert not outcome.failures
    assert [result.mean_dice for result in outcome.results["oracle"]] == [1.0] * 4
    for result in outcome.results["oracle"]:
        assert all(score.hd95_mm == 0 and score.nsd == 1 for score in result.scores.values())
        size = result.scores["class_1"].reference_voxels * result.voxel_size
        voxels = 6**3 - 3**3 if cache.spatial_dims == 3 else 36 - 9
        assert size == pytest.approx(voxels * (math.prod(SPACING_MM) / 1000 if cache.spatial_dims == 3 else 1))
        assert result.size_unit == ("mL" if cache.spatial_dims == 3 else "pixels")
    assert outcome.calibrated is (cache.spatial_dims == 3)


def _oracle(cache: Cache, cases: Sequence[CachedCase]) -> Outcome:
    """The labels themselves."""
    answers = iter([cache.label(case) for case in cases])
    return evaluate_cases(cache, cases, {"oracle": lambda image: next(answers)})


def test_whether_lengths_are_in_mm_is_told_by_the_image_and_not_by_the_label(cache: Cache) -> None:
    """NIfTI labels have a voxel size, PNG ones none, whatever the image is."""
    cases = labelled_cases(cache, "test")
    native = cache.spatial_dims == 3
    assert {case.calibrated for case in cases} == {native}
    outcome = _oracle(cache, [replace(case, calibrated=not native) for case in cases])
    assert outcome.calibrated is not native
    assert {result.size_unit for result in outcome.results["oracle"]} == {"pixels" if native else "mm2"}
    older = _oracle(cache, [replace(case, calibrated=None) for case in cases])
    assert older.calibrated is native, "of a cache that does not tell, the image is read"


def test_pixels_and_mm_have_no_mean(cache: Cache) -> None:
    cases = [replace(case, calibrated=n > 0) for n, case in enumerate(labelled_cases(cache, "test"))]
    outcome = _oracle(cache, cases)
    assert (outcome.calibrated, outcome.uncalibrated) == (True, [cases[0].case])
    summary = summarise(outcome.results["oracle"])
    assert (summary["cases"], summary["mean_dice"]["n"]) == (4, 4)
    assert summary["size_unit"] == ("mL" if cache.spatial_dims == 3 else "mm2")
    one = summary["classes"]["class_1"]
    assert [one[name]["n"] for name in ("dice", "hd95_mm", "nsd")] == [4, 3, 3]
    assert one["size_difference"]["bias"]["n"] == 3
    assert one["size_difference"]["limits_of_agreement"] == [0, 0]
    alone = summarise(outcome.results["oracle"][1:])["classes"]["class_1"]
    assert one["mean_reference_size"] == alone["mean_reference_size"]
    (first, *_), (second, *_) = (result.rows("oracle") for result in outcome.results["oracle"][:2])
    assert first.keys() == second.keys(), "one column of sizes"
    assert (first["dice"], first["hd95_mm"], first["nsd"]) == ("1", "", "")
    assert (second["dice"], second["hd95_mm"], second["nsd"]) == ("1", "0", "1")


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shift_by_one_voxel_is_as_far_as_the_native_spacing(cache: Cache, axis: int) -> None:
    cases = labelled_cases(cache, "test")[:1]
    moved = np.roll(cache.label(cases[0]), 1, axis=axis)
    step = SPACING_MM[axis] if cache.spatial_dims == 3 else 1.0
    outcome = evaluate_cases(cache, cases, {"moved": lambda image: moved}, tolerance_mm=step - 0.1)
    score = outcome.results["moved"][0].scores["class_2"]
    assert score.hd95_mm == pytest.approx(step, rel=1e-5)
    assert score.dice == pytest.approx(2 / 3)
    assert score.nsd < 1


def test_threshold_rule_solves_what_intensity_tells(cache: Cache) -> None:
    """Intensities of the three classes lie 50 noise deviations apart."""
    rule = fit_thresholds(cache, cache.select("train", labelled=True))
    outcome = evaluate_cases(cache, labelled_cases(cache, "test"), {"rule": rule})
    assert all(result.mean_dice == 1.0 for result in outcome.results["rule"])


def test_threshold_rule_needs_labels(cache: Cache) -> None:
    with pytest.raises(CacheError, match="two classes"):
        fit_thresholds(cache, ())


def test_cases_without_an_answer_are_told(cache: Cache) -> None:
    bare = Cache(cache.path, cache._content, tuple(replace(c, has_label=c.case != "4R") for c in cache.cases))
    known = labelled_cases(bare, "test")
    (told,) = left_out(bare, "test", known, "label map")
    assert told.startswith("1 of 4 cases of split test have no label map and are in no number (4R)")
    assert left_out(cache, "test", labelled_cases(cache, "test"), "label map") == []


def test_cases_that_could_not_be_prepared_are_told(cache: Cache) -> None:
    content = {**cache._content, "not_prepared": {"9L": "test", "8L": "train"}}
    damaged = Cache(cache.path, content, cache.cases)
    (told,) = left_out(damaged, "test", labelled_cases(damaged, "test"), "label map")
    assert told.startswith("1 case(s) of split test could not be prepared and are in no number (9L)")
    assert left_out(damaged, "val", damaged.select("val"), "label map") == []


def test_a_case_whose_files_are_gone_fails_alone(cache: Cache, tmp_path: Path) -> None:
    cases = list(labelled_cases(cache, "test"))
    cases[1] = replace(cases[1], label_field=str(tmp_path / "gone.nii.gz"))

    def empty(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        return np.zeros(image.shape[1:], np.uint8)

    outcome = evaluate_cases(cache, cases, {"empty": empty})
    assert [failure.case for failure in outcome.failures] == [cases[1].case]
    assert outcome.failures[0].reason == "no-such-file"
    assert len(outcome.results["empty"]) == 3
    assert outcome.results["empty"][0].scores["class_1"].state == "missed"


def test_a_reference_that_was_changed_since_is_no_reference(cache: Cache, tmp_path: Path) -> None:
    case = labelled_cases(cache, "test")[0]
    other = labelled_cases(cache, "test")[1]
    changed = replace(case, label_field=other.label_field)
    outcome = evaluate_cases(cache, [changed, other], {"empty": lambda image: np.zeros(image.shape[1:], np.uint8)})
    assert [(failure.case, failure.reason) for failure in outcome.failures] == [(case.case, "changed")]
    before = replace(changed, label_sha256="")  # of a cache from before this was kept
    assert evaluate_cases(cache, [before], {"empty": lambda image: np.zeros(image.shape[1:], np.uint8)}).failures == []


def test_native_image_is_the_original(cache: Cache) -> None:
    case = labelled_cases(cache, "test")[0]
    image = native_image(cache, case)
    assert image.geometry.shape == SHAPE[: cache.spatial_dims]
    assert image.geometry.orientation == ("LAS" if cache.spatial_dims == 3 else image.geometry.orientation)


def test_splits_without_labels_are_told(cache: Cache) -> None:
    with pytest.raises(CacheError, match="no split 'nonsense'; it has test, train, val"):
        labelled_cases(cache, "nonsense")
    with pytest.raises(CacheError, match="none of the 2 cases of split 'val'"):
        labelled_cases(cache, "val")
    with pytest.raises(CacheError, match="has a class"):
        classified_cases(cache, "test")
