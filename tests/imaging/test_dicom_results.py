"""Every DICOM result: place, references, cautions, identity, conformance; on made and on real series."""

import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, slice_dataset, write_series
from highdicom.seg import segread
from highdicom.sr import srread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage
from result_objects import CAUTIONS, COMPANION, KINDS, LABELS, MAKER, errors_of, judged, marks, mask_on, shares_on

from medssl.imaging.errors import ImageError
from medssl.imaging.labels import Code, Label
from medssl.imaging.readers.open import read_channels, read_label, read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_seg import write_dicom_seg
from medssl.imaging.writers.dicom_source import Maker
from medssl.imaging.writers.dicom_sr import Findings, Structure, write_dicom_sr
from medssl.imaging.writers.rtstruct import write_rtstruct

_OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)
_STACKS = {
    "ascending": ((1, 0, 0, 0, 1, 0), (0.0, 0.0, 2.5)),
    "descending": ((1, 0, 0, 0, 1, 0), (0.0, 0.0, -2.5)),
    "oblique": (_OBLIQUE, (0.0, 0.0, -2.5)),
    "tilted": ((1, 0, 0, 0, 1, 0), (0.0, 0.6, 2.5)),
    "hardly tilted": ((1, 0, 0, 0, 1, 0), (0.0, 0.1, 2.5)),
    "oblique and tilted": (_OBLIQUE, (0.3, -0.4, -2.5)),
    "oblique, cosines rounded": (_OBLIQUE, (0.0, 0.0, 2.5)),
    "oblique, cosines of the first slice rounded": (_OBLIQUE, (0.0, 0.0, 2.5)),
}
_ROUNDED = {
    "oblique, cosines rounded": (2, (0.800001, 0.599999, 0.0, -0.599999, 0.800001, 0.0)),
    "oblique, cosines of the first slice rounded": (0, (0.801, 0.5987, 0.0, -0.5987, 0.801, 0.0)),
}
"""Slice whose direction cosines differ from the others' in their last digits."""
_OF_PLANES = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_REAL = (
    "dicom_mr_brain_pgbm/Study3/11-T1post-18670",
    "dicom_mr_brain_pgbm/Study1/13_HCropVolume",
    "dicom_ct_seg_dcmqi/ct-3slice",
    "dicom_ct_seg_dcmqi/24x38x3/multiframe/mf.dcm",
)


def _stack(folder: Path, kind: str = "ascending", **attributes: object) -> Volume:
    orientation, step = _STACKS[kind]
    places = [tuple(np.array((3.0, -4.0, 0.0)) + k * np.array(step)) for k in range(4)]
    write_series(folder, ramp(4), positions=places, orientation=orientation, **{**COMPANION, **attributes})
    if kind in _ROUNDED:
        number, cosines = _ROUNDED[kind]
        dataset = pydicom.dcmread(folder / f"{number:03d}.dcm")
        dataset.ImageOrientationPatient = list(cosines)
        dataset.save_as(folder / f"{number:03d}.dcm")
    return read_volume(folder)


def _due(values: Volume, numbers: tuple[int, int]) -> dict[tuple[int, float, float, float], int]:
    """What `marks` must find, by the affine: segment numbers by label."""
    found = {}
    for layer, number in zip(values.array, numbers, strict=True):
        for index in np.argwhere(layer):
            place = values.geometry.to_world(index) * (-1, -1, 1)
            found[number, *(round(float(v), 2) for v in place)] = int(layer[tuple(index)])
    return found


def _layers(mask: Volume) -> Volume:
    return Volume(np.stack([(mask.array[0] == label.value).astype(np.uint8) for label in LABELS]), mask.geometry)


