"""Overlay picture: the image in grey with the mask in colour, three planes through the mask, oriented and to scale."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from medssl.imaging.files import atomic_path
from medssl.imaging.geometry import Geometry
from medssl.imaging.intensities import robust_ends
from medssl.imaging.labels import Label
from medssl.imaging.resample import regrid_image, regrid_label
from medssl.imaging.volume import Volume

PALETTE = (
    (230, 75, 53),
    (77, 187, 213),
    (0, 160, 135),
    (243, 155, 127),
    (132, 145, 180),
    (245, 210, 60),
    (180, 120, 220),
)
_SIDE = 320
_MARGIN = 18
_OPACITY = 0.45
_SMOOTH = PIL.Image.Resampling.BILINEAR  # bicubic rings at the border of the mask, in a colour of its own
_BACK, _TEXT = (0, 0, 0), (235, 235, 235)
_PLANES = (((0, 1), "axial", "RLAP"), ((0, 2), "coronal", "RLSI"), ((1, 2), "sagittal", "APSI"))
"""World axes across and down of each plane, and the letters at left, right, top, bottom (radiological view)."""

_Rgb = npt.NDArray[np.uint8]


def colour(label: Label) -> tuple[int, int, int]:
    """Colour of a label: its own, or one of the palette by its value."""
    return label.colour or PALETTE[(label.value - 1) % len(PALETTE)]


def write_overlay(
    image: Volume, mask: Volume | None, labels: Sequence[Label], path: Path, centre_by: Volume | None = None
) -> None:
    """Write a PNG.

    Args:
        image: (C, *S); the first channel is shown, a 2D image with three channels in colour.
        mask: (1, *S) uint8 on the same grid, or None.
        labels: Classes, for colours and legend.
        path: File to write.
        centre_by: Mask through whose middle the planes go, instead of `mask`; for pictures to be compared.
    """
    with atomic_path(path) as temporary:
        overlay_picture(image, mask, labels, centre_by=centre_by).save(temporary, format="PNG")


def overlay_picture(
    image: Volume,
    mask: Volume | None,
    labels: Sequence[Label],
    text: Sequence[str] = (),
    centre_by: Volume | None = None,
) -> PIL.Image.Image:
    """The picture that `write_overlay` writes; arguments as there.

    Args:
        image: (C, *S).
        mask: (1, *S) uint8 on the same grid, or None.
        labels: Classes.
        text: Lines below the legend; long ones are broken.
        centre_by: Mask through whose middle the planes go.
    """
    middle = mask if centre_by is None else centre_by
    picture = _planes(image, mask, labels, middle) if image.spatial_dims == 3 else _flat(image, mask, labels)
    return _with_legend(picture, labels if mask is not None else (), text)


def _flat(image: Volume, mask: Volume | None, labels: Sequence[Label]) -> PIL.Image.Image:
    array = image.array[:3] if image.channels >= 3 else image.array[:1].repeat(3, axis=0)
    grey = np.stack([_grey(channel, *robust_ends(channel)) for channel in array], axis=-1)
    painted = _painted(grey, None if mask is None else mask.array[0], labels)
    shown, spacing_mm = _upright_plane(painted, image.geometry)
    size = np.array([shown.shape[1] * spacing_mm[1], shown.shape[0] * spacing_mm[0]])
    width, height = np.maximum(np.rint(size * 2 * _SIDE / size.max()), 1).astype(int)
    return PIL.Image.fromarray(np.ascontiguousarray(shown)).resize((int(width), int(height)), _SMOOTH)


def _upright_plane(plane: _Rgb, geometry: Geometry) -> tuple[_Rgb, tuple[float, float]]:
    """(rows, columns, 3) as a radiologist sees it (right at the left, anterior or superior up); mm a row, a column."""
    directions = geometry.affine[:3, :2] / geometry.spacing_mm
    fixed = int(np.argmax(np.abs(np.cross(directions[:, 0], directions[:, 1]))))
    across = next(axes for axes, *_ in _PLANES if fixed not in axes)[0]
    column = int(np.argmax(np.abs(directions[across])))
    row = 1 - column
    up = next(axes for axes, *_ in _PLANES if fixed not in axes)[1]
    shown = plane if row == 0 else plane.transpose(1, 0, 2)
    shown = shown[::-1] if directions[up, row] > 0 else shown
    shown = shown[:, ::-1] if directions[across, column] > 0 else shown
    return shown, (geometry.spacing_mm[row], geometry.spacing_mm[column])


def _planes(image: Volume, mask: Volume | None, labels: Sequence[Label], middle: Volume | None) -> PIL.Image.Image:
    """Three planes, on a grid along the patient's axes with voxels as fine as the image's finest."""
    grid = _upright(image.geometry)
    centre = _centre(image, middle)
    sheet = PIL.Image.new("RGB", (3 * (_SIDE + 2 * _MARGIN), _SIDE + 2 * _MARGIN), _BACK)
    place = grid.to_index(centre)
    inside, (low, high) = np.broadcast_to(np.uint8(1), image.geometry.shape), robust_ends(image.array[0])
    for number, (axes, title, letters) in enumerate(_PLANES):
        fixed = 3 - sum(axes)
        level = int(np.clip(round(float(place[fixed])), 0, grid.shape[fixed] - 1))
        plane = _slice_grid(grid, fixed, level)
        grey = _grey(regrid_image(image.array[:1], image.geometry, plane)[0], low, high)
        grey[regrid_label(inside, image.geometry, plane) == 0] = 0  # beyond the field of view nothing was measured
        label = None if mask is None else np.squeeze(regrid_label(mask.array[0], mask.geometry, plane), axis=fixed)
        flat = _painted(np.repeat(np.squeeze(grey, axis=fixed)[..., None], 3, axis=-1), label, labels)
        shown = flat.transpose(1, 0, 2)[::-1, ::-1]  # superior or anterior up; the patient's right at the left
        sheet.paste(_framed(shown, title, letters), (number * (_SIDE + 2 * _MARGIN), 0))
    return sheet


def _upright(geometry: Geometry) -> Geometry:
    """Isotropic grid along R, A, S over the image, at most 256 voxels along its longest side."""
    corners = geometry.to_world(np.array(list(np.ndindex(2, 2, 2))) * (np.array(geometry.shape) - 1))
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = max(min(geometry.spacing_mm), float((high - low).max()) / 255, 1e-3)
    shape = tuple(int(n) for n in np.maximum(np.ceil((high - low) / size).astype(int) + 1, 1))
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = low
    return Geometry(affine, shape)


def _slice_grid(grid: Geometry, axis: int, level: int) -> Geometry:
    index = np.zeros(3)
    index[axis] = level
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(index)
    return Geometry(affine, tuple(1 if a == axis else n for a, n in enumerate(grid.shape)))


def _centre(image: Volume, mask: Volume | None) -> npt.NDArray[np.float64]:
    if mask is not None and mask.array.any():
        return image.geometry.to_world(_middle(mask.array[0]))
    return image.geometry.to_world((np.array(image.geometry.shape) - 1) / 2)


def _middle(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Mean index (i, j, k) of what is not 0, by the sums along the axes: a list of places may not fit in memory."""
    sums = [np.zeros(n) for n in array.shape]
    for i, plane in enumerate(array):
        found = plane > 0
        sums[0][i] = found.sum()
        sums[1] += found.sum(axis=1)
        sums[2] += found.sum(axis=0)
    return np.array([np.arange(len(total)) @ total / total.sum() for total in sums])


