"""Enhanced multi-frame objects: place, slope and order come from the functional groups of each frame."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import ramp, slice_dataset
from pydicom.dataset import Dataset

from medssl.imaging.errors import ImageError
from medssl.imaging.readers.open import read_volume

_TOP = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_AXIAL = (1.0, 0, 0, 0, 1, 0)


def _item(**values: object) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _enhanced(
    path: Path,
    frames: np.ndarray,
    positions: Sequence[Sequence[float]],
    *,
    slopes: Sequence[tuple[float, float]] = (),
    orientations: Sequence[Sequence[float]] = (),
    shared: bool = True,
) -> Path:
    """An enhanced object; with `shared`, orientation and pixel measures stand once, else with each frame."""
    dataset = slice_dataset(frames[0], (0, 0, 0), **dict.fromkeys(_TOP))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    dataset.NumberOfFrames, dataset.PixelData = len(frames), np.ascontiguousarray(frames).tobytes()
    measures = _item(PixelSpacing=[0.5, 0.25], SliceThickness=2.5)
    common, each = Dataset(), []
    if shared:
        common.PixelMeasuresSequence = [measures]
        common.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(_AXIAL))]
    for k, position in enumerate(positions):
        group = _item(PlanePositionSequence=[_item(ImagePositionPatient=list(position))])
        if not shared:
            group.PixelMeasuresSequence = [measures]
            orientation = orientations[k] if orientations else _AXIAL
            group.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(orientation))]
        if slopes:
            slope, intercept = slopes[k]
            group.PixelValueTransformationSequence = [_item(RescaleSlope=slope, RescaleIntercept=intercept)]
        each.append(group)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [common], each
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("shared", [True, False])
def test_frames_are_sorted_by_their_own_positions(tmp_path: Path, shared: bool):
    order = [2, 0, 3, 1]
    path = _enhanced(tmp_path / "a.dcm", ramp(4)[order], [(7, 8, 2.5 * k) for k in order], shared=shared)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], np.transpose(ramp(4), (2, 1, 0)))
    np.testing.assert_allclose(
        volume.geometry.affine, [[-0.25, 0, 0, -7], [0, -0.5, 0, -8], [0, 0, 2.5, 0], [0, 0, 0, 1]]
    )


def test_each_frame_has_its_own_slope(tmp_path: Path):
    slopes = [(1.0, 0.0), (2.0, -5.0), (0.5, 0.25)]
    path = _enhanced(tmp_path / "a.dcm", ramp(3), [(0, 0, 2.5 * k) for k in range(3)], slopes=slopes)
    array = read_volume(path).array
    assert array.dtype == np.float32
    for k, (slope, intercept) in enumerate(slopes):
        np.testing.assert_allclose(array[0, :, :, k], ramp(3)[k].T * slope + intercept)


def test_time_points_in_one_file_are_refused(tmp_path: Path):
    path = _enhanced(tmp_path / "a.dcm", ramp(4), [(0, 0, 2.5 * (k // 2)) for k in range(4)])
    with pytest.raises(ImageError) as error:
        read_volume(path)
    assert error.value.reason == "several-volumes"


def test_frames_on_different_planes_are_refused(tmp_path: Path):
    turned = [_AXIAL, _AXIAL, (1, 0, 0, 0, 0, -1)]
    path = _enhanced(
        tmp_path / "a.dcm", ramp(3), [(0, 0, 2.5 * k) for k in range(3)], shared=False, orientations=turned
    )
    with pytest.raises(ImageError) as error:
        read_volume(path)
    assert error.value.reason == "mixed-series"


def test_a_missing_frame_is_a_gap(tmp_path: Path):
    path = _enhanced(tmp_path / "a.dcm", ramp(5), [(0, 0, 2.5 * k) for k in (0, 1, 2, 4, 5)])
    with pytest.raises(ImageError) as error:
        read_volume(path)
    assert error.value.reason == "missing-slice"


def test_fewer_groups_than_frames_is_damage(tmp_path: Path):
    path = _enhanced(tmp_path / "a.dcm", ramp(4), [(0, 0, 2.5 * k) for k in range(3)])
    with pytest.raises(ImageError, match="4 frames, but 3") as error:
        read_volume(path)
    assert error.value.reason == "bad-dicom"
