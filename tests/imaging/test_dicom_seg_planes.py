"""DICOM-SEG with few planes: programs leave empty frames out, and say or do not say how far apart planes are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, write_series
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from result_objects import COMPANION

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.open import read_label, read_volume
from medssl.imaging.volume import Source, Volume

_PLANES = 8
_BOX = (slice(3, 6), slice(4, 7))
"""Columns and rows of every segment: 3 by 3."""
_STACKS = {
    "upright": ((1, 0, 0, 0, 1, 0), (0.0, 0.0, 2.5)),
    "descending": ((1, 0, 0, 0, 1, 0), (0.0, 0.0, -2.5)),
    "thin": ((1, 0, 0, 0, 1, 0), (0.0, 0.0, 0.4)),
    "tilted": ((1, 0, 0, 0, 1, 0), (0.0, 0.9, 2.5)),
    "tilted, descending": ((1, 0, 0, 0, 1, 0), (0.0, 0.9, -2.5)),
    "oblique and tilted": ((0.8, 0.6, 0.0, -0.6, 0.8, 0.0), (0.3, -0.8, -2.5)),
}


def _stack(
    folder: Path, kind: str = "upright", *, first: float = 0.0, every: float = 1, **attributes: object
) -> Volume:
    """A series whose planes lie `every` steps apart and begin `first` steps from (3, -4, 0)."""
    orientation, step = _STACKS[kind]
    places = [tuple(np.array((3.0, -4.0, 0.0)) + (first + every * k) * np.array(step)) for k in range(_PLANES)]
    thickness = round(every * abs(step[2]), 3)
    given = {"SliceThickness": thickness, "StudyTime": "", **COMPANION, **attributes}
    return read_volume(write_series(folder, ramp(_PLANES), positions=places, orientation=orientation, **given))


def _mask(volume: Volume, planes: Mapping[int, Sequence[int]]) -> np.ndarray:
    """(1, columns, rows, slices): where each segment is due."""
    array = np.zeros((1, *volume.geometry.shape), np.uint8)
    for number, places in planes.items():
        column = _BOX[0].start + 4 * (number - 1)
        array[0, column : column + 3, _BOX[1], list(places)] = number
    return array


def _write(
    volume: Volume,
    planes: Mapping[int, Sequence[int]],
    path: Path,
    kind: str = "BINARY",
    *,
    hint: float | None = None,
    **measures: float,
) -> Path:
    """As highdicom writes it from slices: without the planes that are empty; numbers are segments."""
    sources = [pydicom.dcmread(file) for file in volume.source.paths]
    mask = _mask(volume, planes)[0]
    order = [
        int(np.rint(volume.geometry.to_index(np.array(s.ImagePositionPatient, float) * (-1, -1, 1))[2]))
        for s in sources
    ]
    pixels = np.stack([mask[:, :, k].T for k in order])
    algorithm = AlgorithmIdentificationSequence("hand", codes.DCM.ArtificialIntelligence, "1")
    described = [
        SegmentDescription(n, f"part {n}", codes.SCT.Organ, codes.SCT.Liver, "AUTOMATIC", algorithm) for n in planes
    ]
    if kind == "FRACTIONAL":
        pixels = np.stack([(pixels == n) * 0.8 for n in planes], axis=-1)
    made = Segmentation(
        sources, pixels, kind, described, generate_uid(), 1, generate_uid(), 1, "maker", "model", "1", "1",
        omit_empty_frames=True,
    )  # fmt: skip
    found = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    found.pop("SpacingBetweenSlices", None)  # it is there where all slices of the series were given
    if hint is not None:
        found.SpacingBetweenSlices = hint
    for name, value in measures.items():
        setattr(found, name, value)
    made.save_as(path)
    return path


def _reversed(path: Path) -> Path:
    """The same object with its frames in the other order."""
    dataset = pydicom.dcmread(path)
    count = int(dataset.NumberOfFrames)
    size = dataset.Rows * dataset.Columns * int(dataset.BitsAllocated) // 8
    frames = [dataset.PixelData[k * size : (k + 1) * size] for k in range(count)]
    dataset.PixelData = b"".join(frames[::-1])
    dataset.PerFrameFunctionalGroupsSequence = list(dataset.PerFrameFunctionalGroupsSequence)[::-1]
    dataset.save_as(path)
    return path


def _alone(volume: Volume) -> Volume:
    """As after a conversion to NIfTI: nothing says that an object refers to it."""
    return replace(volume, source=Source())


@pytest.mark.parametrize(
    ("stack", "kind"),
    [(s, "BINARY") for s in _STACKS] + [(s, k) for s in ("upright", "tilted") for k in ("LABELMAP", "FRACTIONAL")],
)
def test_few_planes_lie_in_their_places_whatever_else_the_object_says(tmp_path: Path, stack: str, kind: str):
    volume = _stack(tmp_path / "s", stack)
    distance = abs(_STACKS[stack][1][2])
    for planes in ({1: [4]}, {1: [3, 6]}, {1: [1, 3, 6]}, {1: [2], 2: [5, 7]}):
        for hint, image in ((None, _alone(volume)), (None, volume), (distance, _alone(volume))):
            path = _write(volume, planes, tmp_path / "seg.dcm", kind, hint=hint)
            assert int(pydicom.dcmread(path).NumberOfFrames) == sum(map(len, planes.values()))
            read = read_label(path, image)
            np.testing.assert_array_equal(read.array, _mask(volume, planes), err_msg=f"{planes}, {hint}")
            assert read.source.notes == ()
        np.testing.assert_array_equal(read_label(_reversed(path), volume).array, _mask(volume, planes))


def test_the_axes_of_the_image_may_run_otherwise(tmp_path: Path):
    """A converter may turn and mirror axes: slices first, rows from the other end."""
    volume = _stack(tmp_path / "s", "tilted")
    path = _write(volume, {1: [3, 6], 2: [1]}, tmp_path / "seg.dcm")
    turn = np.array([[0, 1, 0, 0], [0, 0, -1, 9], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = Geometry(volume.geometry.affine @ turn, (_PLANES, 12, 10))
    read = read_label(path, Volume(np.zeros((1, *turned.shape), np.float32), turned))
    due = np.transpose(_mask(volume, {1: [3, 6], 2: [1]})[0][:, ::-1], (2, 0, 1))
    np.testing.assert_array_equal(read.array[0], due)


def test_a_part_of_the_image_keeps_its_planes_and_what_lies_outside_is_said(tmp_path: Path):
    volume = _stack(tmp_path / "s", "tilted")
    path = _write(volume, {1: [0, 1, 3, 6]}, tmp_path / "seg.dcm")
    shift = np.eye(4)
    shift[2, 3] = 2
    grid = Geometry(volume.geometry.affine @ shift, (*volume.geometry.shape[:2], 4))
    read = read_label(path, Volume(volume.array[..., 2:6], grid))
    np.testing.assert_array_equal(read.array, _mask(volume, {1: [3]})[..., 2:6])
    assert read.source.notes == ("27 of 36 voxels of segment 'part 1' lie outside the image and were left out",)


def test_one_slice_of_overlapping_slices_takes_its_own_plane_alone(tmp_path: Path):
    """Slices 5 mm thick every 2.5 mm: a single one does not say where the next lies."""
    volume = _stack(tmp_path / "s", SliceThickness=5)
    path = _write(volume, {1: [2, 3, 5]}, tmp_path / "seg.dcm")
    for number, marked in ((3, 9), (5, 9)):
        slice_file = next(f for f in volume.source.paths if pydicom.dcmread(f).InstanceNumber == number + 1)
        assert int(read_label(path, read_volume(slice_file)).array.sum()) == marked
    with pytest.raises(ImageError) as error:
        read_label(path, read_volume(next(f for f in volume.source.paths if pydicom.dcmread(f).InstanceNumber == 8)))
    assert error.value.reason == "label-grid"


def test_planes_of_thicker_slices_fill_what_lies_between_and_it_is_said(tmp_path: Path):
    """Drawn on 5 mm slices, every second one of the image's: each reaches half-way to the next."""
    image = _stack(tmp_path / "thin")
    thick = _stack(tmp_path / "thick", every=2, series="1.2.3.2")
    path = _write(thick, {1: [1, 2]}, tmp_path / "seg.dcm", hint=5.0)
    read = read_label(path, image)
    assert np.flatnonzero(read.array[0].any(axis=(0, 1))).tolist() == [2, 3, 4]
    assert int(read.array.sum()) == 27
    assert "was resampled" in read.source.notes[0]


