"""One hash for one image, whatever file holds it."""

import gzip
from pathlib import Path

import numpy as np
from dicom_phantom import ramp, write_series

from medssl.imaging.duplicates import voxel_hash
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti


def _turned(volume: Volume) -> Volume:
    """The same voxels at the same places, with the axes in another order and two of them the other way round."""
    affine = volume.geometry.affine @ np.array(
        [[0, 0, -1, volume.geometry.shape[0] - 1], [1, 0, 0, 0], [0, -1, 0, volume.geometry.shape[2] - 1], [0, 0, 0, 1]]
    )
    array = volume.array.transpose(0, 2, 3, 1)[:, :, ::-1, ::-1]
    return Volume(array, Geometry(affine, array.shape[1:]))


def test_a_series_its_conversions_and_its_turned_copy_have_one_hash(tmp_path: Path):
    series = read_volume(write_series(tmp_path / "dicom", ramp(5)))
    whole = voxel_hash(series)
    write_nifti(Volume(series.array, series.geometry), tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    turned = _turned(series)
    for index in np.ndindex(turned.geometry.shape):
        there = series.geometry.to_index(turned.geometry.to_world(index)).round().astype(int)
        assert turned.array[0][index] == series.array[0][tuple(there)]
    for copy in (
        read_volume(tmp_path / "a.nii.gz"),
        read_volume(tmp_path / "b.nii"),
        turned,
        Volume(series.array.astype(np.float64), series.geometry),
    ):
        assert voxel_hash(copy) == whole


def test_images_that_differ_in_a_voxel_or_in_their_shape_have_others():
    array = np.zeros((1, 4, 6), np.uint8)
    other = array.copy()
    other[0, 3, 5] = 1
    found = {voxel_hash(Volume(a, Geometry(np.eye(4), a.shape[1:]))) for a in (array, other, array.reshape(1, 6, 4))}
    assert len(found) == 3
    negative = np.full((1, 4, 6), -0.0, np.float32)
    assert voxel_hash(Volume(negative, Geometry(np.eye(4), (4, 6)))) in found, "-0 is 0"


def test_a_series_carries_the_pseudonym_of_its_patient(tmp_path: Path):
    one, same, issued, other = (
        read_volume(
            write_series(tmp_path / name, ramp(3), series=uid, PatientID=patient, IssuerOfPatientID=issuer)
        ).source.patient
        for name, uid, patient, issuer in (
            ("a", "1.2.3.7", "X1", ""), ("b", "1.2.3.8", "X1 ", ""),
            ("c", "1.2.3.9", "X1", "H"), ("d", "1.2.3.10", "X2", ""),
        )
    )  # fmt: skip
    assert one == same == issued != other, "objects of one patient need not all name the issuer of the number"
    assert one
    assert "X1" not in one
