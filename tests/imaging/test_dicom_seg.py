"""DICOM-SEG out and in: position, content, identity, conformance."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, write_series
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Code, Label
from medssl.imaging.readers.dicom_labels import inside_polygon
from medssl.imaging.readers.open import read_label, read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_seg import write_dicom_seg

_LABELS = (
    Label(1, "liver", Code("10200004", "SCT", "Liver"), Code("123037004", "SCT", "Anatomical Structure")),
    Label(3, "lesion"),
)
_OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)
_COMPANION = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101"}


def _mask(volume: Volume) -> Volume:
    array = np.zeros((1, *volume.geometry.shape), np.uint8)
    array[0, 2:5, 1:4, 1:3] = 1
    array[0, 6:8, 5:9, 2:] = 3
    return Volume(array, volume.geometry)


def _write(volume: Volume, path: Path) -> None:
    write_dicom_seg(_mask(volume), volume, _LABELS, path, model="test model", key="0123abcd")


def _independent(path: Path) -> set[tuple[int, float, float, float]]:
    """Segment number and LPS place of every voxel set, from the plain attributes, without highdicom."""
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array
    shared = dataset.SharedFunctionalGroupsSequence[0]
    found = set()
    for frame, group in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        orientation = (group.get("PlaneOrientationSequence") or shared.PlaneOrientationSequence)[0]
        row, column = np.reshape(np.array(orientation.ImageOrientationPatient, float), (2, 3))
        spacing = (group.get("PixelMeasuresSequence") or shared.PixelMeasuresSequence)[0].PixelSpacing
        for r, c in np.argwhere(frame):
            place = origin + row * float(spacing[1]) * c + column * float(spacing[0]) * r
            found.add((number, *(round(float(v), 2) for v in place)))
    return found


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), _OBLIQUE])
@pytest.mark.parametrize("step", [2.5, -2.5])
def test_every_voxel_lies_where_the_mask_has_it(tmp_path: Path, orientation: tuple[float, ...], step: float):
    places = [(3, -4, step * k) for k in range(4)]
    write_series(tmp_path / "s", ramp(4), positions=places, orientation=orientation, **_COMPANION)
    volume = read_volume(tmp_path / "s")
    _write(volume, tmp_path / "seg.dcm")
    mask = _mask(volume)
    expected = set()
    for number, label in enumerate(_LABELS, start=1):
        world = volume.geometry.to_world(np.argwhere(mask.array[0] == label.value)) * (-1, -1, 1)
        expected |= {(number, *(round(float(v), 2) for v in place)) for place in world}
    assert {tuple(p) for p in _independent(tmp_path / "seg.dcm")} == expected
    np.testing.assert_array_equal(read_label(tmp_path / "seg.dcm", volume, _LABELS).array, mask.array)


def test_all_frames_codes_references_and_a_stable_identity(tmp_path: Path):
    volume = read_volume(write_series(tmp_path / "s", ramp(4), **_COMPANION))
    _write(volume, tmp_path / "a.dcm")
    _write(volume, tmp_path / "b.dcm")
    first, second = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.dcmread(tmp_path / "b.dcm")
    assert first.SOPInstanceUID == second.SOPInstanceUID
    assert first.SegmentationType == "BINARY"
    assert int(first.NumberOfFrames) == 2 * 4  # every slice of every segment, also the empty ones
    liver = first.SegmentSequence[0]
    assert (liver.SegmentLabel, liver.SegmentedPropertyTypeCodeSequence[0].CodeValue) == ("liver", "10200004")
    assert first.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.1"
    assert len(first.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 4
    assert "research" in first.ContentDescription.lower()


def test_no_dicom_no_seg_and_no_foreign_grid(tmp_path: Path):
    volume = read_volume(write_series(tmp_path / "s", ramp(4), **_COMPANION))
    memory = Volume(volume.array, volume.geometry)
    with pytest.raises(ImageError) as error:
        _write(memory, tmp_path / "a.dcm")
    assert error.value.reason == "not-dicom"
    moved = Volume(_mask(volume).array, Geometry(np.eye(4), volume.geometry.shape))
    with pytest.raises(ImageError) as error:
        write_dicom_seg(moved, volume, _LABELS, tmp_path / "a.dcm", model="m", key="k")
    assert error.value.reason == "label-grid"
    assert not (tmp_path / "a.dcm").exists()


def _errors(path: Path) -> list[str]:
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(tmp_path: Path):
    volume = read_volume(write_series(tmp_path / "s", ramp(4), **_COMPANION))
    _write(volume, tmp_path / "seg.dcm")
    assert _errors(tmp_path / "seg.dcm") == []


_SERIES = (
    "dicom_mr_brain_pgbm/Study3/11-T1post-18670",
    "dicom_mr_brain_pgbm/Study1/13_HCropVolume",
    "dicom_ct_seg_dcmqi/ct-3slice",
    "dicom_ct_seg_dcmqi/24x38x3/multiframe/mf.dcm",
)


@pytest.mark.parametrize("series", _SERIES)
def test_real_series_round_trip_and_conform(real_data: Path, tmp_path: Path, series: str):
    volume = read_volume(real_data / series)
    _write(volume, tmp_path / "seg.dcm")
    read = read_label(tmp_path / "seg.dcm", volume, _LABELS)
    np.testing.assert_array_equal(read.array, _mask(volume).array)
    if shutil.which("dciodvfy"):
        assert set(_errors(tmp_path / "seg.dcm")) <= set(_errors(volume.source.paths[0]))


def test_real_segmentations_are_read(real_data: Path):
    folder = real_data / "dicom_ct_seg_dcmqi"
    volume = read_volume(folder / "ct-3slice")
    liver = read_label(folder / "liver.dcm", volume)
    assert int(liver.array.sum()) == 107098  # counted in the object's pixels
    assert int((pydicom.dcmread(folder / "liver.dcm").pixel_array > 0).sum()) == 107098


def test_even_odd_fill_at_voxel_centres():
    square = np.array([[0.5, 0.5], [0.5, 3.5], [3.5, 3.5], [3.5, 0.5]])
    drawn = inside_polygon(square, (5, 5)).astype(int)
    np.testing.assert_array_equal(
        drawn, [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    )


def _rtstruct(path: Path, contours: dict[str, list[np.ndarray]]) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = "1.2.840.10008.5.1.4.1.1.481.3", ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = meta.MediaStorageSOPClassUID, "1.2.3.99", "RTSTRUCT"
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, polygons) in enumerate(contours.items(), start=1):
        roi, contour = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, contour.ReferencedROINumber = number, name, number
        contour.ContourSequence = []
        for polygon in polygons:
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(polygon)
            item.ContourData = [round(float(v), 3) for v in polygon.ravel()]
            contour.ContourSequence.append(item)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(contour)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_rtstruct_contours_with_a_hole(tmp_path: Path):
    volume = read_volume(write_series(tmp_path / "s", ramp(4)))
    outer = np.array([[0.4, 0.4, 2.5], [4.1, 0.4, 2.5], [4.1, 3.6, 2.5], [0.4, 3.6, 2.5]])
    inner = np.array([[1.4, 1.4, 2.5], [2.6, 1.4, 2.5], [2.6, 2.6, 2.5], [1.4, 2.6, 2.5]])
    path = _rtstruct(tmp_path / "rt.dcm", {"LIVER": [outer, inner], "other": [inner]})
    label = read_label(path, volume, _LABELS)
    plane = label.array[0, :, :, 1]
    expected = np.zeros((12, 10), int)
    expected[1:9, 1:8] = 1  # pixel centres every 0.5 mm: columns 0.5 to 4.0, rows 0.5 to 3.5
    expected[3:6, 3:6] = 0  # 1.5 to 2.5
    np.testing.assert_array_equal(plane, expected)
    assert not label.array[0, :, :, [0, 2, 3]].any()
    assert "other" in label.source.notes[0]
