"""Masks back on the image's own grid, to its rim: prepared voxels can end up to a quarter of one before the image."""

import numpy as np
import numpy.typing as npt

from medssl.imaging.geometry import Geometry
from medssl.imaging.resample import index_map, regrid_label

_EPS = 1e-4
"""Voxels; a centre this close to a face lies on it."""
_PART_VOXELS = 1 << 18
"""Voxels of the image worked on at a time, to bound memory."""

_Floats = npt.NDArray[np.float64]


def restored_label(mask: npt.NDArray[np.uint8], prepared: Geometry, native: Geometry) -> npt.NDArray[np.uint8]:
    """Bring a mask from the prepared grid back to the grid of the image.

    Outside the centres of the outer voxels their values are continued, as those of scores and images are: nothing is
    known to be background there. This ends at the outer faces, and where the prepared voxels are at least twice as
    large as the image's, as far beyond them as the rounding of their number can have left voxels of the image out.

    Args:
        mask: (*S) uint8 on the prepared grid.
        prepared: Its grid.
        native: Grid of the image.

    Returns:
        (*T) uint8; 0 further out, which is beyond a crop.
    """
    result = regrid_label(mask, prepared, native, continued=True)
    matrix, offset = index_map(prepared, native)
    reach = _reach_beyond(matrix) + _EPS
    _clear_beyond(result, matrix, offset, np.stack([-0.5 - reach, np.array(mask.shape) - 0.5 + reach], axis=1))
    return result


def _reach_beyond(matrix: _Floats) -> _Floats:
    """Prepared voxels, an axis, that the centre of a voxel of the image can lie beyond the outer faces by.

    Rounding takes a quarter of a prepared voxel at each side at most, and a centre lies half a voxel of the image
    inside it. Along an axis that several of a tilted image mix in, that half is not counted.
    """
    steps = np.abs(matrix)
    alone = (steps > _EPS * steps.max()).sum(axis=1) == 1
    reach: _Floats = np.maximum(0.25 - np.where(alone, steps.max(axis=1) / 2, 0), 0)
    return reach


def _clear_beyond(result: npt.NDArray[np.uint8], matrix: _Floats, offset: _Floats, bounds: _Floats) -> None:
    """Make background, in place, of the voxels whose prepared index lies outside (d, 2) bounds."""
    corners = np.array(list(np.ndindex(*[2] * result.ndim))) * (np.array(result.shape) - 1) @ matrix.T + offset
    if np.all((corners >= bounds[:, 0]) & (corners <= bounds[:, 1])):
        return
    step = max(_PART_VOXELS // int(np.prod(result.shape[1:])), 1)
    for begin in range(0, len(result), step):
        part = result[begin : begin + step]
        axes = np.ix_(np.arange(begin, begin + len(part)), *(np.arange(n) for n in part.shape[1:]))
        for row, shift, (low, high) in zip(matrix, offset, bounds, strict=True):
            index = np.full((1,) * part.ndim, shift)
            for factor, places in zip(row, axes, strict=True):
                if abs(factor) * places[(-1,) * part.ndim] > _EPS:  # so that it stays small where axes are parallel
                    index = index + factor * places
            part *= (index >= low) & (index <= high)
