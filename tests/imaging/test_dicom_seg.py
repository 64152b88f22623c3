"""DICOM-SEG out and in: position, content, identity, conformance."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_phantom import ramp, slice_dataset, write_series
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from result_objects import errors_of, judged

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Code, Label
from medssl.imaging.readers.dicom_labels import inside_polygon
from medssl.imaging.readers.open import read_label, read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_seg import write_dicom_seg
from medssl.imaging.writers.dicom_source import Maker

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
    write_dicom_seg(_mask(volume), volume, _LABELS, path, Maker("test model", "0123abcd"))


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


def _expected(mask: Volume) -> set[tuple[int, float, float, float]]:
    """What `_independent` must find: by the affine of the mask."""
    found = set()
    for number, label in enumerate(_LABELS, start=1):
        world = mask.geometry.to_world(np.argwhere(mask.array[0] == label.value)) * (-1, -1, 1)
        found |= {(number, *(round(float(v), 2) for v in place)) for place in world}
    return found


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), _OBLIQUE])
@pytest.mark.parametrize("step", [2.5, -2.5])
def test_every_voxel_lies_where_the_mask_has_it(tmp_path: Path, orientation: tuple[float, ...], step: float):
    places = [(3, -4, step * k) for k in range(4)]
    write_series(tmp_path / "s", ramp(4), positions=places, orientation=orientation, **_COMPANION)
    volume = read_volume(tmp_path / "s")
    _write(volume, tmp_path / "seg.dcm")
    mask = _mask(volume)
    assert _independent(tmp_path / "seg.dcm") == _expected(mask)
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


def test_a_large_object_leaves_its_empty_frames_out_and_a_huge_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    volume = read_volume(write_series(tmp_path / "s", ramp(5), **_COMPANION))
    monkeypatch.setattr("medssl.imaging.writers.dicom_seg._EVERY_FRAME", 0)
    _write(volume, tmp_path / "seg.dcm")
    mask = _mask(volume)
    assert int(pydicom.dcmread(tmp_path / "seg.dcm").NumberOfFrames) == 2 + 3
    assert _independent(tmp_path / "seg.dcm") == _expected(mask)
    np.testing.assert_array_equal(read_label(tmp_path / "seg.dcm", volume, _LABELS).array, mask.array)
    empty = Volume(np.zeros_like(mask.array), volume.geometry)
    write_dicom_seg(empty, volume, _LABELS, tmp_path / "empty.dcm", Maker("test model", "0123abcd"))
    assert not read_label(tmp_path / "empty.dcm", volume, _LABELS).array.any()
    assert int(pydicom.dcmread(tmp_path / "empty.dcm").NumberOfFrames) == 1  # all of them may be gigabytes of nothing
    monkeypatch.setattr("medssl.imaging.writers.dicom_seg._MOST_BYTES", 1)
    with pytest.raises(ImageError, match=r"binary DICOM-SEG of 5 frames .* take dicom-seg-labelmap or nifti"):
        _write(volume, tmp_path / "huge.dcm")


def test_no_dicom_no_seg_and_no_foreign_grid(tmp_path: Path):
    volume = read_volume(write_series(tmp_path / "s", ramp(4), **_COMPANION))
    memory = Volume(volume.array, volume.geometry)
    with pytest.raises(ImageError) as error:
        _write(memory, tmp_path / "a.dcm")
    assert error.value.reason == "not-dicom"
    moved = Volume(_mask(volume).array, Geometry(np.eye(4), volume.geometry.shape))
    with pytest.raises(ImageError) as error:
        write_dicom_seg(moved, volume, _LABELS, tmp_path / "a.dcm", Maker("m", "k"))
    assert error.value.reason == "label-grid"
    assert not (tmp_path / "a.dcm").exists()


def test_planes_that_are_not_those_of_the_files_are_refused(tmp_path: Path):
    """One gap of 1.4 slices: evened on request to as many planes as there are files, but at other places."""
    places = [(0, 0, 2.5 * k + (1.0 if k > 8 else 0.0)) for k in range(12)]
    volume = read_volume(
        write_series(tmp_path / "s", ramp(12), positions=places, **_COMPANION), resample_irregular=True
    )
    assert volume.geometry.shape[2] == len(volume.source.paths) == 12
    with pytest.raises(ImageError) as error:
        _write(volume, tmp_path / "seg.dcm")
    assert error.value.reason == "resampled-source"
    assert not (tmp_path / "seg.dcm").exists()


def test_values_without_a_label_are_refused_and_labels_without_a_code_are_told(tmp_path: Path):
    volume = read_volume(write_series(tmp_path / "s", ramp(4), **_COMPANION))
    with pytest.raises(ImageError, match=r"\[3\]") as error:
        write_dicom_seg(_mask(volume), volume, _LABELS[:1], tmp_path / "seg.dcm", Maker("m", "k"))
    assert error.value.reason == "label-values"
    notes = write_dicom_seg(_mask(volume), volume, _LABELS, tmp_path / "seg.dcm", Maker("m", "k"))
    assert len(notes) == 1
    assert "'lesion' has no code" in notes[0]
    default = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[1]
    assert default.SegmentedPropertyTypeCodeSequence[0].CodeValue == "85756007"


def test_identity_follows_source_and_bundle(tmp_path: Path):
    seen = []
    for folder, key in (("a", "k1"), ("a", "k2"), ("b", "k1")):
        if not (tmp_path / folder).exists():
            write_series(tmp_path / folder, ramp(4), **_COMPANION)
        volume = read_volume(tmp_path / folder)
        write_dicom_seg(_mask(volume), volume, _LABELS, tmp_path / "seg.dcm", Maker("m", key))
        dataset = pydicom.dcmread(tmp_path / "seg.dcm")
        seen += [dataset.SOPInstanceUID, dataset.SeriesInstanceUID]
        seen += [segment.TrackingUID for segment in dataset.SegmentSequence]
    assert len(set(seen)) == 12  # 3 objects: instance, series, 2 segments


def test_names_in_any_language(tmp_path: Path):
    """The source is in Latin-1, the label in Greek: both are legible in the object."""
    patient = {**_COMPANION, "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"}
    volume = read_volume(write_series(tmp_path / "s", ramp(4), **patient))
    mask = Volume(np.minimum(_mask(volume).array, 1), volume.geometry)
    write_dicom_seg(mask, volume, (Label(1, "ήπαρ"),), tmp_path / "seg.dcm", Maker("Größe", "k"))
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert dataset.SegmentSequence[0].SegmentLabel == "ήπαρ"
    assert str(dataset.PatientName) == "Müller^Jürgen"


def test_simpleitk_sees_the_mask_at_the_same_place(tmp_path: Path):
    """SimpleITK reads the slices of the source; the place it gives each marked pixel is the one in the object."""
    places = [(3, -4, -2.5 * k) for k in range(4)]
    write_series(tmp_path / "s", ramp(4), positions=places, orientation=_OBLIQUE, **_COMPANION)
    volume = read_volume(tmp_path / "s")
    _write(volume, tmp_path / "seg.dcm")
    found = set()
    for file in sorted((tmp_path / "s").iterdir()):
        image = SimpleITK.ReadImage(str(file))
        stored = SimpleITK.GetArrayFromImage(image)[0]
        value = stored + 1000  # the ramp: 1000 slice + 20 row + column
        k, rest = np.divmod(value, 1000)
        row, column = np.divmod(rest, 20)
        # `_mask` counts slices along the normal, the ramp along the positions, which run against it: k becomes 3 - k.
        for number, columns, rows, slices in ((1, (2, 3, 4), (1, 2, 3), (2, 1)), (2, (6, 7), (5, 6, 7, 8), (1, 0))):
            inside = np.isin(column, columns) & np.isin(row, rows) & np.isin(k, slices)
            for r, c in np.argwhere(inside):
                place = image.TransformIndexToPhysicalPoint((int(c), int(r), 0))
                found.add((number, *(round(float(v), 2) for v in place)))
    assert found == _independent(tmp_path / "seg.dcm")


def test_dciodvfy_finds_no_error_in_that_of_a_plane_without_a_place(tmp_path: Path):
    plane = read_volume(_radiograph(tmp_path / "dx.dcm"))
    mask = Volume(np.ones((1, *plane.geometry.shape), np.uint8), plane.geometry)
    write_dicom_seg(mask, plane, (Label(1, "x"),), tmp_path / "dxseg.dcm", Maker("m", "k"))
    assert judged(tmp_path / "dxseg.dcm") == []


def _radiograph(path: Path) -> Path:
    """A plane without a place in the patient."""
    dataset = slice_dataset(ramp(1)[0], (0, 0, 0), PatientOrientation=["L", "F"], **_COMPANION)
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.FrameOfReferenceUID
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.Modality = "CR"
    dataset.save_as(path, enforce_file_format=True)
    return path


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
    # Every voxel due lies within 0.1 mm of one that is there: headers hold few digits.
    there, due = (np.array(sorted(found)) for found in (_independent(tmp_path / "seg.dcm"), _expected(_mask(volume))))
    assert there.shape == due.shape
    assert max(np.abs(there - point).max(axis=1).min() for point in due) < 0.1
    assert set(errors_of(tmp_path / "seg.dcm")) <= set(errors_of(volume.source.paths[0]))


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


@pytest.mark.parametrize("points", [3, 2, 1])
def test_a_contour_that_is_a_line_encloses_nothing(tmp_path: Path, points: int):
    """Its plane cannot be told; it cost the whole object."""
    volume = read_volume(write_series(tmp_path / "s", ramp(4)))
    square = np.array([[0.4, 0.4, 2.5], [4.1, 0.4, 2.5], [4.1, 3.6, 2.5], [0.4, 3.6, 2.5]])
    line = np.array([[1.0, 1.2, 5.0], [2.0, 1.2, 5.0], [3.3, 1.2, 5.0]])[:points]
    with_line = read_label(_rtstruct(tmp_path / "a.dcm", {"LIVER": [line, square]}), volume, _LABELS)
    alone = read_label(_rtstruct(tmp_path / "b.dcm", {"LIVER": [square]}), volume, _LABELS)
    np.testing.assert_array_equal(with_line.array, alone.array)


def test_a_label_of_another_frame_of_reference(tmp_path: Path):
    volume = read_volume(write_series(tmp_path / "s", ramp(4), FrameOfReferenceUID="1.2.3.4"))
    assert volume.source.uids["FrameOfReferenceUID"] == "1.2.3.4"
    square = np.array([[0.4, 0.4, 2.5], [4.1, 0.4, 2.5], [4.1, 3.6, 2.5], [0.4, 3.6, 2.5]])
    path = _rtstruct(tmp_path / "rt.dcm", {"LIVER": [square]})
    assert read_label(path, volume, _LABELS).source.notes == (), "an object that names none is taken"

    dataset = pydicom.dcmread(path)
    frame, study, series = Dataset(), Dataset(), Dataset()
    frame.FrameOfReferenceUID = "1.2.3.5"
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.save_as(path)
    with pytest.raises(ImageError, match="another frame of reference") as refused:
        read_label(path, volume, _LABELS)
    assert refused.value.reason == "frame-of-reference"

    series.SeriesInstanceUID = volume.source.uids["SeriesInstanceUID"]
    study.RTReferencedSeriesSequence = [series]
    frame.RTReferencedStudySequence = [study]
    dataset.save_as(path)
    (note,) = read_label(path, volume, _LABELS).source.notes
    assert "refers to it" in note

    frame.FrameOfReferenceUID = "1.2.3.4"
    dataset.save_as(path)
    assert read_label(path, volume, _LABELS).source.notes == ()