@pytest.mark.parametrize("stack", _STACKS)
def test_every_voxel_of_every_kind_of_segmentation_lies_in_its_place(tmp_path: Path, stack: str):
    volume = _stack(tmp_path / "s", stack)
    for kind in ("seg", "labelmap", "fractional", "rtstruct"):
        KINDS[kind](volume, tmp_path / f"{kind}.dcm")
    mask = mask_on(volume)
    assert marks(tmp_path / "seg.dcm") == _due(_layers(mask), (1, 2))
    numbered = Volume(_layers(mask).array * np.array([1, 3], np.uint8)[:, None, None, None], volume.geometry)
    assert marks(tmp_path / "labelmap.dcm") == _due(numbered, (1, 3)), "a label map holds the labels' own values"
    assert marks(tmp_path / "fractional.dcm") == _due(shares_on(volume), (1, 2))
    for kind in ("seg", "labelmap", "rtstruct"):
        read = read_label(tmp_path / f"{kind}.dcm", volume, LABELS)
        np.testing.assert_array_equal(read.array, mask.array, err_msg=kind)
    uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in volume.source.paths]
    for kind in ("seg", "labelmap"):  # highdicom finds each frame by the image it was made from
        planes = segread(tmp_path / f"{kind}.dcm").get_pixels_by_source_instance(uids, combine_segments=True)
        due = np.transpose(mask.array[0], (2, 1, 0))
        np.testing.assert_array_equal(planes, due if kind == "labelmap" else np.where(due == 3, 2, due), err_msg=kind)


@pytest.mark.parametrize("stack", _ROUNDED)
@pytest.mark.parametrize("kind", ["seg", "labelmap", "fractional"])
def test_highdicom_finds_every_voxel_where_direction_cosines_are_rounded(tmp_path: Path, stack: str, kind: str):
    volume = _stack(tmp_path / "s", stack)
    KINDS[kind](volume, tmp_path / "o.dcm")
    stored = segread(tmp_path / "o.dcm").get_volume(combine_segments=False)
    found = stored.map_indices_to_reference(np.argwhere(stored.array.any(axis=-1)))
    due = volume.geometry.to_world(np.argwhere(mask_on(volume).array[0])) * (-1, -1, 1)
    assert len(found) == len(due)
    assert max(np.abs(found - place).max(axis=1).min() for place in due) < 0.01


def _enhanced(path: Path) -> Volume:
    """A multi-frame file that tells orientation, last digits apart, and pixel size with each frame, as some makers."""
    dataset = slice_dataset(ramp(4)[0], (0, 0, 0), **dict.fromkeys(_OF_PLANES), **COMPANION)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames, dataset.PixelData = 4, ramp(4).tobytes()
    groups = []
    for number in range(4):
        group, place, plane, measures = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [3, -4, 2.5 * number]
        plane.ImageOrientationPatient = [1, 1e-6 * number, 0, -1e-6 * number, 1, 0]
        measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 2.5
        group.PlanePositionSequence, group.PlaneOrientationSequence = [place], [plane]
        group.PixelMeasuresSequence = [measures]
        groups.append(group)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [Dataset()], groups
    dataset.save_as(path, enforce_file_format=True)
    return read_volume(path)


@pytest.mark.parametrize("kind", ["seg", "labelmap", "fractional"])
def test_frames_may_tell_their_orientation_and_pixel_size_one_by_one(tmp_path: Path, kind: str):
    volume = _enhanced(tmp_path / "mf.dcm")
    KINDS[kind](volume, tmp_path / "o.dcm")
    layers = shares_on(volume) if kind == "fractional" else _layers(mask_on(volume))
    numbers = (1, 3) if kind == "labelmap" else (1, 2)
    assert marks(tmp_path / "o.dcm").keys() == _due(layers, numbers).keys()


def _without_empty_frames(path: Path) -> int:
    """As other programs write it: planes without a mark have no frame. How many are left."""
    dataset = pydicom.dcmread(path)
    size = dataset.Rows * dataset.Columns // 8  # whole bytes
    frames = [dataset.PixelData[k * size : (k + 1) * size] for k in range(int(dataset.NumberOfFrames))]
    kept = [k for k, frame in enumerate(frames) if any(frame)]
    groups = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [groups[k] for k in kept]
    dataset.PixelData, dataset.NumberOfFrames = b"".join(frames[k] for k in kept), len(kept)
    dataset.save_as(path)
    return len(kept)


