"""Names, folders and lists: which label, which channel, which class, which patient."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from dicom_phantom import by_another_program, ramp, write_series

from medssl.imaging.geometry import Geometry
from medssl.imaging.index import IndexSummary, index_tree
from medssl.imaging.labels import Label
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.naming import bids_subject, unique_names
from medssl.imaging.readers.open import read_volume
from medssl.imaging.readers.scan import scan_tree
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_seg import write_dicom_seg
from medssl.imaging.writers.dicom_source import Maker
from medssl.imaging.writers.nifti import write_nifti

_COMPANION = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "F"}


def _nifti(path: Path, *, shape: tuple[int, ...] = (4, 5, 6), affine: np.ndarray | None = None, seed: int = 0) -> Path:
    array = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    write_nifti(Volume(array, Geometry(np.eye(4) if affine is None else affine, shape)), path)
    return path


def _picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40), np.uint8)).save(path)
    return path


def _index(tmp_path: Path) -> tuple[dict[str, Row], IndexSummary]:
    """Rows by case of the folder `d`, and what was said; the manifest is read back with all its checks."""
    summary = index_tree(tmp_path / "d", tmp_path / "m.csv")
    assert Manifest.read(tmp_path / "m.csv").rows == summary.rows
    return {row.case: row for row in summary.rows}, summary


def _reasons(summary: IndexSummary) -> dict[str, str]:
    return {Path(problem.path).name: problem.reason for problem in summary.problems}


def test_masks_beside_their_images(tmp_path: Path):
    for name in ("a", "a_mask", "b_t1", "b_seg", "c_t1", "c_t2", "c_seg", "lost-label"):
        _nifti(tmp_path / "d" / "x" / f"{name}.nii.gz")
    for patient in ("p1", "p2"):
        for name in ("image", "mask"):
            _nifti(tmp_path / "d" / patient / f"{name}.nii.gz")
    rows, summary = _index(tmp_path)
    labels = {case: Path(row.label).name for case, row in rows.items()}
    assert labels == {
        "a": "a_mask.nii.gz",
        "b_t1": "b_seg.nii.gz",
        "c_t1": "",  # two images could be meant
        "c_t2": "",
        "p1_image": "mask.nii.gz",
        "p2_image": "mask.nii.gz",
    }
    assert rows["p2_image"].label == "d/p2/mask.nii.gz"
    assert _reasons(summary) == {"c_seg.nii.gz": "label-without-image", "lost-label.nii.gz": "label-without-image"}


def test_a_label_folder_of_another_name_beside_the_images(tmp_path: Path):
    for folder in ("images", "semantic_masks", "instance_masks"):
        _picture(tmp_path / "d" / folder / "a.png")
    _picture(tmp_path / "d" / "images" / "b.png", 1)
    _picture(tmp_path / "d" / "liver_masks" / "b.png", 1)
    _picture(tmp_path / "d" / "tumour_masks" / "b.png", 1)
    rows, summary = _index(tmp_path)
    assert rows["a"].label == "d/semantic_masks/a.png", "instances are no class map"
    assert rows["b"].label == "", "two label maps of one image could be meant"
    assert set(_reasons(summary).values()) == {"label-without-image"}


def test_channels_are_told_from_running_numbers(tmp_path: Path):
    for number in range(3):
        _picture(tmp_path / "d" / "one" / f"slice_{number:04d}.png", number)
    for name in ("u", "v"):
        for number in range(2):
            _picture(tmp_path / "d" / "two" / f"{name}_{number:04d}.png", number)
    _nifti(tmp_path / "d" / "imagesTr" / "w_0000.nii.gz")
    rows, _ = _index(tmp_path)
    assert {case: row.image.count(";") + 1 for case, row in rows.items()} == {
        "slice_0000": 1,
        "slice_0001": 1,
        "slice_0002": 1,
        "u": 2,
        "v": 2,
        "w": 1,
    }


def test_channels_on_two_grids_are_left_out_with_their_label(tmp_path: Path):
    _nifti(tmp_path / "d" / "imagesTr" / "p_0000.nii.gz")
    _nifti(tmp_path / "d" / "imagesTr" / "p_0001.nii.gz", affine=np.diag([2.0, 1, 1, 1]))
    _nifti(tmp_path / "d" / "labelsTr" / "p.nii.gz")
    _nifti(tmp_path / "d" / "imagesTr" / "q_0000.nii.gz")
    rows, summary = _index(tmp_path)
    assert list(rows) == ["q"]
    assert _reasons(summary) == dict.fromkeys(("p_0000.nii.gz", "p_0001.nii.gz", "p.nii.gz"), "channel-grid")


def test_a_label_of_another_place_is_told(tmp_path: Path):
    moved = np.eye(4)
    moved[0, 3] = 5
    _nifti(tmp_path / "d" / "images" / "a.nii.gz")
    _nifti(tmp_path / "d" / "labels" / "a.nii.gz", affine=moved)
    rows, summary = _index(tmp_path)
    assert rows["a"].label == ""
    assert summary.problems[0].reason == "label-grid"
    assert "affine" in summary.problems[0].message


def test_a_nifti_label_of_a_dicom_folder(tmp_path: Path):
    write_series(tmp_path / "d" / "images" / "p7", ramp(4))
    volume = read_volume(tmp_path / "d" / "images" / "p7")
    write_nifti(Volume((volume.array > 0).astype(np.uint8), volume.geometry), tmp_path / "d" / "labels" / "p7.nii.gz")
    rows, summary = _index(tmp_path)
    assert rows["p7"].label == "d/labels/p7.nii.gz"
    assert summary.problems == ()


def test_of_several_label_objects_of_a_series_none_is_taken(tmp_path: Path):
    volume = read_volume(write_series(tmp_path / "d" / "s", ramp(4), **_COMPANION))
    mask = Volume((volume.array > 0).astype(np.uint8), volume.geometry)
    for name in ("one", "two"):
        write_dicom_seg(mask, volume, (Label(1, "x"),), tmp_path / "d" / f"{name}.dcm", Maker("m", name))
        by_another_program(tmp_path / "d" / f"{name}.dcm")
    rows, summary = _index(tmp_path)
    assert rows["s"].label == ""
    assert _reasons(summary) == {"one.dcm": "label-without-image", "two.dcm": "label-without-image"}
    assert "another label object refers to the same series" in summary.problems[0].message
    assert any("warning: 2 label objects refer to one series; none was taken" in note for note in summary.notes)


@pytest.mark.parametrize("grids", [1, 2])
def test_a_label_file_of_a_folder_goes_to_the_only_series_that_it_fits(tmp_path: Path, grids: int):
    folder = tmp_path / "d" / "images" / "p1"
    first = read_volume(write_series(folder / "a", ramp(4), series="1.2.1", **_COMPANION))
    write_series(folder / "b", ramp(4 if grids == 1 else 5), series="1.2.2", **_COMPANION)
    for part in ("a", "b"):
        for file in list((folder / part).iterdir()):
            file.rename(folder / f"{part}{file.name}")
        (folder / part).rmdir()
    mask = Volume((first.array > 0).astype(np.float32), first.geometry)
    write_nifti(mask, tmp_path / "d" / "labels" / "p1.nii.gz")
    rows, summary = _index(tmp_path)
    labels = {case: row.label for case, row in rows.items()}
    if grids == 2:
        assert labels == {"p1_1": "d/labels/p1.nii.gz", "p1_2": ""}
        assert _reasons(summary) == {}
    else:
        assert labels == {"p1_1": "", "p1_2": ""}
        assert _reasons(summary) == {"p1.nii.gz": "several-series"}
        assert "it lies on the grid of 2 series of one folder, and none was given it" in summary.problems[0].message


def test_names_that_3d_slicer_gives_segmentations(tmp_path: Path):
    for name in ("a", "a.seg", "b", "b_seg.seg", "alone/scan", "alone/Segmentation.seg"):
        _nifti(tmp_path / "d" / f"{name}.nii.gz")
    _nifti(tmp_path / "d" / "images" / "c.nii.gz")
    _nifti(tmp_path / "d" / "labels" / "c.seg.nii.gz")
    rows, summary = _index(tmp_path)
    assert {case: Path(row.label).name for case, row in rows.items()} == {
        "a": "a.seg.nii.gz",
        "b": "b_seg.seg.nii.gz",
        "scan": "Segmentation.seg.nii.gz",
        "c": "c.seg.nii.gz",
    }
    assert _reasons(summary) == {}


def test_decathlon_facts_and_a_damaged_label(tmp_path: Path):
    for name in ("a", "b"):
        _nifti(tmp_path / "d" / "imagesTr" / f"{name}.nii.gz")
    _nifti(tmp_path / "d" / "labelsTr" / "a.nii.gz")
    (tmp_path / "d" / "labelsTr" / "b.nii.gz").write_bytes(b"\x1f\x8b\x08")
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
    content = {"modality": {"0": "MRI"}, "licence": "CC-BY-SA 4.0", "training": training}
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(content))
    rows, summary = _index(tmp_path)
    assert [(r.modality, r.licence, bool(r.label)) for r in rows.values()] == [
        ("MR", "CC-BY-SA 4.0", True),
        ("MR", "CC-BY-SA 4.0", False),
    ]
    assert _reasons(summary) == {"b.nii.gz": "truncated", "dataset.json": "table"}


@pytest.mark.parametrize("text", ["[1]", "{", '{"training": 3}', '{"name": "other program"}'])
def test_a_foreign_dataset_json_is_no_obstacle(tmp_path: Path, text: str):
    _nifti(tmp_path / "d" / "a.nii")
    (tmp_path / "d" / "dataset.json").write_text(text)
    rows, summary = _index(tmp_path)
    assert list(rows) == ["a"]
    assert _reasons(summary) == {"dataset.json": "not-an-image"}


def test_class_folders_below_split_folders(tmp_path: Path):
    for split in ("train", "test"):
        for number, kind in enumerate(("benign", "malignant")):
            _picture(tmp_path / "d" / split / kind / "1.png", number + 2 * (split == "test"))
    rows, summary = _index(tmp_path)
    assert {case: (row.class_name, row.split) for case, row in rows.items()} == {
        f"{split}_{kind}_1": (kind, "") for split in ("train", "test") for kind in ("benign", "malignant")
    }
    assert any("look like a split" in note for note in summary.notes)


def test_patients_of_the_brain_imaging_data_structure(tmp_path: Path):
    for name in ("sub-01/ses-1/anat/sub-01_ses-1_T1w", "sub-01/ses-2/anat/sub-01_ses-2_T1w", "sub-02/anat/sub-02_T1w"):
        _nifti(tmp_path / "d" / f"{name}.nii.gz", seed=len(name))
    rows, summary = _index(tmp_path)
    assert [row.patient for row in rows.values()] == ["sub-01", "sub-01", "sub-02"]
    assert [row.study for row in rows.values()] == ["sub-01_ses-1", "sub-01_ses-2", ""]
    assert any("Brain Imaging Data Structure" in note for note in summary.notes)
    assert bids_subject(Path("subject/a.nii")) == ""


def test_tables_that_disagree_and_tables_of_others(tmp_path: Path):
    for name in ("a", "b"):
        _nifti(tmp_path / "d" / f"{name}.nii", seed=ord(name))
    (tmp_path / "d" / "one.csv").write_text("\ufeffID;Patient\na.nii;P1\nb.nii;P1\n", encoding="utf-8")
    (tmp_path / "d" / "two.csv").write_text("id,patient\nb,P2\n")
    (tmp_path / "d" / "foreign.csv").write_text("id,patient\nzzz,P9\n")
    rows, summary = _index(tmp_path)
    assert [row.patient for row in rows.values()] == ["P1", "P2"]
    assert any("two.csv and another table name different patients for b" in note for note in summary.notes)
    assert not any("foreign" in note for note in summary.notes)


def test_names_stay_apart(tmp_path: Path):
    names = ["1", "1", "1_2", "A b", "a_b", "x", "x"]
    places = [Path(p) for p in ("a/1.png", "b/1.png", "b/1_2.png", "A b.png", "c/a_b.png", "q/x.png", "q/x.jpg")]
    made = unique_names(names, places)
    assert made == ["a_1", "b_1", "1_2", "A_b", "c_a_b", "q_x", "q_x_2"]


def test_paths_that_a_manifest_cannot_hold(tmp_path: Path):
    for seed, name in enumerate(("a;b.png", "scan #1.png", "good.png", " e.png")):
        _picture(tmp_path / "d" / name, seed)
    rows, summary = _index(tmp_path)
    assert sorted(rows) == ["_e", "good"]  # a space at the start of a name is inside the path, and kept
    assert _reasons(summary) == {"a;b.png": "unusable-name", "scan #1.png": "unusable-name"}
    for row in rows.values():
        assert read_volume(tmp_path / row.image).array.shape == (1, 40, 40)


def test_copies_of_an_image_under_two_patients(tmp_path: Path, rng: np.random.Generator):
    smooth = np.kron(rng.integers(0, 255, (16, 16)), np.ones((16, 16))).astype(np.uint8)
    (tmp_path / "d").mkdir()
    PIL.Image.fromarray(smooth).save(tmp_path / "d" / "first.png")
    PIL.Image.fromarray(smooth).save(tmp_path / "d" / "saved_anew.jpg", quality=80)
    PIL.Image.fromarray((smooth * 0.9).astype(np.uint8)).save(tmp_path / "d" / "darker.png")
    PIL.Image.fromarray(smooth[::-1]).save(tmp_path / "d" / "other.png")
    PIL.Image.new("L", smooth.shape, 7).save(tmp_path / "d" / "blank.png")
    PIL.Image.new("L", smooth.shape, 9).save(tmp_path / "d" / "blank2.png")
    _, summary = _index(tmp_path)
    warned = [note for note in summary.notes if "identical" in note]
    assert len(warned) == 1
    assert "nearly identical images under different patients: darker, first, saved_anew;" in warned[0]


def test_a_series_exported_twice_under_two_names(tmp_path: Path):
    for n, patient in enumerate(("Smith", "anonymous")):
        write_series(tmp_path / "d" / f"s{n}", ramp(4), series=f"1.2.7.{n}", PatientID=patient, **_COMPANION)
    _, summary = _index(tmp_path)
    assert any("nearly identical images under different patients: s0, s1;" in note for note in summary.notes)


def test_zip_files_are_looked_into(tmp_path: Path):
    write_series(tmp_path / "s", ramp(4), PatientAge="063Y")
    (tmp_path / "d").mkdir()
    shutil.make_archive(str(tmp_path / "d" / "good"), "zip", tmp_path / "s")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no image")
    shutil.make_archive(str(tmp_path / "d" / "text"), "zip", tmp_path / "text")
    (tmp_path / "d" / "cut.zip").write_bytes((tmp_path / "d" / "good.zip").read_bytes()[:200])
    rows, summary = _index(tmp_path)
    assert [(row.case, row.modality, row.age) for row in rows.values()] == [("good", "CT", "63")]
    assert set(_reasons(summary)) == {"text.zip", "cut.zip"}


def test_one_patient_id_for_all(tmp_path: Path):
    for n in range(4):
        write_series(tmp_path / "d" / f"s{n}", ramp(4) + n, series=f"1.2.7.{n}", **_COMPANION)
    rows, summary = _index(tmp_path)
    assert len({row.patient for row in rows.values()}) == 1
    assert any("one PatientID" in note for note in summary.notes)


def test_closed_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _nifti(tmp_path / "d" / "a.nii")
    (tmp_path / "d" / "closed").mkdir()
    scandir = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    scan = scan_tree(tmp_path / "d")
    assert len(scan.images) == 1
    assert [(Path(p.path).name, p.reason) for p in scan.problems] == [("closed", "no-permission")]


def test_links_to_folders_are_told(tmp_path: Path):
    _nifti(tmp_path / "elsewhere" / "x.nii")
    _nifti(tmp_path / "d" / "a.nii")
    (tmp_path / "d" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d" / "circle").symlink_to(tmp_path / "d")
    rows, summary = _index(tmp_path)
    assert list(rows) == ["a"]
    assert _reasons(summary) == {"link": "linked-folder", "circle": "linked-folder"}