def _grey(values: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.uint8]:
    share = (values.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.asarray(np.clip(share, 0, 1) * 255, dtype=np.uint8)


def _painted(grey: _Rgb, label: npt.NDArray[np.uint8] | None, labels: Sequence[Label]) -> _Rgb:
    picture = grey.astype(np.float32)
    for item in labels if label is not None else ():
        where = label == item.value
        picture[where] = (1 - _OPACITY) * picture[where] + _OPACITY * np.array(colour(item), dtype=np.float32)
    return picture.astype(np.uint8)


def _framed(plane: _Rgb, title: str, letters: str) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(np.ascontiguousarray(plane))
    scale = _SIDE / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), _SMOOTH)
    side = _SIDE + 2 * _MARGIN
    frame = PIL.Image.new("RGB", (side, side), _BACK)
    frame.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    draw = PIL.ImageDraw.Draw(frame)
    middle = side // 2
    for letter, where, anchor in zip(
        letters,
        ((2, middle), (side - 2, middle), (middle, 1), (middle, side - 2)),
        ("lm", "rm", "mt", "mb"),
        strict=True,
    ):
        draw.text(where, letter, fill=_TEXT, anchor=anchor, font=PIL.ImageFont.load_default(14))
    draw.text((4, 2), title, fill=_TEXT, font=PIL.ImageFont.load_default(12))
    return frame


def _with_legend(picture: PIL.Image.Image, labels: Sequence[Label], text: Sequence[str]) -> PIL.Image.Image:
    line, width = 18, max(picture.width, 360)
    lines = [part for sentence in text for part in textwrap.wrap(sentence, width // 7)]
    height = picture.height + line * (len(labels) + len(lines) + 1) + 10
    sheet = PIL.Image.new("RGB", (width, height), _BACK)
    sheet.paste(picture, (0, 0))
    draw = PIL.ImageDraw.Draw(sheet)
    font = PIL.ImageFont.load_default(13)
    top = picture.height + 4
    for label in labels:
        draw.rectangle((6, top + 2, 18, top + 14), fill=colour(label))
        draw.text((26, top), label.name, fill=_TEXT, font=font)
        top += line
    for part in lines:
        draw.text((6, top), part, fill=_TEXT, font=font)
        top += line
    draw.text((6, top), "Not a medical device. For research only.", fill=(160, 160, 160), font=font)
    return sheet
