"""NIfTI out: the affine is written as sform and qform, so that every reader puts the voxels in one place."""

from pathlib import Path

import nibabel as nib
import numpy as np

from medssl.imaging.files import atomic_path
from medssl.imaging.volume import Volume


def write_nifti(volume: Volume, path: Path) -> None:
    """Write the first channel of a volume; a 2D image becomes one slice.

    Args:
        volume: (1, *S).
        path: Ends in `.nii` or `.nii.gz`.
    """
    array = volume.array[0] if volume.spatial_dims == 3 else volume.array[0][..., None]
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        array = array.astype(np.int32)
    image = nib.Nifti1Image(array, volume.geometry.affine)
    image.set_sform(volume.geometry.affine, code="scanner")
    image.set_qform(volume.geometry.affine, code="scanner", strip_shears=True)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
