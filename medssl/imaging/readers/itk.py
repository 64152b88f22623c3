"""NRRD and MetaImage files, through SimpleITK."""

from pathlib import Path
from typing import Any

import numpy as np

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Source, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")


def read_itk(path: Path) -> Volume:
    """Read a NRRD, MHA or MHD file as (C, *S).

    Raises:
        ImageError: Missing, truncated, or not 2D or 3D.
    """
    import SimpleITK  # noqa: PLC0415 (slow to import, and few inputs need it)

    itk: Any = SimpleITK  # it has no types
    if not path.is_file():
        raise ImageError(f"{path} does not exist", reason="no-such-file")
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = itk.ReadImage(str(path))
    except RuntimeError as error:
        line = str(error).strip().splitlines()[-1]
        raise ImageError(f"{path} cannot be read ({line}): truncated or damaged", reason="truncated") from error
    dims = image.GetDimension()
    if dims not in (2, 3):
        raise ImageError(f"{path}: {dims}D image where 2D or 3D is due", reason="not-3d")
    array = itk.GetArrayFromImage(image)
    array = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None]
    array = np.transpose(array, (0, *range(dims, 0, -1)))
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dims, dims)
    affine[:dims, :dims] = direction * np.array(image.GetSpacing())
    affine[:dims, 3] = image.GetOrigin()
    source = Source((path,), path.suffix.lstrip(".").replace("nhdr", "nrrd").replace("mhd", "mha"))
    return Volume(np.ascontiguousarray(array), Geometry(_LPS_TO_RAS @ affine, image.GetSize()), source=source)
