"""NRRD and MetaImage files, through SimpleITK."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.guard import refuse_large
from medssl.imaging.volume import Source, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
_NRRD = (".nrrd", ".nhdr")
_HEADER_BYTES = 1 << 16
_DATA_FILES = ("datafile", "elementdatafile")
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
    reader = itk.ImageFileReader()
    reader.SetImageIO(
        "NrrdImageIO" if path.suffix.lower() in _NRRD else "MetaImageIO"
    )  # no other format under this name
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        refuse_large(voxels * _pixel_bytes(itk.GetPixelIDValueAsString(reader.GetPixelID())), path)
        image = reader.Execute()
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


def _pixel_bytes(kind: str) -> int:
    """Bytes of one value, from SimpleITK's name of its type, for instance `vector of 16-bit signed integer`."""
    found = re.search(r"(\d+)-bit", kind)
    return (int(found[1]) // 8 if found else 8) * (2 if "complex" in kind else 1)


def _check_header(path: Path) -> None:
    """Look at the header as it is in the file: ITK takes a missing orientation for identity, and the size of spacings.

    Raises:
        ImageError: Not readable as a header, spacing 0, negative or no number, voxels in a file elsewhere, or 3D without
            an orientation.
    """
    lines = _lines(path)
    fields = dict(lines)
    for name, value in lines:
        if name in _DATA_FILES and value.upper() != "LOCAL":
            _check_data_file(path, value)
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


def _check_data_file(path: Path, name: str) -> None:
    """A header may name a file of voxels beside it, and no other: any path could be named and would be read.

    Raises:
        ImageError: A path, a list, a pattern, a link, or no such file.
    """
    file = path.parent / name
    if set(name) & set("/\\:%") or name.upper().startswith("LIST") or file.is_symlink() or not file.is_file():
        raise ImageError(
            f"{path} takes its voxels from {name[:100]!r}; only one plain file in the same folder is read, no path, list or "
            "link: put it there, or write the image again as one file",
            reason="detached-data",
        )


def _lines(path: Path) -> list[tuple[str, str]]:
    """Fields of the header in their order, names in lower case without spaces.

    Raises:
        ImageError: The header does not end where headers do, so that a field could hide behind what was looked at.
    """
    with path.open("rb") as stream:
        block = stream.read(_HEADER_BYTES)
    nrrd = path.suffix.lower() in _NRRD
    found: list[tuple[str, str]] = []
    for raw in block.decode("latin-1").split("\n"):  # as ITK splits: not at other line breaks of Unicode
        line = raw.rstrip("\r")
        if nrrd and not line and found:
            return found
        cut = re.search(":(?!=)" if nrrd else "[=:]", line)
        if cut:
            found.append((re.sub(r"\s", "", line[: cut.start()]).lower(), line[cut.end() :].strip()))
            if not nrrd and found[-1][0] == "elementdatafile" and not found[-1][1].upper().startswith("LIST"):
                return found
    if len(block) == _HEADER_BYTES:
        raise ImageError(f"{path}: the header is longer than {_HEADER_BYTES} bytes", reason="bad-header")
    return found
