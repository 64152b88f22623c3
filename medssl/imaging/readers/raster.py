"""PNG, JPEG and TIFF pictures: 2D, without a place in the patient."""

import math
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import tifffile

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.guard import max_image_bytes, refuse_large
from medssl.imaging.volume import Source, Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "TIFF")
"""What Pillow may take a file for; it knows many more, and runs Ghostscript for PostScript."""
_DEFLATE = (8, 32946)
_COMPRESSIONS = (1, 5, 7, *_DEFLATE, 32773)
"""None, LZW, JPEG, deflate by its two numbers, PackBits."""
_DEFLATE_RATIO = 1032
"""Deflate makes no more of a byte."""
PICTURE_AFFINE = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""Rows run to posterior and columns to the patient's left, as an axial slice is shown; 1 mm, which is not known."""


def read_raster(path: Path, *, indexed: bool = False) -> Volume:
    """Read a picture as (C, rows, columns); grey has one channel, colour three (alpha is dropped).

    Args:
        path: PNG, JPEG or TIFF.
        indexed: Keep the numbers of a picture with a palette, as label maps have them, instead of its colours.

    Raises:
        ImageError: Missing, truncated, too large, or not a 2D picture.
    """
    if not path.is_file():
        raise ImageError(f"{path} does not exist", reason="no-such-file")
    try:
        array = _tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _picture(path, indexed)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path} is too large a picture ({error})", reason="image-limit") from error
    except (OSError, ValueError, SyntaxError, KeyError, zlib.error, struct.error, tifffile.TiffFileError) as error:
        raise ImageError(
            f"{path} cannot be read as a picture ({' '.join(str(error).split())}): truncated or damaged",
            reason="truncated" if path.stat().st_size else "empty-file",
        ) from error
    source = Source((path,), "raster", ("pixel size is not known, so mm and mL mean nothing",), calibrated=False)
    return Volume(array, Geometry(PICTURE_AFFINE, array.shape[1:]), source=source)


def _picture(path: Path, indexed: bool = False) -> npt.NDArray[np.generic]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        with PIL.Image.open(path, formats=_FORMATS) as file:
            image: PIL.Image.Image = file
            refuse_large(image.width * image.height * len(image.getbands()) * (4 if image.mode in "IF" else 1), path)
            if indexed and image.mode == "P":
                return np.array(image)[None]
            if image.mode in ("P", "CMYK", "YCbCr", "LA", "RGBA", "1"):
                image = image.convert("L" if image.mode in ("LA", "1") else "RGB")
            array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array[..., :3], -1, 0))


def _tiff(path: Path) -> npt.NDArray[np.generic]:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        refuse_large(math.prod(series.shape) * np.dtype(series.dtype).itemsize, path)
        _refuse_segments(file, series)
        try:
            array, axes = series.asarray(), series.axes
        except ValueError:  # a compression tifffile leaves to imagecodecs; Pillow reads the usual ones
            return _picture(path)
    while array.ndim > 2 and array.shape[0] == 1:
        array, axes = array[0], axes[1:]
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and axes[-1] == "S":
        return np.ascontiguousarray(np.moveaxis(array[..., :3], -1, 0))
    if array.ndim == 3:
        return np.ascontiguousarray(array)
    raise ValueError(f"a 2D picture is expected, got axes {axes} of {array.shape}")


def _refuse_segments(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Unpack long deflated strips and tiles piece by piece and drop them: tifffile unpacks each whole.

    Raises:
        ImageError: One unpacks to more than a picture may have.
        ValueError: A compression that is not expected in medical pictures.
    """
    for page in series.pages:
        if page is None:
            continue
        if page.compression not in _COMPRESSIONS:
            raise ValueError(f"compression {page.compression} is not read")
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if page.compression in _DEFLATE and count * _DEFLATE_RATIO > max_image_bytes():
                file.filehandle.seek(offset)
                _refuse_bomb(file.filehandle.read(count), file.filename)


def _refuse_bomb(packed: bytes, name: str) -> None:
    unpacker, size, rest = zlib.decompressobj(), 0, packed
    while rest and not unpacker.eof:
        size += len(unpacker.decompress(rest, 1 << 22))
        rest = unpacker.unconsumed_tail
        refuse_large(size, name)
