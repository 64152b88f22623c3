"""What the model card says is what the bundle does."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from medssl.export.model_card import model_card
from medssl.imaging.preprocess import Intensity, Preprocess
from medssl.runtime.bundle import Bundle, BundleSpec


@pytest.fixture
def spec(tmp_path: Path) -> BundleSpec:
    return Bundle.open(write_bundle(tmp_path / "bundle")).spec


def test_a_volume_is_told_in_voxels_and_as_a_segmentation(spec: BundleSpec):
    card = model_card(spec, None)
    assert "Orientation RAS, each image's own voxel size, crop none" in card
    assert "Windows of 8 x 8 x 8 voxels" in card
    assert "Voxel sizes of the data set: 0.4 x 0.4 x 2 to 1 x 1 x 3 mm." in card
    assert "may be segmented wrongly" in card
    assert "someone who could have drawn it" in card


def test_a_picture_that_is_scaled_is_told_so_and_as_a_classification(spec: BundleSpec):
    scaled = Preprocess(spatial_dims=2, longest=256, grey=True, intensity=Intensity("none"))
    about = {"fingerprint": {"spacing_mm": {}, "without_spacing": 8}}
    picture = {"task": "classification", "preprocess": scaled, "window": (160, 224), "labels": ()}
    card = model_card(replace(spec, **picture, classes=("well", "ill"), provenance=about), None)
    assert "Orientation as it is, scaled to a longer side of 256 pixels, colours made grey, crop none" in card
    assert "Windows of 160 x 224 pixels" in card
    assert " mm" not in card
    assert "may be classified wrongly" in card
    assert "someone who could have told the class" in card


def test_pixels_of_a_size_are_told_in_mm(spec: BundleSpec):
    flat = Preprocess(spatial_dims=2, spacing_mm=(0.5, 0.5), intensity=Intensity("none"))
    assert "Orientation as it is, pixels of 0.5 x 0.5 mm" in model_card(replace(spec, preprocess=flat), None)


def test_of_folds_all_patients_are_told(spec: BundleSpec):
    folds = [{"patients": 4, "cases": 9}, {"patients": 5, "cases": 8}, {"patients": 5}]
    card = model_card(replace(spec, provenance={"patients": 7, "cases": 12, "folds": folds}), None)
    assert "Trained on 12 labelled cases of 7 patients, each network on those of 4 or 5 of them." in card
    assert "Trained on labelled cases of 7 patients." in model_card(replace(spec, provenance={"patients": 7}), None)


def test_what_the_bundle_does_beyond_what_was_measured_is_told(spec: BundleSpec):
    cleaned = replace(spec, post_processing={"largest_component": [1]}, mirror_axes=(0, 1))
    interval = {"estimate": 0.9, "low": 0.8, "high": 1.0}
    arm = {"cases": 3, "patients": 3, "mean_dice": interval, "classes": {}}
    measured = {"task": "segmentation", "arm": "a", "arms": {"a": arm}, "split": "test", "warnings": []}
    card = model_card(cleaned, {**measured, "mirror_axes": {"a": []}})
    assert f"Of {spec.labels[0].name} the largest connected part alone is kept" in card
    assert "Smaller parts of the classes were **not removed** when this was measured" in card
    assert (
        "Images were **not mirrored** when this was measured; in this bundle they are mirrored along axes [0, 1]"
        in card
    )
    same = model_card(spec, {**measured, "mirror_axes": {"a": list(spec.mirror_axes)}})
    assert "when this was measured" not in same
    assert "largest connected part" not in same
