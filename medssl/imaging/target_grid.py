"""The grid that an image is brought to: orientation, right angles, crop and voxel size, described by geometries."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.resample import regrid_image
from medssl.imaging.volume import Volume

AXIS_CODES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
SHOWN = "shown"
"""Orientation of 2D images whose rows and columns lie as viewers show them."""
BLOCK_BYTES = 64 << 20
"""Planes of a large image that are worked on at a time."""
_Float = npt.NDArray[np.float32]


def oriented(geometry: Geometry, wanted: str) -> Geometry:
    """Same voxels, axes permuted and flipped to `wanted`; no interpolation. 2D images stay as they are, or `SHOWN`."""
    if geometry.spatial_dims == 2 and wanted != SHOWN:
        return geometry
    have = geometry.orientation
    affine = geometry.affine.copy()
    origin = np.zeros(3)
    shape = []
    for axis, code in enumerate(viewers_codes(have) if wanted == SHOWN else wanted):
        world, sign = AXIS_CODES[code]
        source = next(i for i, c in enumerate(have) if AXIS_CODES[c][0] == world)
        flip = AXIS_CODES[have[source]][1] != sign
        affine[:3, axis] = geometry.affine[:3, source] * (-1 if flip else 1)
        origin[source] = geometry.shape[source] - 1 if flip else 0
        shape.append(geometry.shape[source])
    affine[:3, 3] = geometry.to_world(origin)
    return Geometry(affine, tuple(shape))


def viewers_codes(have: str) -> str:
    """Where rows and columns of a plane with these axes run on a screen.

    Down to posterior or inferior, across to the left or, in a sagittal plane, to posterior.
    """
    across = {AXIS_CODES[code][0] for code in have[:2]}
    return {(0, 1): "PL", (0, 2): "IL", (1, 2): "IP"}[min(across), max(across)]


def shown_plane(plane: npt.NDArray[Any], have: str) -> npt.NDArray[Any]:
    """A 2D image (*S) with axes that run so, as rows and columns of a screen."""
    wanted = viewers_codes(have)
    first = next(axis for axis in (0, 1) if AXIS_CODES[have[axis]][0] == AXIS_CODES[wanted[0]][0])
    order = (first, 1 - first)
    turned = [AXIS_CODES[have[axis]][1] != AXIS_CODES[code][1] for axis, code in zip(order, wanted, strict=True)]
    return plane.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in turned)]


def right_angled(geometry: Geometry) -> Geometry:
    """Smallest grid at right angles over the whole image: the first axis kept, the third along the slices' normal."""
    columns = geometry.affine[:3, :3]
    first = columns[:, 0] / np.linalg.norm(columns[:, 0])
    normal = np.cross(columns[:, 0], columns[:, 1])
    normal = normal / np.linalg.norm(normal)
    if np.dot(normal, columns[:, 2]) < 0:
        normal = -normal
    second = np.cross(normal, first)
    second = second * np.sign(np.dot(second, columns[:, 1]))
    axes = np.stack([first, second, normal], axis=1)
    spacing = np.array([*geometry.spacing_mm[:2], abs(np.dot(normal, columns[:, 2]))])
    corners = geometry.to_world(np.array(list(np.ndindex(2, 2, 2))) * (np.array(geometry.shape) - 1))
    along = corners @ np.linalg.inv(axes).T
    low, high = along.min(axis=0), along.max(axis=0)
    shape = tuple(int(n) for n in np.ceil((high - low) / spacing - 1e-6) + 1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * spacing, axes @ low
    return Geometry(affine, shape)


def cropped(volume: Volume, grid: Geometry, kind: str, margin: int = 4) -> Geometry:
    """Part of a grid that holds the voxels that are not 0, or lie above the mean of the first channel, and a margin.

    Raises:
        ImageError: There is none such.
    """
    level = 0.0
    if kind == "above_mean":
        total = sum(float(block[0].sum(dtype=np.float64)) for _, _, block in blocks(volume, grid))
        level = total / float(np.prod(grid.shape))
    found = [np.zeros(n, dtype=bool) for n in grid.shape]
    for axis, begin, block in blocks(volume, grid):
        keep = np.any(block != 0, axis=0) if kind == "nonzero" else block[0] > np.float32(level)
        for a, hits in enumerate(found):
            hit = keep.any(axis=tuple(other for other in range(keep.ndim) if other != a))
            part = slice(begin, begin + len(hit)) if a == axis else slice(None)
            hits[part] |= hit
    if not found[0].any():
        raise ImageError("every voxel has one value, so there is no image to crop to", reason="constant-image")
    places = [np.flatnonzero(hits) for hits in found]
    low = [max(int(place[0]) - margin, 0) for place in places]
    high = [min(int(place[-1]) + 1 + margin, n) for place, n in zip(places, grid.shape, strict=True)]
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world((*low, 0)[:3])
    return Geometry(affine, tuple(b - a for a, b in zip(low, high, strict=True)))


def blocks(volume: Volume, grid: Geometry) -> Iterator[tuple[int, int, _Float]]:
    """The image on a grid, as many planes of its longest axis at a time as fit: axis, first plane, (C, *S)."""
    axis = int(np.argmax(grid.shape))
    plane = 4 * volume.channels * int(np.prod(grid.shape)) // grid.shape[axis]
    step = max(BLOCK_BYTES // plane, 1)
    for begin in range(0, grid.shape[axis], step):
        yield axis, begin, planes(volume, grid, axis, begin, min(begin + step, grid.shape[axis]))


def planes(volume: Volume, grid: Geometry, axis: int, begin: int, end: int) -> _Float:
    """The planes `begin` to `end` of an axis of the image on a grid."""
    first = np.zeros(3)
    first[axis] = begin
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(first)
    shape = tuple(end - begin if a == axis else n for a, n in enumerate(grid.shape))
    return regrid_image(volume.array, volume.geometry, Geometry(affine, shape))


def spaced(geometry: Geometry, spacing_mm: tuple[float, ...]) -> Geometry:
    """Grid with the voxel size wanted and the same centre; at least one voxel an axis."""
    old = np.array(geometry.spacing_mm)
    new = np.array(spacing_mm)
    if np.allclose(old, new, rtol=1e-3):
        return geometry
    shape = np.maximum(np.rint(np.array(geometry.shape) * old / new).astype(int), 1)
    affine = geometry.affine.copy()
    affine[:3, : len(new)] *= new / old
    first = np.zeros(3)
    first[: len(new)] = (np.array(geometry.shape) - 1) / 2 - (shape - 1) / 2 * new / old
    affine[:3, 3] = geometry.to_world(first)
    return Geometry(affine, tuple(int(n) for n in shape))
