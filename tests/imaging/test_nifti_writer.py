"""NIfTI out, read by nibabel, SimpleITK and our reader."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti


def _oblique() -> np.ndarray:
    affine = np.diag([0.8, 1.5, -3.0, 1.0])
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    affine = turn @ affine
    affine[:3, 3] = (10, -20, 30)
    return affine


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.float32, np.float16, bool])
def test_three_readers_agree(tmp_path: Path, suffix: str, kind: type, rng: np.random.Generator):
    array = rng.integers(0, 2 if kind is bool else 100, (1, 4, 5, 6)).astype(kind)
    geometry = Geometry(_oblique(), (4, 5, 6))
    path = tmp_path / f"x{suffix}"
    write_nifti(Volume(array, geometry), path)
    loaded = nib.load(path)
    np.testing.assert_array_equal(np.asarray(loaded.dataobj), array[0])
    for form in (loaded.get_sform(), loaded.get_qform()):
        np.testing.assert_allclose(form, geometry.affine, atol=1e-5)
    image = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), array[0])
    place = np.array(image.TransformIndexToPhysicalPoint((1, 2, 3))) * (-1, -1, 1)
    np.testing.assert_allclose(place, geometry.to_world((1, 2, 3)), atol=1e-4)
    np.testing.assert_array_equal(read_volume(path).array, array)
    assert read_volume(path).geometry.is_close(geometry)


def test_a_sheared_grid_keeps_its_affine_and_misleads_no_one(tmp_path: Path):
    affine = np.eye(4)
    affine[1, 2] = 0.3
    geometry = Geometry(affine, (4, 5, 6))
    write_nifti(Volume(np.ones((1, 4, 5, 6), np.uint8), geometry), tmp_path / "x.nii")
    assert read_volume(tmp_path / "x.nii").geometry.is_close(geometry)
    assert int(nib.load(tmp_path / "x.nii").header["qform_code"]) == 0


def test_what_cannot_be_written(tmp_path: Path):
    geometry = Geometry(np.eye(4), (2, 2, 2))
    for volume, name, reason in (
        (Volume(np.zeros((2, 2, 2, 2), np.uint8), geometry), "x.nii", "bad-shape"),
        (Volume(np.zeros((1, 2, 2, 2), np.uint8), geometry), "x.img", "bad-shape"),
        (Volume(np.full((1, 2, 2, 2), 2**40, np.int64), geometry), "x.nii", "bad-values"),
    ):
        with pytest.raises(ImageError) as error:
            write_nifti(volume, tmp_path / name)
        assert error.value.reason == reason
    assert list(tmp_path.iterdir()) == []


def test_a_plane_becomes_one_slice(tmp_path: Path):
    write_nifti(Volume(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), Geometry(_oblique(), (2, 3))), tmp_path / "x.nii")
    loaded = nib.load(tmp_path / "x.nii")
    assert loaded.shape == (2, 3, 1)
    np.testing.assert_allclose(loaded.affine, _oblique(), atol=1e-5)
