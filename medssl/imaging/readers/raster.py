"""PNG, JPEG and TIFF pictures: 2D, without a place in the patient."""

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import tifffile

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.picture import read_picture
from medssl.imaging.readers.tiff import read_tiff
from medssl.imaging.volume import UNKNOWN_SIZE, Source, Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PICTURE_AFFINE = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""Rows run to posterior and columns to the patient's left, as an axial slice is shown; 1 mm, which is not known."""


def read_raster(path: Path, *, indexed: bool = False) -> Volume:
    """Read a picture as (C, rows, columns); grey has one channel, colour three (alpha is dropped).

    Args:
        path: PNG, JPEG or TIFF.
        indexed: Keep the numbers of a picture with a palette, as label maps have them, instead of its colours, and
            those of a grey picture of fewer than 8 bits; of a TIFF also those of a picture whose zero is white.

    Raises:
        ImageError: Missing, truncated, too large, or not a 2D picture.
    """
    if not path.is_file():
        raise ImageError(f"{path} does not exist", reason="no-such-file")
    try:
        tiff = path.suffix.lower() in (".tif", ".tiff")
        array, notes = read_tiff(path, indexed) if tiff else (read_picture(path, indexed), ())
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path} is too large a picture ({error})", reason="image-limit") from error
    except (OSError, ValueError, SyntaxError, KeyError, zlib.error, struct.error, tifffile.TiffFileError) as error:
        raise ImageError(
            f"{path} cannot be read as a picture ({' '.join(str(error).split())}): truncated or damaged",
            reason="truncated" if path.stat().st_size else "empty-file",
        ) from error
    source = Source((path,), "raster", (UNKNOWN_SIZE, *notes), calibrated=False)
    return Volume(array, Geometry(PICTURE_AFFINE, array.shape[1:]), source=source)
