"""Every file of a messy tree ends in the manifest or in problems.csv."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from dicom_phantom import by_another_program, ramp, slice_dataset, write_series

from medssl.commands.index import index
from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.index import index_tree
from medssl.imaging.labels import Label
from medssl.imaging.manifest import Manifest
from medssl.imaging.problems import read_problems
from medssl.imaging.readers.open import read_volume
from medssl.imaging.readers.scan import scan_tree
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_seg import write_dicom_seg
from medssl.imaging.writers.dicom_source import Maker
from medssl.imaging.writers.nifti import write_nifti


def _nifti(
    path: Path, value: float = 0.0, shape: tuple[int, ...] = (4, 5, 6), affine: np.ndarray | None = None
) -> Path:
    array = np.full((1, *shape), value, np.float32)
    write_nifti(Volume(array, Geometry(np.eye(4) if affine is None else affine, shape)), path)
    return path


def _rows(root: Path, out: Path) -> dict[str, dict[str, str]]:
    index_tree(root, out)
    with out.open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def test_images_and_labels_in_sibling_folders(tmp_path: Path):
    for name in ("a", "b", "c"):
        _nifti(tmp_path / "d" / "train_images" / f"{name}.nii.gz", ord(name))
    _nifti(tmp_path / "d" / "train_labels" / "a.nii.gz")
    _nifti(tmp_path / "d" / "unlabelled" / "x.nii.gz", 9)
    rows = _rows(tmp_path / "d", tmp_path / "m.csv")
    assert sorted(rows) == ["a", "b", "c", "x"]
    assert rows["a"]["label"] == "d/train_labels/a.nii.gz"
    assert rows["b"]["label"] == ""
    assert len(Manifest.read(tmp_path / "m.csv").rows) == 4


def test_nnunet_channels_and_decathlon_list(tmp_path: Path):
    for c in range(2):
        _nifti(tmp_path / "d" / "imagesTr" / f"p1_{c:04d}.nii.gz", c)
    _nifti(tmp_path / "d" / "labelsTr" / "p1.nii.gz")
    _nifti(tmp_path / "e" / "scans" / "q.nii.gz")
    _nifti(tmp_path / "e" / "truth" / "other.nii.gz")
    listed = {"training": [{"image": "./scans/q.nii.gz", "label": "./truth/other.nii.gz"}]}
    (tmp_path / "e" / "dataset.json").write_text(json.dumps(listed))
    rows = _rows(tmp_path / "d", tmp_path / "m.csv")
    assert rows["p1"]["image"] == "d/imagesTr/p1_0000.nii.gz;d/imagesTr/p1_0001.nii.gz"
    assert rows["p1"]["label"] == "d/labelsTr/p1.nii.gz"
    rows = _rows(tmp_path / "e", tmp_path / "n.csv")
    assert list(rows) == ["q"]
    assert rows["q"]["label"].endswith("other.nii.gz")


def test_pictures_in_class_folders(tmp_path: Path):
    for kind in ("benign", "malignant"):
        for n in range(2):
            path = tmp_path / "d" / kind / f"{kind}{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("L", (8, 8), n).save(path)
    rows = _rows(tmp_path / "d", tmp_path / "m.csv")
    assert {name: row["class"] for name, row in rows.items()} == {
        f"{kind}{n}": kind for kind in ("benign", "malignant") for n in range(2)
    }


def test_a_dicom_tree_with_segmentation_localizer_and_duplicate(tmp_path: Path):
    root = tmp_path / "d"
    companion = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "F", "PatientAge": "063Y"}
    companion |= {"Manufacturer": "ACME ", "ManufacturerModelName": "Scan 3"}
    volume = read_volume(write_series(root / "s", ramp(4), **companion))
    mask = Volume((volume.array > 0).astype(np.uint8), volume.geometry)
    write_dicom_seg(mask, volume, (Label(1, "x"),), root / "seg.dcm", Maker("m", "k"))
    by_another_program(root / "seg.dcm")
    scout = slice_dataset(ramp(1)[0], (0, 0, 0), ImageType=["DERIVED", "SECONDARY", "LOCALIZER"])
    scout.save_as(root / "s" / "scout.dcm", enforce_file_format=True)
    slice_dataset(ramp(4)[2], (0, 0, 5.0), **companion).save_as(root / "s" / "again.dcm", enforce_file_format=True)
    rows = _rows(root, tmp_path / "m.csv")
    row = rows["s"]
    assert (row["modality"], row["sex"], row["age"], row["scanner"]) == ("CT", "F", "63", "ACME Scan 3")
    assert row["label"] == "d/seg.dcm"
    assert row["patient"] not in ("patient", "s")  # a pseudonym
    assert row["study"].startswith("s")
    assert "1.2" not in row["study"]  # a hash of the UID
    with (tmp_path / "m.problems.csv").open(newline="") as stream:
        reasons = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(stream)}
    assert reasons["scout.dcm"] == "localizer"
    assert {"again.dcm", "002.dcm"} & {name for name, reason in reasons.items() if reason == "duplicate-slice"}


def _told(folder: Path) -> set[Path]:
    """Every file that the written tables name: files of images, labels, and problems."""
    told = set()
    with (folder / "m.problems.csv").open(newline="") as stream:
        told |= {Path(row["path"]) for row in csv.DictReader(stream)}
    for row in Manifest.read(folder / "m.csv").rows:
        for part in filter(None, [*row.image.split(";"), row.label]):
            path = folder / part.partition("#")[0]
            told |= set(read_volume(folder / part).source.paths) if path.is_dir() else {path}
    return told


def test_no_file_vanishes(tmp_path: Path):
    root = tmp_path / "d"
    write_series(root / "good", ramp(4))
    write_series(root / "gap", ramp(4), positions=[(0, 0, z) for z in (0, 1, 2, 5)], series="1.2.9")
    _nifti(root / "images" / "a.nii.gz")
    _nifti(root / "labels" / "a.nii.gz", shape=(4, 5, 7))
    _nifti(root / "labels" / "lost.nii.gz")
    (root / "images" / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08")
    (root / ".hidden").write_text("x")
    (root / "README.md").write_text("hello")
    (root / "empty.dcm").touch()
    (root / "link").symlink_to(root / "nowhere")
    PIL.Image.new("L", (8, 8), 3).save(root / "picture.png")
    PIL.Image.new("L", (8, 8), 1).save(root / "picture_mask.png")
    PIL.Image.new("L", (9, 8), 1).save(root / "odd#name.png")
    shutil.make_archive(str(root / "zipped"), "zip", root / "good")
    companion = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "F"}
    volume = read_volume(write_series(root / "good2", ramp(4), series="1.2.11", **companion))
    mask = Volume((volume.array > 0).astype(np.uint8), volume.geometry)
    for name in ("seg", "seg_again"):
        write_dicom_seg(mask, volume, (Label(1, "x"),), root / f"{name}.dcm", Maker("m", name))
    summary = index_tree(root, tmp_path / "m.csv")
    assert _told(tmp_path) == {path for path in root.rglob("*") if path.is_file() or path.is_symlink()}
    reasons = {Path(p.path).name: p.reason for p in summary.problems}
    assert reasons["000.dcm"] == "missing-slice"
    assert reasons["cut.nii.gz"] == "truncated"
    assert reasons["empty.dcm"] == "empty-file"
    assert reasons["link"] == "broken-link"
    assert {p.path.rsplit("/", 2)[-2:][0] + "/" + Path(p.path).name: p.reason for p in summary.problems}[
        "labels/a.nii.gz"
    ] == "label-grid"


@pytest.mark.parametrize("zipped", [False, True])
def test_uneven_series_are_cases_where_that_is_asked_for(tmp_path: Path, zipped: bool):
    root = tmp_path / "d"
    write_series(root / "s" / "good", ramp(4))
    gap = write_series(root / "s" / "gap", ramp(4), positions=[(0, 0, z) for z in (0, 1, 2, 5)], series="1.2.9")
    if zipped:
        shutil.make_archive(str(root / "gap"), "zip", gap)
        shutil.rmtree(gap)
    assert [row.case for row in index_tree(root, tmp_path / "m.csv").rows] == ["good"]
    summary = index_tree(root, tmp_path / "m.csv", resample_irregular=True)
    assert sorted(row.case for row in summary.rows) == ["gap", "good"]
    assert not summary.problems
    assert any("uneven or missing" in note and note.endswith(": gap") for note in summary.notes)
    (field,) = (tmp_path / row.image for row in Manifest.read(tmp_path / "m.csv").rows if row.case == "gap")
    with pytest.raises(ImageError):
        read_volume(field)
    (found,) = (image for image in scan_tree(root, resample_irregular=True).images if "gap" in image.field)
    assert found.geometry is not None
    assert found.geometry.is_close(read_volume(field, resample_irregular=True).geometry)


def test_patients_from_a_table_and_identical_images(tmp_path: Path):
    for name in ("l", "r", "z"):
        _nifti(tmp_path / "d" / f"{name}.nii", 0 if name == "r" else 1)
    (tmp_path / "d" / "t.csv").write_text("id,patient\nl,P1\nr,P1\n")
    summary = index_tree(tmp_path / "d", tmp_path / "m.csv")
    assert [row.patient for row in summary.rows] == ["P1", "P1", "z"]
    assert any("identical images" in note and "l, z" in note for note in summary.notes)


def test_the_verb_refuses_missing_empty_and_existing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ImageError, match="does not exist"):
        index(tmp_path / "none", tmp_path / "m.csv")
    (tmp_path / "d").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="is a file"):
        index(tmp_path / "file", tmp_path / "m.csv")
    with pytest.raises(ImageError, match="folder is empty"):
        index(tmp_path / "d", tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()
    _nifti(tmp_path / "d" / "a.nii")
    index(tmp_path / "d", tmp_path / "m.csv")
    assert "found 1 cases of 1 patients" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"m.csv exists already[^$]*m.problems.csv exists already"):
        index(tmp_path / "d", tmp_path / "m.csv")
    _nifti(tmp_path / "d" / "b.nii", 1)
    index(tmp_path / "d", tmp_path / "m.csv", overwrite=True)
    assert "found 2 cases of 2 patients" in capsys.readouterr().out


def test_a_folder_without_a_usable_image_has_its_list_and_the_reason_in_full(tmp_path: Path):
    gap = write_series(tmp_path / "d", ramp(4), positions=[(0, 0, z) for z in (0, 1, 2, 4)])
    (tmp_path / "d" / "README").write_text("hello")
    with pytest.raises(ImageError) as error:
        index(tmp_path / "d", tmp_path / "manifest.csv")
    for part in ("4 missing-slice, 1 not-an-image", str(gap / "000.dcm"), "between slices 3 and 4", "problems.csv"):
        assert part in error.value.message
    told = {Path(p.path).name: p.reason for p in read_problems(tmp_path / "problems.csv")}
    assert told == {f"00{k}.dcm": "missing-slice" for k in range(4)} | {"README": "not-an-image"}
    assert not (tmp_path / "manifest.csv").exists()


def test_series_left_out_because_of_a_damaged_file_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number in range(4):
        folder = write_series(
            tmp_path / "d" / str(number), ramp(4), series=f"1.2.9.{number}", PatientID=f"p{number // 2}"
        )
        if number:
            (folder / "002.dcm").write_bytes((folder / "002.dcm").read_bytes()[:-10])
    index(tmp_path / "d", tmp_path / "manifest.csv")
    told = capsys.readouterr().out
    assert "found 1 cases of 1 patients" in told
    assert "warning: 3 DICOM series of 2 patient(s) left out whole, each because of a damaged file" in told
    assert "left out: 9 file(s), damaged-series" in told
    assert "left out: 3 file(s), truncated" in told


def test_manifests_in_one_folder_have_their_own_problems(tmp_path: Path):
    for name in ("a", "b"):
        _nifti(tmp_path / name / f"{name}.nii")
        (tmp_path / name / f"{name}.txt").write_text("no image")
    out = tmp_path / "out"
    index(tmp_path / "a", out / "manifest.csv")
    index(tmp_path / "b", out / "second.csv")
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.csv",
        "problems.csv",
        "second.csv",
        "second.problems.csv",
    ]
    assert [Path(p.path).name for p in read_problems(out / "problems.csv")] == ["a.txt"]
    assert [Path(p.path).name for p in read_problems(out / "second.problems.csv")] == ["b.txt"]


def test_a_manifest_inside_the_folder_is_no_patient_table(tmp_path: Path):
    _nifti(tmp_path / "a.nii")
    index(tmp_path, tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text((tmp_path / "m.csv").read_text().replace("a,a,", "a,wrong,"))
    index(tmp_path, tmp_path / "m.csv", overwrite=True)
    assert Manifest.read(tmp_path / "m.csv").rows[0].patient == "a"


def test_nothing_is_left_behind_where_the_manifest_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _nifti(tmp_path / "d" / "a.nii")
    (tmp_path / "out").mkdir()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        index(tmp_path / "d", tmp_path / "out" / "m.csv")
    assert list((tmp_path / "out").iterdir()) == []


def test_real_decathlon_folder(real_data: Path, tmp_path: Path):
    summary = index_tree(real_data / "msd_hippocampus_dev", tmp_path / "m.csv")
    assert len(summary.rows) == 200
    assert sum(bool(row.label) for row in summary.rows) == 199
    assert len({row.patient for row in summary.rows if row.label}) == 130
