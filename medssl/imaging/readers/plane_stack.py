"""Planes to one array: each is written to its place when it comes, so that no second image is held."""

from typing import Any

import numpy as np
import numpy.typing as npt


class PlaneStack:
    """An array of planes, in the smallest type that keeps the values of those that have come.

    One whole type of all planes stays; several become the smallest usual one that holds their range, and anything else
    float32. A plane that needs another type than those before it has them converted, which none undoes.

    Args:
        count: Number of planes.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._array: npt.NDArray[np.generic] = np.zeros(0, np.uint8)
        self._kinds: set[np.dtype[np.generic]] = set()
        self._low, self._high = np.inf, -np.inf

    def put(self, place: int, plane: npt.NDArray[np.generic]) -> None:
        """Write a plane (rows, columns[, 3]) to its place.

        Raises:
            ValueError: It has another shape than those before it.
        """
        if plane.dtype.kind in "iu":
            self._low, self._high = min(self._low, float(plane.min())), max(self._high, float(plane.max()))
        first = not self._kinds
        self._kinds.add(plane.dtype)
        if first:
            self._array = np.zeros((self._count, *plane.shape), self._kind())  # pages not yet written to take no memory
        elif plane.shape != self._array.shape[1:]:
            raise ValueError(f"a plane of shape {plane.shape} among planes of shape {self._array.shape[1:]}")
        self._array = self._array.astype(self._kind(), copy=False)
        self._array[place] = plane

    def array(self) -> npt.NDArray[np.generic]:
        """(n, rows, columns[, 3])."""
        return self._array

    def _kind(self) -> np.dtype[np.generic]:
        if any(kind.kind not in "iu" for kind in self._kinds):
            return np.dtype(np.float32)
        if len(self._kinds) == 1:
            return next(iter(self._kinds)).newbyteorder("=")
        return np.dtype(whole_kind(self._low, self._high) or np.float32)


def whole_kind(low: float, high: float) -> type[np.integer[Any]] | None:
    """The smallest of the usual integer types that holds a range."""
    for kind in (np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    return None
