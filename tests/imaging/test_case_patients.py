"""One person has one name in the manifest, whatever the tables, headers and folders leave out."""

from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import ramp, write_series

from medssl.imaging.geometry import Geometry
from medssl.imaging.index import IndexSummary, index_tree
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

_NAMED = {"PatientName": "Meier^Anna", "PatientBirthDate": "19500101"}


def _series(root: Path, folder: str, study: str, **own: object) -> None:
    values = ramp(4) + len(list(root.rglob("*.dcm")))
    number = sum(1 for path in root.rglob("*") if path.is_dir())
    write_series(
        root / folder, values, series=f"1.2.3.{number}", **{"StudyInstanceUID": study, "PatientName": "", **own}
    )


def _nifti(path: Path) -> None:
    array = np.full((1, 4, 5, 6), sum(map(ord, str(path))), np.float32)
    write_nifti(Volume(array, Geometry(np.eye(4), (4, 5, 6))), path)


def _index(root: Path) -> tuple[dict[str, str], IndexSummary]:
    summary = index_tree(root, root.parent / "m.csv")
    return {row.image.removeprefix(f"{root.name}/"): row.patient for row in summary.rows}, summary


def _noted(summary: IndexSummary, *parts: str) -> bool:
    return any(all(part in note for part in parts) for note in summary.notes)


def test_series_of_one_study_without_a_number_are_of_one_patient(tmp_path: Path):
    root = tmp_path / "d"
    for folder, study in (("t1", "1.2.10"), ("t2", "1.2.10"), ("other", "1.2.20")):
        _series(root, folder, study, PatientID="")
    patients, summary = _index(root)
    assert patients["t1"] == patients["t2"] != patients["other"]
    assert not set(patients) & set(patients.values()), "pseudonyms, not names of cases"
    assert _noted(summary, "without a PatientID", "; 2 in all, check the column patient")


def test_a_series_without_a_number_is_of_its_studys_patient(tmp_path: Path):
    root = tmp_path / "d"
    _series(root, "t1", "1.2.10", PatientID="4711")
    _series(root, "t2", "1.2.10", PatientID="")
    patients, summary = _index(root)
    assert patients["t1"] == patients["t2"]
    assert _noted(summary, "without a PatientID", "t2")
    assert not _noted(summary, "without a PatientID", "t1")


def test_name_and_date_of_birth_tell_one_patient_and_neither_alone_does(tmp_path: Path):
    root = tmp_path / "d"
    _series(root, "a", "1.2.10", PatientID="", **_NAMED)
    _series(root, "b", "1.2.20", PatientID="", **_NAMED)
    _series(root, "c", "1.2.20", PatientID="")  # of the study of b
    _series(root, "d", "1.2.30", PatientID="", PatientName="Meier^Anna")
    _series(root, "e", "1.2.40", PatientID="", PatientBirthDate="19500101")
    patients, _ = _index(root)
    assert patients["a"] == patients["b"] == patients["c"]
    assert len(set(patients.values())) == 3


def test_a_study_of_two_numbers_tells_nothing_and_it_is_told(tmp_path: Path):
    root = tmp_path / "d"
    for folder, number in (("a", "1"), ("b", "2"), ("c", "")):
        _series(root, folder, "1.2.10", PatientID=number)
    patients, summary = _index(root)
    assert len(set(patients.values())) == 3
    assert _noted(summary, "warning: without a PatientID", "several patients; fill the column patient: c")


def test_what_a_table_says_holds_for_the_study_too(tmp_path: Path):
    root = tmp_path / "d"
    for folder in ("a", "b"):
        _series(root, folder, "1.2.10", PatientID="")
    (root / "t.csv").write_text("id,patient\na,P1\n")
    assert _index(root)[0] == {"a": "P1", "b": "P1"}


@pytest.mark.parametrize("study", ["1.2.10", "1.2.20"])
def test_names_of_folders_are_believed_where_a_study_would_join_them(tmp_path: Path, study: str):
    """Whoever removes names may write one UID into all studies."""
    root = tmp_path / "d"
    _series(root, "sub-01/a", "1.2.10", PatientID="")
    _series(root, "sub-01/b", "1.2.30", PatientID="")
    _series(root, "sub-02/c", study, PatientID="")
    assert _index(root)[0] == {"sub-01/a": "sub-01", "sub-01/b": "sub-01", "sub-02/c": "sub-02"}


def test_a_table_with_paths_means_each_file(tmp_path: Path):
    root = tmp_path / "d"
    for folder in "abc":
        _nifti(root / folder / "img.nii.gz")
    expected = {f"{folder}/img.nii.gz": folder.upper() for folder in "abc"}
    (root / "t.csv").write_text("file,patient\na/img.nii.gz,A\nb/img,B\n./c/../c/img.nii.gz,C\n")
    assert _index(root)[0] == expected
    (root / "t.csv").unlink()
    (root / "more").mkdir()
    (root / "more" / "t.csv").write_text("file,patient\n../a/img.nii.gz,A\nb/img.nii.gz,B\n" + f"{root}/c/img,C\n")
    patients, summary = _index(root)
    assert patients == expected, "beside the table, from the folder that was searched, or whole"
    assert _noted(summary, "patients of 3 of 3 cases were taken from more/t.csv")
    assert not _noted(summary, "warning")


def test_a_table_in_each_folder_is_for_the_files_beside_it(tmp_path: Path):
    root = tmp_path / "d"
    for folder in "abc":
        _nifti(root / folder / "img.nii.gz")
    for folder in "ab":
        (root / folder / "t.csv").write_text(f"file,patient\nimg.nii.gz,{folder.upper()}\n")
    patients, summary = _index(root)
    assert patients == {"a/img.nii.gz": "A", "b/img.nii.gz": "B", "c/img.nii.gz": "c_img"}
    assert not _noted(summary, "different patients")


def test_a_name_of_several_files_is_taken_where_it_has_one_patient_and_told_otherwise(tmp_path: Path):
    root = tmp_path / "d"
    for folder in "ab":
        for name in ("one", "two"):
            _nifti(root / folder / f"{name}.nii.gz")
    (root / "t.csv").write_text("file,patient\nelsewhere/one.nii.gz,A\none,A\nx/two.nii.gz,A\ny/two.nii.gz,B\n")
    patients, summary = _index(root)
    assert patients == {
        "a/one.nii.gz": "A", "b/one.nii.gz": "A", "a/two.nii.gz": "a_two", "b/two.nii.gz": "b_two"
    }  # fmt: skip
    assert _noted(summary, "warning: t.csv names several patients for two")


def test_a_table_may_name_the_folder_or_a_file_of_a_series(tmp_path: Path):
    root = tmp_path / "d"
    _series(root, "x/scan", "1.2.10", PatientID="4711")
    _series(root, "y/scan", "1.2.20", PatientID="4712")
    (root / "t.csv").write_text("file,patient\nx/scan,P1\ny/scan/002.dcm,P2\n")
    assert _index(root)[0] == {"x/scan": "P1", "y/scan": "P2"}
