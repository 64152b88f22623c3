"""After the network: keep the largest connected part of chosen labels."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 22
"""Voxels looked at or painted at a time."""
_Int = npt.NDArray[np.int64]


def keep_largest(labels: npt.NDArray[np.uint8], values: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Set all but the largest face-connected part of each value to background.

    Args:
        labels: (*S) uint8, 2D or 3D.
        values: Labels to treat; others stay.
    """
    if not values:
        return labels
    result = np.ascontiguousarray(labels).copy()
    for value in values:
        runs = find_runs(labels, value)
        if not len(runs.begins):
            continue
        parts = runs.parts()
        sizes = np.bincount(parts, weights=runs.ends - runs.begins)
        drop = parts != int(sizes.argmax())
        _paint(result, runs.begins[drop], runs.ends[drop])
    return result


@dataclass(frozen=True)
class Runs:
    """Neighbouring voxels of one value along the last axis; what memory takes grows with the surface, not the volume.

    Args:
        shape: Of the array.
        begins: (R,) first voxel of each run in the flattened array, rising.
        ends: (R,) last voxel + 1.
    """

    shape: tuple[int, ...]
    begins: _Int
    ends: _Int

    def parts(self) -> _Int:
        """(R,) number of the first run of the face-connected part that each run belongs to.

        Runs that touch across another axis are joined until nothing changes, each time through the smaller of two
        numbers.
        """
        root = np.arange(len(self.begins))
        joined = np.concatenate([self._touching(axis) for axis in range(len(self.shape) - 1)], axis=1)
        while True:
            low = np.minimum(root[joined[0]], root[joined[1]])
            before = root.copy()
            for side in joined:
                np.minimum.at(root, root[side], low)
                np.minimum.at(root, side, low)
            root = root[root]
            if np.array_equal(root, before):
                return root

    def _touching(self, axis: int) -> _Int:
        """(2, P) pairs of runs that touch across an axis."""
        step = int(np.prod(self.shape[axis + 1 :]))
        lower = np.flatnonzero(self.begins // step % self.shape[axis] < self.shape[axis] - 1)
        first = np.searchsorted(self.ends, self.begins[lower] + step, side="right")
        last = np.searchsorted(self.begins, self.ends[lower] + step, side="left")
        counts = np.maximum(last - first, 0)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.stack([np.repeat(lower, counts), np.repeat(first, counts) + offsets])


def find_runs(labels: npt.NDArray[np.uint8], value: int) -> Runs:
    """Runs of a value."""
    length = labels.shape[-1]
    rows = np.ascontiguousarray(labels).reshape(-1, length)
    step = max(_CHUNK // length, 1)
    begins: list[_Int] = []
    ends: list[_Int] = []
    for row in range(0, len(rows), step):
        mask = rows[row : row + step] == value
        if not mask.any():
            continue
        edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        for found, sign in ((begins, 1), (ends, -1)):
            at_row, at = np.nonzero(edges == sign)
            found.append((at_row + row) * length + at)
    none = [np.empty(0, dtype=np.int64)]
    return Runs(labels.shape, np.concatenate(begins or none), np.concatenate(ends or none))


def _paint(labels: npt.NDArray[np.uint8], begins: _Int, ends: _Int) -> None:
    """Set runs to background, a part of them at a time."""
    flat = labels.reshape(-1)
    lengths = ends - begins
    groups = np.searchsorted(np.cumsum(lengths), np.arange(_CHUNK, lengths.sum(), _CHUNK), side="right")
    for chunk in np.split(np.arange(len(begins)), groups):
        counts = lengths[chunk]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        flat[np.repeat(begins[chunk], counts) + offsets] = 0
