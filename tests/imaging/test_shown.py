"""A 2D image lies the same way whatever file it came in: a network must not see a radiograph on its side."""

import itertools
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK
from dicom_phantom import slice_dataset

from medssl.imaging.errors import ConfigError
from medssl.imaging.geometry import Geometry
from medssl.imaging.preprocess import Intensity, Preprocess, prepare_label, prepare_volume, restore_label
from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume

_SHOWN = Preprocess(spatial_dims=2, orientation="shown", intensity=Intensity("none"))
_PICTURE = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
"""Rows and columns, as on the screen."""


def _png(path: Path) -> None:
    PIL.Image.fromarray(_PICTURE).save(path.with_suffix(".png"))


def _tiff(path: Path) -> None:
    PIL.Image.fromarray(_PICTURE).save(path.with_suffix(".tif"))


def _dicom(path: Path) -> None:
    dataset = slice_dataset(_PICTURE, (0, 0, 0))
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.Modality = "DX"
    dataset.save_as(path.with_suffix(".dcm"), enforce_file_format=True)


def _mha(path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(_PICTURE), str(path.with_suffix(".mha")))


@pytest.mark.parametrize("write", [_png, _tiff, _dicom, _mha])
def test_a_picture_lies_as_on_the_screen(tmp_path: Path, write):
    write(tmp_path / "image")
    (file,) = tmp_path.iterdir()
    volume = read_volume(file)
    prepared = prepare_volume(volume, _SHOWN)
    np.testing.assert_array_equal(prepared.array[0], _PICTURE)
    mask = (_PICTURE > 100).astype(np.uint8)
    back = restore_label(mask, prepared.record)
    np.testing.assert_array_equal(back.array[0], volume.array[0] > 100, "masks go back to the file's own order")
    assert back.geometry.is_close(volume.geometry)
    np.testing.assert_array_equal(prepare_label(back, prepared.record), mask)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_one_body_lie_the_same_way_however_it_is_stored(tmp_path: Path, axis: int):
    """Down to posterior or inferior, across to left or, in a sagittal slice, to posterior."""
    body = np.random.default_rng(0).normal(size=(7, 9, 11)).astype(np.float32)  # RAS
    flat = body[2] if axis == 0 else body[:, 2] if axis == 1 else body[:, :, 2]
    shown = flat.T[::-1, ::-1]  # rows are the second of the two, and both run the other way
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = np.diag(signs)[:, order]
        stored = np.transpose(body[tuple(slice(None, None, sign) for sign in signs)], order)
        affine[:3, 3] = [0 if sign > 0 else n - 1 for sign, n in zip(signs, body.shape, strict=True)]
        nibabel.save(nibabel.Nifti1Image(stored, affine), tmp_path / "v.nii")
        across = order.index(axis)
        number = 2 if signs[axis] > 0 else body.shape[axis] - 3
        volume = read_volume(f"{tmp_path / 'v.nii'}#slice={across}:{number}")
        np.testing.assert_array_equal(prepare_volume(volume, _SHOWN).array[0], shown)


@pytest.mark.parametrize(("orientation", "axis", "shown"), [("PLS", 2, True), ("RAS", 2, False), ("IPR", 2, True)])
def test_slices_of_prepared_volumes_lie_so_in_one_orientation(orientation: str, axis: int, shown: bool):
    body = np.random.default_rng(0).normal(size=(1, 7, 9, 11)).astype(np.float32)
    volume = Volume(body, Geometry(np.eye(4), (7, 9, 11)))
    volumes = Preprocess(orientation=orientation, intensity=Intensity("none"))
    assert (volumes.of_slices(axis) == _SHOWN) is shown
    plane = prepare_volume(volume, volumes).array[0].take(3, axis)
    lying = body[0, :, :, 3].T[::-1, ::-1] if orientation != "IPR" else body[0, 3].T[::-1, ::-1]
    assert np.array_equal(plane, lying) is shown


def test_images_of_earlier_files_keep_their_order():
    """Networks of before have learned from what was read, and go on seeing that."""
    array = np.arange(30, dtype=np.float32).reshape(1, 5, 6)
    volume = Volume(array, Geometry(np.diag([-1.0, -1.0, 1.0, 1.0]), (5, 6)))
    before = Preprocess.from_json(Preprocess(spatial_dims=2, intensity=Intensity("none")).to_json())
    np.testing.assert_array_equal(prepare_volume(volume, before).array, array)
    assert _SHOWN.differences(before.to_json()) == {"orientation": ("RAS", "shown")}
    with pytest.raises(ConfigError, match="orientation must name each axis once"):
        Preprocess(spatial_dims=3, orientation="shown")
    assert Preprocess.from_json(_SHOWN.to_json()) == _SHOWN
