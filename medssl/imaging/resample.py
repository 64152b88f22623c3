"""Moving voxels from one grid to another: exact where grids agree, separable where axes do, full affine elsewhere."""

import numpy as np
import numpy.typing as npt

from medssl.imaging.geometry import Geometry

_TOLERANCE = 1e-4
"""Voxels; coefficients and offsets closer than this to whole numbers are taken as whole."""
_SLAB_VOXELS = 1 << 22
"""Target voxels worked on at a time, to bound memory for labels with many classes and for oblique grids."""

_POINTS = 1 << 18
"""Points of an oblique grid worked on at a time: what the processor's cache holds."""

_Float = npt.NDArray[np.float32]


def regrid_image(array: npt.NDArray[np.generic], source: Geometry, target: Geometry) -> _Float:
    """Resample an image to another grid: linear, anti-aliased by a triangle filter along axes that shrink.

    Args:
        array: (C, *S) on the grid `source`.
        source: Grid of the array.
        target: Grid wanted; the same `spatial_dims`.

    Returns:
        (C, *T) float32; beyond the image its edge value is continued.
    """
    matrix, offset = index_map(source, target)
    low, high = _needed(array.shape[1:], matrix, offset, target.shape)
    array = array[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]
    offset = offset - low
    axes = _axis_pairs(matrix)
    if axes is None:
        return _oblique(array, matrix, offset, target)
    moved = np.transpose(array, (0, *(a + 1 for a in axes)))
    for axis, source_axis in enumerate(axes):
        scale, shift = float(matrix[source_axis, axis]), float(offset[source_axis])
        moved = _resample_axis(moved, axis + 1, target.shape[axis], scale, shift)
    return np.ascontiguousarray(moved, dtype=np.float32)


def regrid_label(
    label: npt.NDArray[np.uint8], source: Geometry, target: Geometry, continued: bool = False
) -> npt.NDArray[np.uint8]:
    """Resample a label map to another grid: copied where voxels coincide, else the class with the largest linear share.

    Args:
        label: (*S) uint8.
        source: Grid of the label.
        target: Grid wanted.
        continued: Outside the centres of the outer voxels their values are continued for a voxel, instead of mixed with
            background; so the result is not yet background there.

    Returns:
        (*T) uint8; 0 beyond the label's grid.
    """
    matrix, offset = index_map(source, target)
    axes = _axis_pairs(matrix)
    if axes is not None and _whole(matrix) and _whole(offset):
        return _copy(label, axes, np.rint(matrix).astype(int), np.rint(offset).astype(int), target.shape)
    result = np.zeros(target.shape, dtype=np.uint8)
    low, high = _reach(label, matrix, offset, target.shape)
    if np.any(low >= high):
        return result
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    step = max(_SLAB_VOXELS // int(np.prod((high - low)[1:])), 1)
    for begin in range(low[0], high[0], step):
        end = min(begin + step, high[0])
        slab = _part(target, np.array([begin, *low[1:]]), np.array([end, *high[1:]]))
        result[(slice(begin, end), *box[1:])] = _most_likely(label, source, slab, continued)
    return result


def _needed(
    shape: tuple[int, ...],
    matrix: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    target_shape: tuple[int, ...],
) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """Box of the source, first and last + 1 along each axis, beyond which nothing has a share in the target.

    It ends beyond the reach of the filter, or where the source ends and its edge is continued.
    """
    corners = np.array(list(np.ndindex(*[2] * len(shape)))) * (np.array(target_shape) - 1)
    index = corners @ matrix.T + offset
    margin = np.ceil(np.maximum(np.abs(matrix).sum(axis=1), 1)) + 2
    last = np.array(shape) - 1
    low = np.clip(np.floor(index.min(axis=0) - margin), 0, last).astype(int)
    return low, np.clip(np.ceil(index.max(axis=0) + margin), 0, last).astype(int) + 1


def _part(grid: Geometry, low: npt.NDArray[np.int_], high: npt.NDArray[np.int_]) -> Geometry:
    """The voxels `low` to `high` of a grid."""
    first = np.zeros(3)
    first[: grid.spatial_dims] = low
    return Geometry(_translated(grid.affine, first), tuple(int(n) for n in high - low))


def _reach(
    label: npt.NDArray[np.generic],
    matrix: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    shape: tuple[int, ...],
) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """Box of the target, first and last + 1 along each axis, beyond which no voxel of the label has a share."""
    filled = [
        np.flatnonzero(label.any(axis=tuple(a for a in range(label.ndim) if a != axis))) for axis in range(label.ndim)
    ]
    if not len(filled[0]):
        return np.zeros(label.ndim, dtype=int), np.zeros(label.ndim, dtype=int)
    margin = np.ceil(np.maximum(np.abs(matrix).sum(axis=1), 1)) + 1  # the filter of a coarser target reaches further
    ends = np.array([[f[0] - m, f[-1] + m] for f, m in zip(filled, margin, strict=True)])
    corners = np.array([ends[range(label.ndim), list(pick)] for pick in np.ndindex(*[2] * label.ndim)])
    index = (corners - offset) @ np.linalg.inv(matrix).T
    low = np.clip(np.floor(index.min(axis=0)).astype(int), 0, shape)
    return low, np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, shape)


