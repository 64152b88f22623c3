"""NRRD and MetaImage files, through SimpleITK."""

from pathlib import Path
from typing import Any

import numpy as np

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Source, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
_HEADER_BYTES = 1 << 16
_PLACED = ("space", "spacedimension", "transformmatrix", "rotation", "orientation")
_SPACINGS = ("spacings", "elementspacing")


def read_itk(path: Path) -> Volume:
    """Read a NRRD, MHA or MHD file as (C, *S).

    Raises:
        ImageError: Missing, truncated, or not 2D or 3D.
    """
    import SimpleITK  # noqa: PLC0415 (slow to import, and few inputs need it)

    itk: Any = SimpleITK  # it has no types
    if not path.is_file():
        raise ImageError(f"{path} does not exist", reason="no-such-file")
    _check_header(path)
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = itk.ReadImage(str(path))
    except RuntimeError as error:
        line = str(error).strip().splitlines()[-1]
        if "spacing" in line.lower():
            raise ImageError(f"{path}: voxel size must be positive ({line})", reason="bad-spacing") from error
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


def _check_header(path: Path) -> None:
    """Look at the header as it is in the file: ITK takes a missing orientation for identity, and the size of spacings.

    Raises:
        ImageError: Not readable as a header, spacing 0, negative or no number, or 3D without an orientation.
    """
    fields = _fields(path)
    for name in _SPACINGS:
        for text in fields.get(name, "").split():
            try:
                bad = not 0 < float(text) < float("inf")
            except ValueError:
                bad = True
            if bad and not (text.lower() == "nan" and name == "spacings" and fields.get("dimension") != "3"):
                raise ImageError(
                    f"{path}: voxel size {fields[name]} in the header; all must be positive", reason="bad-spacing"
                )
    if fields.get("ndims", fields.get("dimension")) == "3" and not any(name in fields for name in _PLACED):
        raise ImageError(
            f"{path}: the header gives no orientation, so left and right are unknown; "
            "write the file again with a tool that keeps it",
            reason="no-orientation",
        )


def _fields(path: Path) -> dict[str, str]:
    """Text fields of the header, names in lower case without spaces."""
    with path.open("rb") as stream:
        block = stream.read(_HEADER_BYTES)
    found: dict[str, str] = {}
    for line in block.decode("latin-1").splitlines():
        if not line.strip() and found:
            break  # the end of a NRRD header
        name, separator, value = line.replace(":=", "=").partition("=" if block[:4] != b"NRRD" else ":")
        if separator:
            found[name.strip().lower().replace(" ", "")] = value.strip()
        if name.strip() == "ElementDataFile":
            break
    return found
