"""NIfTI out: the affine as sform, and as qform where a qform can say it, so that readers agree on the place."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.files import atomic_path
from medssl.imaging.volume import Volume


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a volume of one channel; a 2D image becomes one slice.

    Args:
        volume: (1, *S).
        path: Ends in `.nii` or `.nii.gz`.

    Raises:
        ImageError: Several channels, another suffix, or whole numbers beyond 32 bits.
    """
    if volume.channels != 1 or not path.name.endswith((".nii", ".nii.gz")):
        raise ImageError(
            f"{path}: NIfTI takes one channel (this has {volume.channels}) and a name ending in .nii or .nii.gz",
            reason="bad-shape",
        )
    array = _storable(volume.array[0] if volume.spatial_dims == 3 else volume.array[0][..., None], path)
    untyped: Any = nib.Nifti1Image  # nibabel says it is typed, but this class is not
    image = untyped(array, volume.geometry.affine)
    image.set_sform(volume.geometry.affine, code="scanner")
    # A qform has no shear. For a tilted stack it is left unset: a program that knows no other then says so, and does
    # not show the voxels in the wrong place.
    image.set_qform(volume.geometry.affine, code="unknown" if volume.geometry.is_sheared else "scanner")
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def _storable(array: npt.NDArray[np.generic], path: Path) -> npt.NDArray[np.generic]:
    """The array in a type that NIfTI and its readers have."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        narrow = array.astype(np.int32)
        if not np.array_equal(narrow, array):
            raise ImageError(f"{path}: values beyond 32 bits cannot be written", reason="bad-values")
        return narrow
    return array
