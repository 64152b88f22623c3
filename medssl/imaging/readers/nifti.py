"""NIfTI images and label maps, placed by their own affine."""

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.guard import refuse_large
from medssl.imaging.volume import Source, Volume

_MAX_OFFSET = 64 << 20
"""Largest distance of the voxels from the beginning of the file; extensions lie between."""
_BLOCK = 1 << 20
_PART_BYTES = 32 << 20
"""Voxels of a file that are read at a time, in double precision."""
_FOREIGN_UNITS = {1: "metres", 3: "micrometres"}
"""Units of length by the lowest three bits of xyzt_units; 2 is mm, and any other counts as mm."""
_TRUNCATED = "{} is truncated: it is shorter than its header says: copy it again"


def read_nifti(path: Path) -> Volume:
    """Read a 3D NIfTI file as (1, *S), placed by its sform or, without one, by its qform.

    Raises:
        ImageError: Truncated, no NIfTI, not 3D, or a header without a usable place in space in mm.
    """
    image = _open(path)
    shape = _shape(image, path)
    geometry = _geometry(image, shape, path)
    _refuse_impossible(image, shape, path)
    proxy: Any = image.dataobj
    kind = np.dtype(proxy.dtype)
    if kind.kind not in "iuf":
        raise ImageError(f"{path}: voxels of type {kind} are no intensities", reason="not-an-image")
    try:
        array = _voxels(image, shape, path)
    except PermissionError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ImageError(
            f"{path} is truncated or damaged ({error}): copy it again from its source", reason="truncated"
        ) from error
    return Volume(array[None], geometry, source=Source((path,), "nifti", _placed_twice(image, geometry)))


def nifti_header(path: Path) -> Geometry:
    """Grid of a NIfTI file without reading its voxels.

    Raises:
        ImageError: As `read_nifti`, as far as the header tells.
    """
    image = _open(path)
    return _geometry(image, _shape(image, path), path)


def whole_nifti_header(path: Path) -> Geometry:
    """Grid of a NIfTI file that is as long as its header says.

    A whole gzip file ends with its unpacked length: only one where that is another number is unpacked, and dropped.

    Raises:
        ImageError: As `read_nifti`, as far as header and length tell.
    """
    image = _open(path)
    shape = _shape(image, path)
    geometry = _geometry(image, shape, path)
    _refuse_impossible(image, shape, path)
    due = _due(image, shape)
    if path.name.lower().endswith(".gz") and _told_length(path) != due % 2**32 and not _unpacks_to(path, due):
        raise ImageError(_TRUNCATED.format(path), reason="truncated")
    return geometry