def test_planes_that_may_be_thick_ones_or_far_apart_are_refused(tmp_path: Path):
    image = _stack(tmp_path / "thin")
    thick = _stack(tmp_path / "thick", every=2, series="1.2.3.2")
    for planes in ([1], [1, 2], [0, 3]):
        with pytest.raises(ImageError, match=r"5 mm thick, the image's 2\.5 mm apart") as error:
            read_label(_write(thick, {1: planes}, tmp_path / "seg.dcm"), image)
        assert error.value.reason == "segment-planes"
    overlapping = _stack(tmp_path / "over", SliceThickness=5)
    path = _write(overlapping, {1: [3, 6]}, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_label(path, overlapping).array, _mask(overlapping, {1: [3, 6]}))


def test_between_the_images_planes_a_gap_without_a_spacing_is_refused(tmp_path: Path):
    image = _stack(tmp_path / "a", "tilted")
    moved = _stack(tmp_path / "b", "tilted", first=0.3, series="1.2.3.2")
    with pytest.raises(ImageError, match=r"7\.5 mm apart and 2\.5 mm thick") as error:
        read_label(_write(moved, {1: [3, 6]}, tmp_path / "seg.dcm"), image)
    assert error.value.reason == "segment-planes"
    with pytest.raises(ImageError, match="neither") as error:
        read_label(_write(moved, {1: [3, 6]}, tmp_path / "seg.dcm", SliceThickness=0), image)
    assert error.value.reason == "segment-planes"
    for planes, hint in (([3, 6], 2.5), ([3, 4, 6], None), ([4], None), ([4], 2.5)):
        read = read_label(_write(moved, {1: planes}, tmp_path / "seg.dcm", hint=hint), image)
        np.testing.assert_array_equal(read.array, _mask(image, {1: planes}))  # 0.7 of each lies there
        assert "was resampled" in read.source.notes[0]