def _most_likely(
    label: npt.NDArray[np.uint8], source: Geometry, target: Geometry, continued: bool
) -> npt.NDArray[np.uint8]:
    """Class with the largest share, each looked at where it reaches; all is background beyond, or the edge goes on."""
    low, high = _needed(label.shape, *index_map(source, target), target.shape)
    near = label[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    if not continued:
        near, low, high = np.pad(near, 1), low - 1, high + 1
    grid = _part(source, low, high)
    matrix, offset = index_map(grid, target)
    best = regrid_image((near == 0)[None], grid, target)[0]
    result = np.zeros(target.shape, dtype=np.uint8)
    for value in np.flatnonzero(_held(near)[1:]) + 1:
        mask = near == value
        first, last = _reach(mask, matrix, offset, target.shape)
        if np.any(first >= last):
            continue
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        share = regrid_image(mask[None], grid, _part(target, first, last))[0]
        wins = share > best[box]
        result[box][wins], best[box][wins] = value, share[wins]
    return result


def _held(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(256,) which values a label map holds; `bincount` takes eight bytes a voxel."""
    held = np.zeros(256, dtype=bool)
    for plane in label:
        held |= np.bincount(plane.ravel(), minlength=256) > 0
    return held


def index_map(source: Geometry, target: Geometry) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(d, d) matrix and (d,) offset that take target indices to source indices."""
    both = np.linalg.inv(source.affine) @ target.affine
    dims = source.spatial_dims
    return both[:dims, :dims], both[:dims, 3]


def _translated(affine: npt.NDArray[np.float64], index: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ index + affine[:3, 3]
    return moved


def _axis_pairs(matrix: npt.NDArray[np.float64]) -> tuple[int, ...] | None:
    """Source axis of each target axis, or None where an axis is a mixture (oblique to one another, or sheared)."""
    used = np.abs(matrix) > _TOLERANCE * np.max(np.abs(matrix))
    if np.any(used.sum(axis=0) != 1) or np.any(used.sum(axis=1) != 1):
        return None
    return tuple(int(np.argmax(used[:, axis])) for axis in range(matrix.shape[0]))


def _whole(values: npt.NDArray[np.float64]) -> bool:
    rounded = np.rint(values)
    return bool(np.all(np.abs(values - rounded) < _TOLERANCE) and np.max(np.abs(rounded)) < 1e6) and (
        values.ndim == 1 or bool(np.all(np.abs(rounded).sum(axis=0) == 1))
    )


def _copy(
    label: npt.NDArray[np.uint8],
    axes: tuple[int, ...],
    matrix: npt.NDArray[np.int_],
    offset: npt.NDArray[np.int_],
    shape: tuple[int, ...],
) -> npt.NDArray[np.uint8]:
    moved = np.transpose(label, axes)
    result = np.zeros(shape, dtype=np.uint8)
    picks, places = [], []
    for axis, source_axis in enumerate(axes):
        index = matrix[source_axis, axis] * np.arange(shape[axis]) + offset[source_axis]
        inside = (index >= 0) & (index < moved.shape[axis])
        picks.append(index[inside])
        places.append(np.flatnonzero(inside))
    result[np.ix_(*places)] = moved[np.ix_(*picks)]
    return result


def _resample_axis(
    array: npt.NDArray[np.generic], axis: int, size: int, scale: float, shift: float
) -> npt.NDArray[np.generic]:
    """Values at `scale * t + shift` along an axis, t = 0 ... size - 1."""
    centre = scale * np.arange(size) + shift
    last = array.shape[axis] - 1
    if abs(abs(scale) - 1) < _TOLERANCE and abs(shift - round(shift)) < _TOLERANCE:
        picked: npt.NDArray[np.generic] = np.take(array, np.clip(np.rint(centre).astype(int), 0, last), axis=axis)
        return picked
    width = max(abs(scale), 1.0)
    first = np.floor(centre - width).astype(int) + 1
    taps = first[:, None] + np.arange(int(np.ceil(2 * width)))
    weights = np.clip(1 - np.abs(taps - centre[:, None]) / width, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    taps = np.clip(taps, 0, last)
    column = [1] * array.ndim
    column[axis] = size
    result: _Float = np.zeros((*array.shape[:axis], size, *array.shape[axis + 1 :]), dtype=np.float32)
    for tap in range(taps.shape[1]):
        result += np.take(array, taps[:, tap], axis=axis) * weights[:, tap].astype(np.float32).reshape(column)
    return result


def _oblique(
    array: npt.NDArray[np.generic], matrix: npt.NDArray[np.float64], offset: npt.NDArray[np.float64], target: Geometry
) -> _Float:
    """Sample through the full affine; where the target is coarser, finely first, then shrink axis by axis.

    The fine grid goes a target voxel further than the target, so that its parts are what they are in the whole.

    An axis that no other mixes with (in a tilted stack: the one across the tilt) is resampled by itself before.
    """
    array, matrix, offset = _lone_axes(array, matrix.copy(), offset.copy(), target.shape)
    steps = np.linalg.norm(matrix, axis=0)
    factors = np.maximum(np.ceil(steps - 0.1), 1).astype(int)  # 10 % coarser is taken as the same
    if np.all(factors == 1):
        return _affine(array, matrix, offset, target.shape)
    beyond = np.where(factors > 1, 1, 0)
    first = -(factors - 1) / (2 * factors) - beyond
    shape = tuple(int((n + 2 * b) * f) for n, b, f in zip(target.shape, beyond, factors, strict=True))
    moved: npt.NDArray[np.generic] = _affine(array, matrix / factors, matrix @ first + offset, shape)
    for axis, (factor, more) in enumerate(zip(factors.tolist(), beyond.tolist(), strict=True)):
        moved = _resample_axis(moved, axis + 1, target.shape[axis], float(factor), (factor - 1) / 2 + factor * more)
    return moved.astype(np.float32, copy=False)


def _lone_axes(
    array: npt.NDArray[np.generic],
    matrix: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    shape: tuple[int, ...],
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    used = np.abs(matrix) > _TOLERANCE * np.max(np.abs(matrix))
    for axis, size in enumerate(shape):
        source = int(np.argmax(used[:, axis]))
        if used[:, axis].sum() == 1 and used[source].sum() == 1:
            scale, shift = float(matrix[source, axis]), float(offset[source])
            array = _resample_axis(array.astype(np.float32, copy=False), source + 1, size, scale, shift)
            matrix[source] = np.arange(len(shape)) == axis
            offset[source] = 0
    return array, matrix, offset


def _affine(
    array: npt.NDArray[np.generic],
    matrix: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    shape: tuple[int, ...],
) -> _Float:
    """Multilinear interpolation at `matrix @ t + offset`; the edge is continued outside."""
    dims = len(shape)
    result = np.empty((array.shape[0], *shape), dtype=np.float32)
    limit = np.array(array.shape[1:])
    planes = max(1, _POINTS // int(np.prod(shape[1:])))
    corners = [
        c for c in np.ndindex(*([2] * dims)) if not any(b and _on_voxels(matrix[a], offset[a]) for a, b in enumerate(c))
    ]
    for begin in range(0, shape[0], planes):
        end = min(begin + planes, shape[0])
        axes = [np.arange(begin, end), *(np.arange(n) for n in shape[1:])]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ matrix.T + offset
        index = np.clip(index, 0, limit - 1)
        low = np.floor(index).astype(int)
        part = (index - low).astype(np.float32)
        slab = np.zeros((array.shape[0], *index.shape[:-1]), dtype=np.float32)
        for corner in corners:
            weight = np.prod([part[..., a] if c else 1 - part[..., a] for a, c in enumerate(corner)], axis=0)
            place = tuple(np.minimum(low[..., a] + c, limit[a] - 1) for a, c in enumerate(corner))
            slab += weight * array[(slice(None), *place)].astype(np.float32, copy=False)
        result[:, begin:end] = slab
    return result


def _on_voxels(row: npt.NDArray[np.float64], offset: float) -> bool:
    """Whether every point lies on a voxel along a source axis, so that there is nothing to interpolate."""
    return bool(offset == round(offset) and np.all(row == np.rint(row)))