def _voxels(image: nib.Nifti1Image, shape: tuple[int, ...], path: Path) -> npt.NDArray[np.generic]:
    """Voxels of a file; a packed one is read to its end, where its checksum is, which nibabel leaves out."""
    if not path.name.lower().endswith(".gz"):
        return _filled(image.dataobj, shape)
    with gzip.open(path) as stream:
        holder = nib.FileHolder(fileobj=stream)
        streamed: Any = type(image)
        array = _filled(streamed.from_file_map({"header": holder, "image": holder}).dataobj, shape)
        for _ in range(_MAX_OFFSET // _BLOCK):  # more behind the voxels is not looked at
            if not stream.read(_BLOCK):
                break
    return array


def _filled(proxy: Any, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    """Voxels of a file, in parts of some planes each: nibabel computes scaled values in double precision.

    Whole numbers that are not scaled stay as they are, all others become float32.
    """
    scaled, kind = (proxy.slope, proxy.inter) != (1, 0), np.dtype(proxy.dtype)
    kept = kind.newbyteorder("=") if kind.kind in "iu" and not scaled else np.dtype(np.float32)
    array = np.empty(shape, kept, order="F")
    step = max(_PART_BYTES // (8 * shape[0] * shape[1]), 1)
    for begin in range(0, shape[2], step):
        part = slice(begin, begin + step)
        array[:, :, part] = np.asanyarray(proxy[:, :, part]).reshape(array[:, :, part].shape)
    return array


def _due(image: nib.Nifti1Image, shape: tuple[int, ...]) -> int:
    """Bytes from the beginning of the file, unpacked, to the end of its voxels."""
    proxy: Any = image.dataobj
    return int(proxy.offset) + math.prod(shape) * int(proxy.dtype.itemsize)


def _told_length(path: Path) -> int:
    """Unpacked length that the last bytes of a gzip file tell, modulo 2^32."""
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        return int.from_bytes(stream.read(4), "little")


def _unpacks_to(path: Path, due: int) -> bool:
    """Whether a gzip file holds so many bytes."""
    try:
        with gzip.open(path) as stream:
            while due > 0 and (block := stream.read(min(due, _BLOCK))):
                due -= len(block)
    except (EOFError, OSError, zlib.error):
        return False
    return due <= 0


def _shape(image: nib.Nifti1Image, path: Path) -> tuple[int, ...]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise ImageError(
            f"{path}: {len(shape)}D image of {shape} where 3D is due; split the time points or channels into files",
            reason="not-3d",
        )
    return shape


def _open(path: Path) -> nib.Nifti1Image:
    try:
        _check_spacing(path)
        image = nib.load(path)
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist", reason="no-such-file") from error
    except PermissionError:
        raise
    except (
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        raise ImageError(
            f"{path} cannot be read as NIfTI ({' '.join(str(error).split())}): "
            "it is truncated, damaged or another format",
            reason="truncated" if path.stat().st_size else "empty-file",
        ) from error
    if not isinstance(image, nib.Nifti1Image):
        raise ImageError(f"{path} is no NIfTI file", reason="not-an-image")
    return image


def _check_spacing(path: Path) -> None:
    """Look at the header as it is in the file: nibabel mends a voxel size of 0 to 1 in silence."""
    with nib.openers.ImageOpener(str(path)) as stream:
        block = stream.read(nib.Nifti1Header.template_dtype.itemsize)
    if len(block) < nib.Nifti1Header.template_dtype.itemsize:
        raise EOFError(f"the header has {len(block)} bytes")
    header = nib.Nifti1Header(block, check=False)  # type: ignore[no-untyped-call]
    spacing = [float(s) for s in header["pixdim"][1:4]]
    if int(header["sizeof_hdr"]) == nib.Nifti1Header.sizeof_hdr and any(not np.isfinite(s) or s <= 0 for s in spacing):
        raise ImageError(f"{path}: voxel size {spacing} mm in the header; all must be positive", reason="bad-spacing")


def _refuse_impossible(image: nib.Nifti1Image, shape: tuple[int, ...], path: Path) -> None:
    """Look at the kind of voxels, and compare the size that the header tells with what is allowed and what is there.

    Raises:
        ImageError: Too large, or longer than the file; colours or complex numbers.
    """
    proxy: Any = image.dataobj
    if np.dtype(proxy.dtype).kind not in "iuf":
        what = "colours" if np.dtype(proxy.dtype).names else f"{proxy.dtype} numbers"
        raise ImageError(f"{path}: its voxels are {what}, no intensities: save one channel", reason="not-an-image")
    voxels = math.prod(shape)
    scaled = (proxy.slope, proxy.inter) != (1, 0)  # nibabel computes scaled values in double precision
    refuse_large(voxels * (8 if scaled else int(proxy.dtype.itemsize)), path)
    if int(proxy.offset) > _MAX_OFFSET:
        raise ImageError(
            f"{path}: its voxels begin at byte {proxy.offset}, too far from its header", reason="truncated"
        )
    if path.name.lower().endswith(".nii") and _due(image, shape) > path.stat().st_size:
        raise ImageError(_TRUNCATED.format(path), reason="truncated")


def _geometry(image: nib.Nifti1Image, shape: tuple[int, ...], path: Path) -> Geometry:
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        raise ImageError(
            f"{path}: the header gives no orientation (sform and qform codes are 0), so left and right are unknown; "
            "set a code with the tool that made the file",
            reason="no-orientation",
        )
    if unit := _FOREIGN_UNITS.get(int(image.header["xyzt_units"]) & 7):
        raise ImageError(
            f"{path}: the header gives lengths in {unit} (xyzt_units), where mm are due: write it anew in mm, or mend "
            "the unit if it is wrong",
            reason="length-unit",
        )
    try:
        geometry = Geometry(image.affine, shape)
    except ImageError as error:
        raise ImageError(f"{path}: {error.message}", reason=error.reason) from error
    other = _qform(image, shape)
    if other is not None and np.linalg.det(other.affine[:3, :3] @ np.linalg.inv(geometry.affine[:3, :3])) < 0:
        raise ImageError(
            f"{path}: sform and qform are mirror images of one another, so left and right are unknown: set the right "
            "one for both with the tool that made the file",
            reason="mirrored-qform",
        )
    return geometry


def _qform(image: nib.Nifti1Image, shape: tuple[int, ...]) -> Geometry | None:
    """Grid by the qform, None where the header has none or one that places nothing."""
    try:
        untyped: Any = image  # nibabel says it is typed, but this method is not
        affine = untyped.get_qform(coded=True)[0]
        return None if affine is None else Geometry(affine, shape)
    except (nib.spatialimages.HeaderDataError, ImageError):
        return None


def _placed_twice(image: nib.Nifti1Image, geometry: Geometry) -> tuple[str, ...]:
    """A sentence where sform and qform put a corner of the image more than a voxel apart."""
    other = _qform(image, geometry.shape)
    if other is None or other.is_close(geometry, atol_mm=min(geometry.spacing_mm)):
        return ()
    return (
        "the header places the image twice, and both differ by more than a voxel: the sform was used; programs that "
        "take the qform show it, and results on it, elsewhere",
    )
