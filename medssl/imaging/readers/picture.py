"""Pictures by Pillow: PNG, JPEG, and the TIFF that tifffile leaves to it."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image

from medssl.imaging.readers.guard import refuse_large

_FORMATS = ("PNG", "JPEG", "TIFF")
"""What Pillow may take a file for; it knows many more, and runs Ghostscript for PostScript."""


def read_picture(path: Path, indexed: bool, page: int = 0) -> npt.NDArray[np.generic]:
    """Read a picture as (C, rows, columns); grey has one channel, colour three (alpha is dropped).

    Args:
        path: PNG, JPEG or TIFF.
        indexed: Keep the numbers of a picture with a palette instead of its colours.
        page: Of a TIFF, from 0.

    Raises:
        ImageError: Too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        with PIL.Image.open(path, formats=_FORMATS) as file:
            image: PIL.Image.Image = file
            if page:
                image.seek(page)
            refuse_large(image.width * image.height * len(image.getbands()) * (4 if image.mode in "IF" else 1), path)
            if indexed and image.mode == "P":
                return np.array(image)[None]
            if image.mode in ("P", "PA", "CMYK", "YCbCr", "LA", "RGBA", "1"):
                image = image.convert("L" if image.mode in ("LA", "1") else "RGB")
            array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array[..., :3], -1, 0))