@pytest.mark.parametrize("stack", ["ascending", "tilted", "hardly tilted", "oblique and tilted"])
def test_a_segmentation_without_its_empty_frames_lies_in_its_place(tmp_path: Path, stack: str):
    volume = _stack(tmp_path / "s", stack)
    array = np.zeros((1, *volume.geometry.shape), np.uint8)
    array[0, 2:5, 3:6, 1], array[0, 2:5, 3:6, 3] = 1, 1  # the first plane is empty, and one between
    array[0, 7:9, 1:4, 2:] = 3
    write_dicom_seg(Volume(array, volume.geometry), volume, LABELS, tmp_path / "seg.dcm", MAKER)
    assert _without_empty_frames(tmp_path / "seg.dcm") == 4
    read = read_label(tmp_path / "seg.dcm", volume, LABELS)
    np.testing.assert_array_equal(read.array, array)
    assert read.source.notes == ()


def test_a_segmentation_whose_planes_lie_on_no_line_is_refused(tmp_path: Path):
    volume = _stack(tmp_path / "s")
    KINDS["seg"](volume, tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    for group in dataset.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0].ImagePositionPatient
        place[0] = float(place[0]) + 0.05 * float(place[2]) ** 2
    dataset.save_as(tmp_path / "curved.dcm")
    with pytest.raises(ImageError, match=r"leave a straight line by \d") as error:
        read_label(tmp_path / "curved.dcm", volume, LABELS)
    assert error.value.reason == "curved-positions"


def test_contours_lie_half_way_between_voxels_and_name_their_slice(tmp_path: Path):
    volume = _stack(tmp_path / "s")
    KINDS["rtstruct"](volume, tmp_path / "rt.dcm")
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    assert [roi.ROIName for roi in dataset.StructureSetROISequence] == ["liver", "lesion"]
    liver, lesion = dataset.ROIContourSequence
    assert len(liver.ContourSequence) == 2  # two slices, an outline each: its hole is cut by a keyhole
    small = [c for c in lesion.ContourSequence if c.NumberOfContourPoints == 4]
    points = np.reshape(np.array(small[0].ContourData, float), (-1, 3))
    centre = volume.geometry.to_world((9, 2, 2)) * (-1, -1, 1)
    np.testing.assert_allclose(points.mean(axis=0), centre, atol=1e-3)
    np.testing.assert_allclose(np.abs(points - centre).sum(axis=1), 0.25, atol=1e-3)  # half a pixel of 0.5 mm
    named = {str(c.ContourImageSequence[0].ReferencedSOPInstanceUID) for c in small}
    headers = [pydicom.dcmread(p) for p in volume.source.paths]
    at = {str(h.SOPInstanceUID) for h in headers if float(h.ImagePositionPatient[2]) in (5.0, 7.5)}
    assert named == at


