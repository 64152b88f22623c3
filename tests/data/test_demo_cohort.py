import json
from pathlib import Path

import numpy as np
import pytest

from medssl.data.demo_cohort import Cohort, write_cohort
from medssl.imaging.readers.open import read_volume

pytest.importorskip("nilearn", reason="the demo extra is not installed")
_COHORT = Cohort(patients=4, labelled=2, dicom_every=2, spacing_mm=8, seed=3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, _COHORT)
    return folder


def test_labelled_patients_are_nifti_and_each_second_other_one_is_dicom(cohort: Path):
    assert sorted(p.name for p in (cohort / "labels").iterdir()) == ["demo001.nii.gz", "demo002.nii.gz"]
    assert sorted(p.name for p in (cohort / "images").iterdir()) == [
        "demo001.nii.gz",
        "demo002.nii.gz",
        "demo004.nii.gz",
    ]
    assert [p.name for p in (cohort / "dicom").iterdir()] == ["demo003"]


def test_labels_follow_the_tissues_and_all_occur(cohort: Path):
    image, label = (read_volume(cohort / kind / "demo001.nii.gz") for kind in ("images", "labels"))
    assert set(np.unique(label.array)) == {0, 1, 2}
    means = [image.array[label.array == value].mean() for value in (1, 2)]
    assert means[0] < means[1]


def test_the_dicom_series_lies_where_the_template_lies(cohort: Path):
    series, nifti = read_volume(cohort / "dicom" / "demo003"), read_volume(cohort / "images" / "demo001.nii.gz")
    assert series.geometry.is_close(nifti.geometry)
    assert series.modality == "MR"


def test_the_same_seed_gives_the_same_patients_and_another_seed_others(tmp_path: Path, cohort: Path):
    write_cohort(tmp_path / "same", _COHORT)
    write_cohort(tmp_path / "other", Cohort(patients=1, labelled=1, spacing_mm=8, seed=4))
    first, same, other = (
        read_volume(folder / "images" / "demo001.nii.gz").array
        for folder in (cohort, tmp_path / "same", tmp_path / "other")
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_it_says_everywhere_that_it_is_synthetic(cohort: Path):
    assert "SYNTHETIC" in json.loads((cohort / "README.json").read_text())["what"]
    assert b"SYNTHETIC" in next((cohort / "dicom" / "demo003").iterdir()).read_bytes()
