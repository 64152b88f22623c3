"""Files that are no scan, and files under one SeriesInstanceUID that belong to several: told, never joined."""

from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import ramp, slice_dataset, write_series
from pydicom.uid import RTDoseStorage

from medssl.imaging.errors import ImageError
from medssl.imaging.problems import DAMAGED
from medssl.imaging.readers.open import read_volume
from medssl.imaging.readers.scan import scan_tree


def _series(folder: Path, *each: dict[str, object]) -> Path:
    """Four slices; the last two have other attributes than the first two."""
    folder.mkdir()
    for k in range(4):
        dataset = slice_dataset(ramp(4)[k], (0, 0, 2.5 * k), **each[k // 2])
        dataset.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


def _refused(path: Path, match: str) -> str:
    """Reason of the reader, which is that of the scan for every file."""
    with pytest.raises(ImageError, match=match) as error:
        read_volume(path)
    scan = scan_tree(path)
    assert not scan.images
    assert {problem.reason for problem in scan.problems} == {error.value.reason}
    assert {Path(problem.path) for problem in scan.problems} == set(path.iterdir())
    return error.value.reason


@pytest.mark.parametrize(
    ("attribute", "reason", "match"),
    [
        ("PatientID", "patients", "different patients: their PatientID differ; give each patient's files alone"),
        ("PatientName", "patients", "PatientName"),
        ("PatientBirthDate", "patients", "PatientBirthDate"),
        ("StudyInstanceUID", "mixed-series", "of 2 studies"),
        ("FrameOfReferenceUID", "frame-of-reference", "2 frames of reference"),
    ],
)
def test_files_of_several_people_studies_or_frames_are_no_series(
    tmp_path: Path, attribute: str, reason: str, match: str
):
    """Programs that give every file of a study the same UIDs made one volume of two patients."""
    assert _refused(_series(tmp_path / "a", {attribute: "19500101"}, {attribute: "19510101"}), match) == reason


@pytest.mark.parametrize("attribute", ["PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_what_some_files_do_not_tell_does_not_divide_a_series(tmp_path: Path, attribute: str):
    folder = _series(tmp_path / "a", {attribute: "1.2.77"}, {attribute: ""})
    assert read_volume(folder).array.shape == (1, 12, 10, 4)
    assert len(scan_tree(folder).images) == 1


def test_the_other_patient_is_not_left_out_as_another_grid(tmp_path: Path):
    folder = write_series(tmp_path / "a", ramp(4), PatientID="one")
    other = slice_dataset(ramp(1, 20, 20)[0], (0, 0, 0), PatientID="two")
    other.save_as(folder / "other.dcm", enforce_file_format=True)
    assert _refused(folder, "PatientID") == "patients"


def test_a_mosaic_is_no_slice(tmp_path: Path):
    kind = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    tiled = slice_dataset(np.tile(ramp(1)[0], (3, 3)), (0, 0, 0), ImageType=kind, Modality="MR")
    (tmp_path / "a").mkdir()
    tiled.save_as(tmp_path / "a" / "a.dcm", enforce_file_format=True)
    assert _refused(tmp_path / "a", "convert it with dcm2niix") == "mosaic"


@pytest.mark.parametrize("frames", [1, 3])
def test_doses_are_no_image(tmp_path: Path, frames: int):
    """One frame was read as an image whose numbers are no doses; several were called time points."""
    dose = slice_dataset(ramp(1)[0], (0, 0, 0), Modality="RTDOSE", NumberOfFrames=frames, DoseGridScaling=0.01)
    dose.SOPClassUID, dose.PixelData = RTDoseStorage, ramp(frames).tobytes()
    folder = write_series(tmp_path / "ct", ramp(4))
    (tmp_path / "a").mkdir()
    dose.save_as(tmp_path / "a" / "dose.dcm", enforce_file_format=True)
    assert _refused(tmp_path / "a", "radiation doses") == "not-an-image"
    dose.SeriesInstanceUID = "1.2.9"
    dose.save_as(folder / "dose.dcm", enforce_file_format=True)
    assert read_volume(folder).array.shape == (1, 12, 10, 4)


def test_pictures_without_a_place_are_told_so(tmp_path: Path):
    """Of two radiographs in one series the message was about a pixel spacing of None."""
    folder = tmp_path / "a"
    folder.mkdir()
    for k in range(2):
        picture = slice_dataset(
            ramp(2)[k], (0, 0, 0), Modality="DX", PixelSpacing=None, ImagePositionPatient=None,
            ImageOrientationPatient=None,
        )  # fmt: skip
        picture.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    assert _refused(folder, "2 pictures without a place in the patient make no volume: give the file of one") == (
        "no-orientation"
    )
    assert read_volume(folder / "0.dcm").array.shape == (1, 12, 10)


def test_a_series_of_localizers_alone_is_an_image_and_no_problem(tmp_path: Path):
    write_series(tmp_path, ramp(3), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scan = scan_tree(tmp_path)
    assert len(scan.images) == 1
    assert not scan.problems
    assert read_volume(tmp_path).array.shape == (1, 12, 10, 3)


def test_scan_and_reader_agree_on_a_plane_without_a_position(tmp_path: Path):
    slice_dataset(ramp(1)[0], (0, 0, 0), ImagePositionPatient=None).save_as(
        tmp_path / "a.dcm", enforce_file_format=True
    )
    (found,) = scan_tree(tmp_path).images
    assert found.geometry is None
    assert read_volume(tmp_path).array.shape == (1, 12, 10)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\0" * 4000])
@pytest.mark.parametrize("name", ["003.dcm", "IM0003", "1.2.840.3"])
def test_a_last_slice_that_was_not_written_is_a_damaged_file(tmp_path: Path, content: bytes, name: str):
    """A full disk leaves it, and nothing else tells that the volume is shorter."""
    folder = write_series(tmp_path / "a", ramp(4))
    (folder / "003.dcm").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ImageError, match="copy it again"):
        read_volume(folder)
    (uid,) = {image.series_uid for image in scan_tree(folder).images}
    assert [code for code, _ in read_volume(f"{folder}#{uid}").source.doubts] == ["damaged-files"]
    (problem,) = scan_tree(folder).problems
    assert problem.reason in DAMAGED


@pytest.mark.parametrize("name", ["LOCKFILE", ".DS_Store", "._003.dcm", "notes.txt"])
def test_empty_files_of_other_names_are_no_slices(tmp_path: Path, name: str):
    folder = write_series(tmp_path / "a", ramp(4))
    (folder / name).touch()
    assert read_volume(folder).array.shape == (1, 12, 10, 4)
    (problem,) = scan_tree(folder).problems
    assert problem.reason not in DAMAGED


def test_topograms_alone_are_no_scan(tmp_path: Path):
    write_series(tmp_path / "ct", ramp(4))
    write_series(tmp_path / "scout", ramp(1), series="1.2.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scan = scan_tree(tmp_path)
    assert [image.field for image in scan.images] == [str(tmp_path / "ct")]
    assert [problem.reason for problem in scan.problems] == ["localizer"]