def _crossings(points: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Edges that a ray from each voxel centre to larger first indices crosses: all of them, and up less down."""
    first, second = np.indices(shape)
    crossed, turns = np.zeros(shape, int), np.zeros(shape, int)
    for (a0, a1), (b0, b1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        upward = (a1 <= second) & (second < b1)
        hit = upward | ((b1 <= second) & (second < a1))
        hit &= first < a0 + (second - a1) * (b0 - a0) / (b1 - a1 or 1)
        crossed += hit
        turns += np.where(upward, 1, -1) * hit
    return crossed, turns


@pytest.mark.parametrize("stack", ["ascending", "oblique and tilted"])
def test_no_contour_is_a_hole_in_another_and_any_rule_fills_the_mask_with_its_holes(tmp_path: Path, stack: str):
    volume = _stack(tmp_path / "s", stack)
    array = np.zeros((1, *volume.geometry.shape), np.uint8)
    array[0, 1:11, 1:9, 1:3] = 1
    for column, row in ((2, 2), (2, 4), (3, 6), (5, 2), (6, 2), (6, 5), (9, 7)):
        array[0, column, row, 1:3] = 0
    array[0, 4:9, 4:7, 2], array[0, 5:8, 5, 2] = 0, 1  # a wide hole with an island
    mask = Volume(array, volume.geometry)
    write_rtstruct(mask, volume, LABELS, tmp_path / "rt.dcm", MAKER)
    np.testing.assert_array_equal(read_label(tmp_path / "rt.dcm", volume, LABELS).array, array)
    liver, _ = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence
    assert len(liver.ContourSequence) == 3, "one in the one slice, in the other the island too"
    odd, wound = np.zeros(volume.geometry.shape, int), np.zeros(volume.geometry.shape, int)
    for contour in liver.ContourSequence:
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
        assert len(points) == contour.NumberOfContourPoints
        index = volume.geometry.to_index(points * (-1, -1, 1))
        crossed, turns = _crossings(index[:, :2], volume.geometry.shape[:2])
        plane = round(float(index[0, 2]))
        odd[..., plane] += crossed % 2
        wound[..., plane] += turns != 0
    np.testing.assert_array_equal(odd, array[0])
    np.testing.assert_array_equal(wound, array[0])


def test_contours_lie_in_the_planes_of_their_images_where_positions_are_rounded(tmp_path: Path):
    places = [(3.0, -4.0, z) for z in (0.0, 2.51, 4.99, 7.5)]
    volume = read_volume(write_series(tmp_path / "s", ramp(4), positions=places, **COMPANION))
    KINDS["rtstruct"](volume, tmp_path / "rt.dcm")
    at = {str(h.SOPInstanceUID): float(h.ImagePositionPatient[2]) for h in map(pydicom.dcmread, volume.source.paths)}
    found = set()
    for contour in (c for r in pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence for c in r.ContourSequence):
        named = at[str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)]
        assert {float(z) for z in contour.ContourData[2::3]} == {named}
        found.add(named)
    assert found == {2.51, 4.99, 7.5}


@pytest.mark.parametrize("date", ["00000000", "19000229", "20260101-20260102"])
@pytest.mark.parametrize("kind", KINDS)
def test_impossible_dates_and_codes_lose_no_result_and_are_told(tmp_path: Path, kind: str, date: str):
    told = {"SeriesDate": date, "StudyDate": date, "StudyTime": "996000", "PatientBirthDate": date}
    with disable_value_validation():
        volume = _stack(tmp_path / "s", **told, ContentDate="20260304", LastMenstrualDate=date, PatientSex="W")
    notes = KINDS[kind](volume, tmp_path / "o.dcm")
    for name in (*told, "LastMenstrualDate"):
        due = f"{name} of the image holds no possible {name[-4:].lower()}: DICOM results leave it out"
        assert due in notes
    assert "PatientSex of the image holds no possible value: DICOM results leave it out" in notes
    written = pydicom.dcmread(tmp_path / "o.dcm")
    assert (written.StudyDate, written.StudyTime, written.PatientBirthDate, written.PatientSex) == ("", "", "", "")
    assert written.get("ContentDate", written.get("StructureSetDate")) == "20260304", "the next date that is one"
    assert kind == "labelmap" or errors_of(tmp_path / "o.dcm") == []


@pytest.mark.parametrize(
    ("dates", "due"),
    [
        ({"StudyDate": ""}, "19700101"),
        ({"SeriesDate": "00000000", "StudyDate": "00000000"}, "19700101"),
        ({"SeriesDate": "00000000", "StudyDate": "20250203"}, "20250203"),
        ({"SeriesDate": "2025.02.04", "StudyDate": "20250203"}, "20250204"),
        ({"SeriesDate": "00010101"}, "00010101"),
    ],
)
def test_a_result_has_the_first_possible_date_of_series_study_and_content(
    tmp_path: Path, dates: dict[str, str], due: str
):
    with disable_value_validation():
        volume = _stack(tmp_path / "s", **dates)
    KINDS["rtstruct"](volume, tmp_path / "o.dcm")
    assert pydicom.dcmread(tmp_path / "o.dcm").StructureSetDate == due


@pytest.mark.parametrize("kind", KINDS)
def test_written_again_it_is_the_same_object_and_another_bundle_makes_another(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    volume = _stack(tmp_path / "s")
    KINDS[kind](volume, tmp_path / "a.dcm")
    KINDS[kind](volume, tmp_path / "b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    monkeypatch.setattr("result_objects.MAKER", Maker("test model", "another"))
    KINDS[kind](volume, tmp_path / "c.dcm")
    first, other = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.dcmread(tmp_path / "c.dcm")
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID != other.SeriesInstanceUID
    assert first.StudyInstanceUID == other.StudyInstanceUID == "1.2.3"


def test_kinds_of_one_result_are_different_objects_of_the_same_patient_and_study(tmp_path: Path):
    volume = _stack(tmp_path / "s", PatientName="Müller^Jürgen", SpecificCharacterSet="ISO_IR 100")
    seen = []
    for kind in ("seg", "labelmap", "fractional", "sr", "sc", "rtstruct"):
        KINDS[kind](volume, tmp_path / f"{kind}.dcm")
        dataset = pydicom.dcmread(tmp_path / f"{kind}.dcm")
        assert (dataset.StudyInstanceUID, dataset.PatientID) == ("1.2.3", "patient")
        assert str(dataset.PatientName) == "Müller^Jürgen"
        seen += [dataset.SOPInstanceUID, dataset.SeriesInstanceUID]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_cautions_and_the_notice_are_in_every_object(tmp_path: Path, kind: str):
    volume = _stack(tmp_path / "s")
    KINDS[kind](volume, tmp_path / "o.dcm")
    dataset = pydicom.dcmread(tmp_path / "o.dcm", stop_before_pixels=True)
    text = " ".join(str(e.value) for e in dataset.iterall() if e.VR in ("ST", "LT", "UT", "LO"))
    assert "Not a medical device; for research only" in text
    if kind != "sc":  # its cautions are drawn
        assert all(caution in text for caution in CAUTIONS)


def test_cautions_are_drawn_into_a_secondary_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    volume = _stack(tmp_path / "s")
    KINDS["sc"](volume, tmp_path / "with.dcm")
    monkeypatch.setattr("result_objects.MAKER", Maker("test model", "k"))
    KINDS["sc"](volume, tmp_path / "without.dcm")
    told, silent = (pydicom.dcmread(tmp_path / f"{n}.dcm") for n in ("with", "without"))
    assert told.Rows == silent.Rows + 18 * len(CAUTIONS)
    lines = told.pixel_array[silent.Rows - 18 : -18].max(axis=(1, 2))
    assert (lines > 200).any(), "text in light grey"
    assert told.Modality == "OT"
    assert len(told.SourceImageSequence) == 4


@pytest.mark.parametrize(
    ("first", "second", "due"),
    [
        ("NO", "NO", "NO"),
        ("NO", "YES", "YES"),
        ("YES", None, "YES"),
        ("NO", None, None),
        (None, None, None),
    ],
)
def test_a_secondary_capture_says_no_more_of_burned_in_text_than_its_sources(
    tmp_path: Path, first: str | None, second: str | None, due: str | None
):
    for number, said in enumerate((first, second)):
        told = {} if said is None else {"BurnedInAnnotation": said}
        _stack(tmp_path / f"s{number}", series=f"1.2.3.{number + 1}", **told)
    KINDS["sc"](read_channels("s0;s1", tmp_path), tmp_path / "sc.dcm")
    assert pydicom.dcmread(tmp_path / "sc.dcm").get("BurnedInAnnotation") == due
    assert errors_of(tmp_path / "sc.dcm") == []


def test_a_report_gives_volumes_and_refers_to_segments_and_images(tmp_path: Path):
    volume = _stack(tmp_path / "s")
    KINDS["sr"](volume, tmp_path / "sr.dcm")
    report = srread(tmp_path / "sr.dcm")
    liver, lesion = report.content.get_volumetric_roi_measurement_groups()
    assert liver.tracking_identifier == "liver"
    (size,) = liver.get_measurements()
    assert (size.value, size.unit.value, size.name.meaning) == (1.25, "mL", "Volume")
    assert liver.finding_type.value == "10200004"
    segmentation = pydicom.dcmread(tmp_path / "referred.dcm")
    assert lesion.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
    assert lesion.referenced_segment.referenced_segment_numbers == [2]
    named = {uid for _, _, uid, _ in report.get_evidence()}
    assert named == {
        str(segmentation.SOPInstanceUID),
        *(str(pydicom.dcmread(p).SOPInstanceUID) for p in volume.source.paths),
    }


@pytest.mark.parametrize("segmented", [True, False])
def test_a_report_names_anatomy_alone_as_the_site_of_a_finding(tmp_path: Path, segmented: bool):
    """A lesion is no place: the label does not say in which organ it lies."""
    volume = _stack(tmp_path / "s")
    altered = Code("49755003", "SCT", "Morphologically Altered Structure")
    labels = (
        LABELS[0],
        Label(2, "lesion", Code("52988006", "SCT", "Lesion"), altered),
        Label(4, "vessel", Code("59820001", "SCT", "Blood Vessel")),
    )
    mask = Volume(np.where(mask_on(volume).array == 3, 2, mask_on(volume).array).astype(np.uint8), volume.geometry)
    write_dicom_seg(mask, volume, labels, tmp_path / "seg.dcm", MAKER)
    findings = Findings(tuple(Structure(label, 1.0) for label in labels))
    write_dicom_sr(findings, volume, tmp_path / "sr.dcm", MAKER, tmp_path / "seg.dcm" if segmented else None)
    content = srread(tmp_path / "sr.dcm").content
    groups = content.get_volumetric_roi_measurement_groups() if segmented else content.get_image_measurement_groups()
    assert {g.tracking_identifier: [s.value.meaning for s in g.finding_sites] for g in groups} == {
        "liver": ["Liver"],
        "lesion": [],
        "vessel": [],
    }
    assert [g.finding_type.meaning for g in groups] == ["Liver", "Lesion", "Blood Vessel"]
    assert errors_of(tmp_path / "sr.dcm") == []


def test_a_report_of_a_classification_gives_probabilities_and_the_class(tmp_path: Path):
    volume = _stack(tmp_path / "s")
    KINDS["sr_of_classes"](volume, tmp_path / "sr.dcm")
    (group,) = srread(tmp_path / "sr.dcm").content.get_image_measurement_groups()
    assert {m.name.meaning: m.value for m in group.get_measurements()} == {
        "Probability of covid": 0.75,
        "Probability of other": 0.25,
    }
    (called,) = group.get_qualitative_evaluations()
    assert called.value.meaning == "covid"
    covid = hashlib.sha256(b"covid").hexdigest()[:14]  # the code follows the name, not the place in the bundle
    assert called.value.value == f"c-{covid}"
    assert f"p-{covid}" in {m.name.value for m in group.get_measurements()}


def test_a_radiograph_has_reports_but_no_structure_set(tmp_path: Path):
    write_series(tmp_path / "s", ramp(1), ImagePositionPatient=None, ImageOrientationPatient=None, **COMPANION)
    volume = read_volume(tmp_path / "s")
    for kind in ("sr_of_classes", "sr_without_seg"):
        KINDS[kind](volume, tmp_path / f"{kind}.dcm")
    with pytest.raises(ImageError, match="place in the patient") as refused:
        write_rtstruct(Volume(np.ones_like(volume.array), volume.geometry), volume, LABELS, tmp_path / "rt.dcm", MAKER)
    assert refused.value.reason == "no-position"
    assert not (tmp_path / "rt.dcm").exists()


def test_of_two_series_as_channels_the_first_one_is_segmented_and_both_are_named(tmp_path: Path):
    _stack(tmp_path / "one")
    two = _stack(tmp_path / "two", series="1.2.3.2")
    volume = read_channels("one;two", tmp_path)
    assert volume.channels == 2
    for kind in ("seg", "rtstruct", "sr", "sc"):
        KINDS[kind](volume, tmp_path / f"{kind}.dcm")
        assert errors_of(tmp_path / f"{kind}.dcm") == [], kind
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence] == ["1.2.3.1", "1.2.3.2"]
    read = read_label(tmp_path / "seg.dcm", volume, LABELS)
    np.testing.assert_array_equal(read.array, mask_on(volume).array)
    further = {str(pydicom.dcmread(path).SOPInstanceUID) for path in two.source.paths}
    capture = pydicom.dcmread(tmp_path / "sc.dcm")
    assert further <= {str(item.ReferencedSOPInstanceUID) for item in seg.SourceImageSequence}
    assert further <= {str(item.ReferencedSOPInstanceUID) for item in capture.SourceImageSequence}
    assert further <= {uid for _, _, uid, _ in srread(tmp_path / "sr.dcm").get_evidence()}


@pytest.mark.parametrize("kind", KINDS)
def test_another_file_of_a_further_channel_makes_another_object(tmp_path: Path, kind: str):
    """A second channel of which a file came late: an archive would keep the first result under one UID."""
    for number, name in enumerate(("one", "two", "late")):
        _stack(tmp_path / name, series=f"1.2.3.{number + 1}")
    uids = {}
    for field in ("one", "one;two", "one;late"):
        KINDS[kind](read_channels(field, tmp_path), tmp_path / "o.dcm")
        dataset = pydicom.dcmread(tmp_path / "o.dcm")
        uids[field] = dataset.SOPInstanceUID, dataset.SeriesInstanceUID
    assert len({uid for pair in uids.values() for uid in pair}) == 6


def test_a_torn_mask_gives_no_structure_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    volume = _stack(tmp_path / "s")
    monkeypatch.setattr("medssl.imaging.writers.rtstruct._MOST_CONTOURS", 3)
    with pytest.raises(ImageError, match="leave rtstruct out") as refused:
        KINDS["rtstruct"](volume, tmp_path / "rt.dcm")
    assert refused.value.reason == "too-many-contours"


@pytest.mark.parametrize("stack", _STACKS)
def test_dciodvfy_finds_no_error_in_any_kind_of_any_stack(tmp_path: Path, stack: str):
    volume = _stack(tmp_path / "s", stack)
    for kind in KINDS:
        if kind != "labelmap":
            KINDS[kind](volume, tmp_path / f"{kind}.dcm")
            assert judged(tmp_path / f"{kind}.dcm") == [], kind


def test_without_dciodvfy_tests_fail_only_under_continuous_integration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    for judge in (errors_of, judged):
        with pytest.raises(pytest.fail.Exception, match="apt-get install"):
            judge(tmp_path / "o.dcm")
    monkeypatch.delenv("CI")
    assert errors_of(tmp_path / "o.dcm") == []
    with pytest.raises(pytest.skip.Exception, match="apt-get install"):
        judged(tmp_path / "o.dcm")


@pytest.mark.parametrize("series", _REAL)
def test_results_of_real_series_conform_and_come_back(real_data: Path, tmp_path: Path, series: str):
    volume = read_volume(real_data / series)
    for kind in KINDS:
        KINDS[kind](volume, tmp_path / f"{kind}.dcm")
        if kind != "labelmap":
            assert set(errors_of(tmp_path / f"{kind}.dcm")) <= set(errors_of(volume.source.paths[0])), kind
    for kind in ("labelmap", "rtstruct"):
        read = read_label(tmp_path / f"{kind}.dcm", volume, LABELS)
        np.testing.assert_array_equal(read.array, mask_on(volume).array, err_msg=kind)
    fractional = segread(tmp_path / "fractional.dcm").get_volume(combine_segments=False, rescale_fractional=True)
    assert float(fractional.array.max()) == pytest.approx(shares_on(volume).array.max() / 255, abs=1e-3)
