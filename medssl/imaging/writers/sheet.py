"""A sheet of small pictures with a line of text below each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw

from medssl.imaging.files import atomic_path

_SIDE, _TEXT, _GAP, _COLUMNS = 96, 26, 6, 10


def write_sheet(pictures: Sequence[tuple[npt.NDArray[np.floating], str]], path: Path, title: str) -> None:
    """Write a PNG.

    Args:
        pictures: (H, W) image, darkest to brightest as its own values go, and its text; two lines are shown.
        path: File to write.
        title: First line.
    """
    rows = -(-len(pictures) // _COLUMNS)
    width, height = _COLUMNS * (_SIDE + _GAP) + _GAP, (rows or 1) * (_SIDE + _TEXT + _GAP) + _TEXT
    sheet = PIL.Image.new("L", (width, height), 255)
    draw = PIL.ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, fill=0)
    for number, (image, text) in enumerate(pictures):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (_SIDE + _GAP), _TEXT + row * (_SIDE + _TEXT + _GAP)
        small = small_picture(image)
        sheet.paste(small, (left + (_SIDE - small.width) // 2, top + (_SIDE - small.height) // 2))
        for line, part in enumerate(text.split("\n")[:2]):
            draw.text((left, top + _SIDE + 12 * line), part[: _SIDE // 6], fill=0)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def laid_plane(array: npt.NDArray[Any], of_volume: bool) -> npt.NDArray[Any]:
    """The middle plane (H, W) of an image (*S), laid as pictures are.

    Args:
        array: 2D or 3D.
        of_volume: Whether it is a slice of a volume, whose first axis runs across: rows go down, the second axis up.
    """
    plane = array if array.ndim == 2 else array[..., array.shape[-1] // 2]
    return plane.T[::-1] if of_volume or array.ndim == 3 else plane


def small_picture(image: npt.NDArray[np.floating]) -> PIL.Image.Image:
    """An image (H, W) as a small grey picture, darkest to brightest as its own values go."""
    low, high = float(image.min()), float(image.max())
    grey = np.rint(255 * (image - low) / (high - low)) if high > low else np.zeros_like(image)
    picture = PIL.Image.fromarray(grey.astype(np.uint8))
    picture.thumbnail((_SIDE, _SIDE))
    return picture