def test_one_plane_on_pixels_of_another_size_has_its_own_thickness(tmp_path: Path):
    image = _stack(tmp_path / "a")
    other = _stack(tmp_path / "b", series="1.2.3.2", spacing=(0.4, 0.4))
    read = read_label(_write(other, {1: [4]}, tmp_path / "seg.dcm"), image)
    assert np.flatnonzero(read.array[0].any(axis=(0, 1))).tolist() == [4]
    thin = read_label(_write(other, {1: [4]}, tmp_path / "seg.dcm", SliceThickness=10), image)
    assert np.flatnonzero(thin.array[0].any(axis=(0, 1))).tolist() == [3, 4, 5]


def test_frames_that_contradict_the_object_are_refused(tmp_path: Path):
    volume = _stack(tmp_path / "s")
    path = _write(volume, {1: [3], 2: [6]}, tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(path)
    first, second = dataset.PerFrameFunctionalGroupsSequence
    second.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 3
    dataset.save_as(path)
    with pytest.raises(ImageError, match=r"segments \[3\], which it does not describe") as error:
        read_label(path, volume)
    assert error.value.reason == "bad-dicom-seg"
    second.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1
    second.PlanePositionSequence = first.PlanePositionSequence
    dataset.save_as(path)
    with pytest.raises(ImageError, match="several frames") as error:
        read_label(path, volume)
    assert error.value.reason == "bad-dicom-seg"
