"""The part of the all-class scores held at a time: windows are added in, finished planes come out as classes."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float32]
Observe = Callable[[tuple[slice, ...], _Float, npt.NDArray[np.uint8]], None]
"""Told of each finished plane: its place in the image, its blended logits (K, *plane), its classes (*plane)."""


def gaussian(window: Sequence[int]) -> _Float:
    """Blending weight of a window: a Gaussian with a deviation of an eighth of each side, 1 at its highest."""
    weight = np.ones((), dtype=np.float64)
    for side in window:
        away = (np.arange(side) - (side - 1) / 2) / max(side / 8, 0.5)
        weight = weight[..., None] * np.exp(-0.5 * away**2)
    blend: _Float = np.maximum(weight / weight.max(), 1e-4).astype(np.float32)
    return blend


class Slab:
    """All-class scores of the planes that windows still reach, for a strip of the image.

    Args:
        num_classes: K.
        shape: Size of the slab: the window along `stream`, the strip's width along its axis, else the image.
        corner: Place of the slab in the image.
        stream: Axis along which planes are finished.
        weight: (*window) blending weight.
        weighted: Keep the sum of weights, so that finished planes have blended logits and not only an order.
    """

    def __init__(
        self,
        num_classes: int,
        shape: Sequence[int],
        corner: Sequence[int],
        stream: int,
        weight: _Float,
        weighted: bool,
    ) -> None:
        self.scores: _Float = np.zeros((num_classes, *shape), dtype=np.float32)
        self.total: _Float | None = np.zeros((1, *shape), dtype=np.float32) if weighted else None
        self.corner, self._stream, self._weight = list(corner), stream, weight

    def add(self, place: Sequence[int], scores: _Float) -> None:
        """Add the scores (K, *window) of a window that begins at `place` of the image, as far as it lies in here."""
        inner, outer = [], []
        sides = zip(place, self.corner, self._weight.shape, self.scores.shape[1:], strict=True)
        for begin, corner, side, size in sides:
            low, high = max(begin, corner), min(begin + side, corner + size)
            inner.append(slice(low - begin, high - begin))
            outer.append(slice(low - corner, high - corner))
        weight = self._weight[tuple(inner)]
        product = np.empty_like(weight)
        into = self.scores[(slice(None), *outer)]
        for number, score in enumerate(scores):  # a class at a time: the product stays in the processor's cache
            np.multiply(score[tuple(inner)], weight, out=product)
            into[number] += product
        if self.total is not None:
            self.total[0][tuple(outer)] += weight

    def finish(self, done: int, labels: npt.NDArray[np.uint8], observe: Observe | None) -> None:
        """Write the classes of the first `done` planes into `labels` (*S), then move on by as many planes."""
        stream = self._stream
        front: list[slice] = [slice(None)] * labels.ndim
        where = [slice(c, c + n) for c, n in zip(self.corner, self.scores.shape[1:], strict=True)]
        for plane in range(done):
            front[stream] = slice(plane, plane + 1)
            where[stream] = slice(self.corner[stream] + plane, self.corner[stream] + plane + 1)
            scores = self.scores[(slice(None), *front)]
            found = highest(scores)
            labels[tuple(where)] = found
            if observe is not None and self.total is not None:
                observe(tuple(where), scores / self.total[(slice(None), *front)], found)
        for array in [self.scores] if self.total is None else [self.scores, self.total]:
            _advance(array, stream + 1, done)
        self.corner[stream] += done


def _advance(array: _Float, axis: int, done: int) -> None:
    """Move planes to the front by `done`, in place, 0 behind them."""
    size = array.shape[axis]
    front: list[slice] = [slice(None)] * array.ndim
    back: list[slice] = [slice(None)] * array.ndim
    for plane in range(size):
        front[axis], back[axis] = slice(plane, plane + 1), slice(plane + done, plane + done + 1)
        array[tuple(front)] = array[tuple(back)] if plane + done < size else 0


def highest(scores: _Float) -> npt.NDArray[np.uint8]:
    """Number of the class with the highest score, the first of equals; `argmax` over the first axis copies it all."""
    best, labels = scores[0].copy(), np.zeros(scores.shape[1:], dtype=np.uint8)
    for number, score in enumerate(scores[1:], start=1):
        labels[score > best] = number
        np.maximum(best, score, out=best)
    return labels
