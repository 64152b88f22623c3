"""Pictures by Pillow: PNG, JPEG, and the TIFF that tifffile leaves to it."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps

from medssl.imaging.errors import ImageError
from medssl.imaging.readers.guard import refuse_large

_FORMATS = ("PNG", "JPEG", "TIFF")
"""What Pillow may take a file for; it knows many more, and runs Ghostscript for PostScript."""
_PNG_GREY = 0
"""Colour type of a PNG without alpha and palette."""


def read_picture(path: Path, indexed: bool, page: int = 0) -> npt.NDArray[np.generic]:
    """Read a picture as (C, rows, columns); grey has one channel, colour three (alpha is dropped).

    It is turned as its orientation (EXIF) says and as viewers show it.

    Args:
        path: PNG, JPEG or TIFF.
        indexed: Keep the numbers of a picture with a palette instead of its colours, and those of a grey PNG of 1, 2 or
            4 bits.
        page: Of a TIFF, from 0.

    Raises:
        ImageError: Too large, or a PNG of more bits than can be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        with PIL.Image.open(path, formats=_FORMATS) as file:
            image: PIL.Image.Image = file
            if page:
                image.seek(page)
            refuse_large(image.width * image.height * len(image.getbands()) * (4 if image.mode in "IF" else 1), path)
            depth, colours = _png_depth(path) if image.format == "PNG" else (8, _PNG_GREY)
            if depth > 8 and colours != _PNG_GREY:
                raise ImageError(
                    f"{path}: colours or grey with alpha of {depth} bits cannot be read whole in a PNG: save it as "
                    "TIFF without compression, or with 8 bits",
                    reason="cannot-decode",
                )
            PIL.ImageOps.exif_transpose(image, in_place=True)
            if indexed and image.mode == "P":
                return np.array(image)[None]
            if image.mode in ("P", "PA", "CMYK", "YCbCr", "LA", "RGBA", "1"):
                image = image.convert("L" if image.mode in ("LA", "1") else "RGB")
            array = np.array(image)
            if indexed and depth < 8 and colours == _PNG_GREY:
                array //= 255 // (2**depth - 1)  # Pillow spreads the few numbers over 0 to 255
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array[..., :3], -1, 0))


def _png_depth(path: Path) -> tuple[int, int]:
    """Bits of a sample and colour type of a PNG file, in the first block after its signature."""
    with path.open("rb") as stream:
        head = stream.read(26)
    if head[12:16] != b"IHDR" or len(head) < 26:
        raise ValueError("the header of the PNG file is missing")
    return head[24], head[25]
