"""The verb as a clinician runs it, on files and on mistakes."""

import csv
import errno
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_phantom import ramp, write_series
from tiny_bundle import write_bundle

from medssl.__main__ import main
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.runtime.bundle import Bundle
from medssl.runtime.inputs import case_names, find_cases
from medssl.runtime.predictor import Prediction, Predictor

_COMPANION = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def _nifti(path: Path, shape: tuple[int, ...] = (9, 10, 11)) -> Path:
    values = np.random.default_rng(1).uniform(0, 30, size=(1, *shape)).astype(np.float32)
    write_nifti(Volume(values, Geometry(np.diag([0.5, 0.5, 2.5, 1]), shape)), path)
    return path


def test_a_nifti_file_gives_mask_report_and_summary(bundle: Path, tmp_path: Path):
    image = _nifti(tmp_path / "scan.nii.gz")
    assert main(["predict", str(bundle), str(image), "--out", str(tmp_path / "out"), "--format", "nifti,json,png"]) == 0
    folder = tmp_path / "out" / "scan"
    assert sorted(p.name for p in folder.iterdir()) == ["overlay.png", "report.json", "seg.nii.gz"]
    mask = nib.load(folder / "seg.nii.gz")
    np.testing.assert_allclose(mask.affine, nib.load(image).affine)
    voxels = nib.load(image).get_fdata()
    np.testing.assert_array_equal(mask.get_fdata(), (voxels > 10).astype(int) + (voxels > 20))
    report = json.loads((folder / "report.json").read_text())
    with (tmp_path / "out" / "summary.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["status"] == "ok"
    assert float(row["low_ml"]) == report["labels"][0]["volume_ml"]


def test_a_tree_with_one_bad_case_finishes_the_others(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _nifti(tmp_path / "in" / "a.nii.gz")
    write_series(tmp_path / "in" / "series", (ramp(4) % 30).astype(np.int16), **_COMPANION)
    bad = _nifti(tmp_path / "in" / "b.nii.gz")
    bad.write_bytes(bad.read_bytes()[:-40])
    assert main(["predict", str(bundle), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    with (tmp_path / "out" / "summary.csv").open(newline="") as stream:
        rows = {row["case"] or Path(row["input"]).name: row["status"] for row in csv.DictReader(stream)}
    assert rows == {"a": "ok", "b.nii.gz": "truncated", "series": "ok"}
    told = capsys.readouterr()
    assert "left out: 1 file(s) that are part of no case (1 truncated)" in told.out + told.err
    assert "0 of 2 case(s) failed, and 1 damaged file(s) are part of no case" in told.err
    assert not (tmp_path / "out" / "b").exists()
    assert not list((tmp_path / "out").glob(".partial*"))


def test_a_series_lost_by_a_damaged_slice_is_told(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        write_series(tmp_path / "in" / name, (ramp(4) % 30).astype(np.int16), series=f"1.2.{ord(name)}", **_COMPANION)
    cut = tmp_path / "in" / "b" / "001.dcm"
    cut.write_bytes(cut.read_bytes()[:-10])
    assert main(["predict", str(bundle), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert "left out: 4 file(s) that are part of no case (3 damaged-series, 1 truncated)" in told.out + told.err
    assert f"1 damaged file(s) are part of no case; see {tmp_path / 'out'}" in told.err
    assert f"{cut} is cut" in told.err
    with (tmp_path / "out" / "summary.csv").open(newline="") as stream:
        rows = {Path(row["input"]).name: row["message"] for row in csv.DictReader(stream) if not row["case"]}
    assert f"its series was left out whole, because {cut} of it is cut" in rows["000.dcm"]


@pytest.mark.parametrize("positions", [(0, 1, 2, 4), (0, 1, 2, 3.4)])
def test_uneven_series_of_a_folder_are_resampled_where_that_is_asked_for(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], positions: tuple[float, ...]
):
    places = [(0, 0, 2.5 * z) for z in positions]
    write_series(tmp_path / "in" / "a", (ramp(4) % 30).astype(np.int16), positions=places, **_COMPANION)
    arguments = ["predict", str(bundle), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "holds no image that can be used: 4 " in told
    assert f"{tmp_path / 'in' / 'a' / '000.dcm'}: series 1.2.3.1: " in told
    assert "resample_irregular" in told
    assert main([*arguments, "--resample_irregular"]) == 0
    assert _statuses(tmp_path / "out") == {"a": "ok"}
    report = json.loads((tmp_path / "out" / "a" / "report.json").read_text())
    assert any("uneven slices were resampled" in warning for warning in report["warnings"])


def test_dicom_seg_from_dicom_only(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    series = write_series(tmp_path / "series", (ramp(4) % 30).astype(np.int16), **_COMPANION)
    out = str(tmp_path / "out")
    assert main(["predict", str(bundle), str(series), "--out", out, "--format", "dicom-seg"]) == 0
    assert [p.name for p in (tmp_path / "out" / "series").iterdir()] == ["seg.dcm"]
    image = str(_nifti(tmp_path / "a.nii.gz"))
    assert main(["predict", str(bundle), image, "--out", out, "--format", "dicom-seg,json"]) == 2
    assert "not-dicom" in capsys.readouterr().err
    assert not (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["BUNDLE", "absent.nii.gz", "--out", "OUT"], "absent.nii.gz does not exist"),
        (["BUNDLE", "IMAGE", "--out", "OUT", "--format", "nifty"], "choose from nifti, dicom-seg, dicom-seg-labelmap"),
        (["BUNDLE", "IMAGE", "--out", "OUT", "--treads", "2"], "did you mean threads?"),
        (["BUNDLE", "IMAGE", "--out", "OUT", "--threads", "two"], "option threads = 'two'"),
        (["BUNDLE", "IMAGE", "--out", "OUT", "--memory-mb", "50"], "memory_mb must be 500 or more"),
        (["BUNDLE", "IMAGE", "--out", "OUT", "--batch_size", "-1"], "batch_size must be 1 or more"),
        (["BUNDLE", "IMAGE", "--out", "OUT", "--threads", "-1"], "threads must be 0 or more"),
        (["BUNDLE", "IMAGE", "--out", "OUT", "--device", "cuda"], "device cuda: this ONNX Runtime offers"),
        (["BUNDLE", "IMAGE"], "out is missing"),
        (["none", "IMAGE", "--out", "OUT"], "bundle none does not exist"),
        (["BUNDLE", "EMPTY", "--out", "OUT"], "holds no image"),
        (["BUNDLE", "IMAGE", "--out", "IMAGE/x"], "error (file)"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(
    bundle: Path, tmp_path: Path, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty").mkdir()
    image = _nifti(tmp_path / "scan.nii.gz")
    names = {
        "BUNDLE": bundle,
        "IMAGE": image,
        "OUT": tmp_path / "out",
        "EMPTY": tmp_path / "empty",
        "IMAGE/x": image / "x",
    }
    assert main(["predict", *(str(names.get(a, a)) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_results_are_not_overwritten_unless_asked(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["predict", str(bundle), str(_nifti(tmp_path / "a.nii.gz")), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "already holds results of 1 case(s)" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_overwriting_leaves_no_result_of_an_earlier_call_to_a_case_that_fails(bundle: Path, tmp_path: Path):
    image = _nifti(tmp_path / "a.nii.gz")
    arguments = ["predict", str(bundle), str(image), "--out", str(tmp_path / "out"), "--overwrite"]
    assert main(arguments) == 0
    image.write_bytes(image.read_bytes()[:-40])
    assert main(arguments) == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["summary.csv"]


def test_results_never_replace_their_images_nor_files_of_others(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    series = write_series(tmp_path / "in" / "ct", (ramp(4) % 30).astype(np.int16), **_COMPANION)
    arguments = ["predict", str(bundle), str(series), "--overwrite", "--out"]
    assert main([*arguments, str(tmp_path / "in")]) == 2
    assert "would replace its images" in capsys.readouterr().err
    assert len(list(series.iterdir())) == 4
    (tmp_path / "out" / "ct").mkdir(parents=True)
    for name in ("notes.txt", "seg.nii.gz"):
        (tmp_path / "out" / "ct" / name).touch()
    (series / "003.dcm").write_bytes(b"")
    assert main([*arguments, str(tmp_path / "out")]) == 2
    assert [path.name for path in (tmp_path / "out" / "ct").iterdir()] == ["notes.txt"]


def test_the_name_of_one_case_is_never_that_of_another_in_the_next_call():
    assert case_names(["/d/A/CT", "/d/B/CT"]) == ["A_CT", "B_CT"]
    assert case_names(["/d/A/CT", "/d/A2/CT", "/d/B/CT"]) == ["A_CT", "A2_CT", "B_CT"]
    assert case_names(["/d/A/CT", "/d/B/CT", "/d/B/MR"]) == ["A_CT", "B_CT", "MR"]
    assert case_names(["/d/A#1.2.31", "/d/A#1.2.32"]) == ["A_31", "A_32"]
    assert case_names(["/d/a.nii.gz", "/d/a.nii.gz"]) == ["a", "a_2"]


def test_cases_of_one_name_do_not_collide(bundle: Path, tmp_path: Path):
    first, second = _nifti(tmp_path / "x" / "a.nii.gz"), _nifti(tmp_path / "y" / "a.nii.gz")
    assert main(["predict", str(bundle), str(first), str(second), "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["summary.csv", "x_a", "y_a"]


def test_a_series_without_a_frame_of_reference_stops_neither_the_others_nor_the_summary(bundle: Path, tmp_path: Path):
    volume = (ramp(4) % 30).astype(np.int16)
    write_series(tmp_path / "in" / "a", volume, FrameOfReferenceUID=None, **_COMPANION)
    write_series(tmp_path / "in" / "b", volume, series="1.2.3.2", **_COMPANION)
    out = tmp_path / "out"
    for name in ("dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional"):
        arguments = ["predict", str(bundle), str(tmp_path / "in"), "--out", str(out), "--format", name, "--overwrite"]
        assert main(arguments) == 2
        assert _statuses(out) == {"a": "no-frame-of-reference", "b": "ok"}


def _statuses(out: Path) -> dict[str, str]:
    with (out / "summary.csv").open(newline="") as stream:
        return {row["case"]: row["status"] for row in csv.DictReader(stream)}


@pytest.mark.parametrize(
    ("error", "statuses"),
    [(RuntimeError("odd"), {"a": "unexpected", "b": "ok"}), (OSError(errno.ENOSPC, "disk full"), {})],
)
def test_the_summary_is_written_whatever_is_raised(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, statuses: dict[str, str]
):
    predict = Predictor.predict

    def breaks(self: Predictor, volume: Volume, shares: bool = False) -> Prediction:
        if volume.source.paths[0].name == "a.nii.gz":
            raise error
        return predict(self, volume, shares)

    monkeypatch.setattr(Predictor, "predict", breaks)
    for name in ("a", "b"):
        _nifti(tmp_path / "in" / f"{name}.nii.gz")
    assert main(["predict", str(bundle), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    assert _statuses(tmp_path / "out") == statuses


def test_a_file_that_is_gone_before_its_turn_stops_nobody(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gone, there = _nifti(tmp_path / "in" / "a.nii.gz"), _nifti(tmp_path / "in" / "b.nii.gz")
    spec = Bundle.open(bundle).spec
    cases = find_cases([str(gone), str(there)], spec)
    monkeypatch.setattr("medssl.runtime.inputs.find_cases", lambda *_, **__: cases)
    gone.unlink()
    assert main(["predict", str(bundle), str(there), "--out", str(tmp_path / "out")]) == 2
    found = _statuses(tmp_path / "out")
    assert found.pop("a") != "ok"
    assert found == {"b": "ok"}
