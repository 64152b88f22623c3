"""PNG, JPEG and TIFF pictures: 2D, without a place in the patient."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import tifffile

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Source, Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_MAX_PIXELS = 400_000_000
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
    except (
        OSError,
        ValueError,
        SyntaxError,
        KeyError,
        PIL.Image.DecompressionBombError,
        tifffile.TiffFileError,
    ) as error:
        raise ImageError(
            f"{path} cannot be read as a picture ({' '.join(str(error).split())}): truncated or damaged",
            reason="truncated" if path.stat().st_size else "empty-file",
        ) from error
    source = Source((path,), "raster", ("pixel size is not known, so mm and mL mean nothing",), calibrated=False)
    return Volume(array, Geometry(PICTURE_AFFINE, array.shape[1:]), source=source)


def _picture(path: Path, indexed: bool = False) -> npt.NDArray[np.generic]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        with PIL.Image.open(path) as file:
            image: PIL.Image.Image = file
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {_MAX_PIXELS}")
            if indexed and image.mode == "P":
                return np.array(image)[None]
            if image.mode in ("P", "CMYK", "YCbCr", "LA", "RGBA", "1"):
                image = image.convert("L" if image.mode in ("LA", "1") else "RGB")
            array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array[..., :3], -1, 0))


def _tiff(path: Path) -> npt.NDArray[np.generic]:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        if int(np.prod(series.shape)) > _MAX_PIXELS:
            raise ValueError(f"{series.shape} pixels are more than {_MAX_PIXELS}")
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
