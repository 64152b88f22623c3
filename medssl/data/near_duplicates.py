"""Near-duplicates among many images and nearest images, exactly: every pair counts, compared by faiss.

What is searched is an exhaustive index of the images kept so far, a block of images at a time, so that memory grows
with the images and never with their pairs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from medssl.data.curate import Dropped, Rows, members
from medssl.data.likeness import HASH_BITS, Array, unit_rows

_BLOCK = 1024
_ROUNDING = 1e-6  # of cosines in float32: a copy of an image counts as alike to it at a threshold of 1


class NearSearch(ABC):
    """Which images are too much alike; abstract.

    Args:
        items: (N, D), what is compared of each image.
        radius: As the index of faiss takes it.
    """

    def __init__(self, items: npt.NDArray[Any], radius: float) -> None:
        self._items, self._radius = np.ascontiguousarray(items), radius

    @abstractmethod
    def index(self) -> Any:
        """An empty index of faiss."""

    @abstractmethod
    def likeness(self, found: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the index says of a pair, as likeness: higher is more alike."""

    def add(self, index: Any, items: Rows) -> None:
        """Put images into an index."""
        index.add(self._items[items])

    def alike(self, index: Any, items: Rows) -> tuple[Rows, Rows, npt.NDArray[np.float32]]:
        """Pairs that are alike: place in `items`, place in the index, likeness; by these places in order."""
        limits, found, places = index.range_search(self._items[items], self._radius)
        asked = np.repeat(np.arange(len(items)), np.diff(limits.astype(np.int64)))
        order = np.lexsort((places, asked))
        return asked[order], places[order].astype(np.int64), self.likeness(found)[order]


class HashSearch(NearSearch):
    """Images whose hashes (N, 8) uint8 differ in `most` bits of 64 or fewer; likeness is minus their number."""

    def __init__(self, hashes: npt.NDArray[np.uint8], most: float) -> None:
        super().__init__(hashes, math.floor(most) + 1)  # the index finds what is nearer than its radius

    def index(self) -> Any:
        """Of bits."""
        return faiss.IndexBinaryFlat(HASH_BITS)

    def likeness(self, found: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Minus the bits that differ."""
        return -found


class CosineSearch(NearSearch):
    """Images whose embeddings (N, E) have a cosine of `least` or more, but for rounding (1e-6); likeness is it."""

    def __init__(self, embeddings: Array, least: float) -> None:
        super().__init__(unit_rows(embeddings), least - _ROUNDING)

    def index(self) -> Any:
        """Of inner products."""
        return faiss.IndexFlatIP(self._items.shape[1])

    def likeness(self, found: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The cosine."""
        return found


def distinct(search: NearSearch, groups: Sequence[str]) -> tuple[list[int], list[Dropped]]:
    """What `exemplars` keeps and drops, of any number of images.

    Each image goes where an earlier one that is kept is like it; the earliest such is the one that it is like.

    Args:
        search: Of the images.
        groups: Group of each image; images of two groups are never compared.
    """
    kept: list[int] = []
    dropped: list[Dropped] = []
    for own in members(groups).values():
        with _threads(1 if len(own) <= _BLOCK else None):
            exemplars, others = _distinct(search, np.array(own, dtype=np.int64))
        kept += exemplars.tolist()
        dropped += others
    return sorted(kept), sorted(dropped, key=lambda d: d.item)


def nearest(known: Array, asked: Array, count: int, distances: bool = False) -> tuple[npt.NDArray[np.float32], Rows]:
    """Likeness (n, count), falling, and places of the nearest vectors.

    Args:
        known: (N, E) vectors to search.
        asked: (n, E) vectors asked about.
        count: How many; no more than there are.
        distances: Likeness is minus the Euclidean distance, else the inner product.
    """
    index = (faiss.IndexFlatL2 if distances else faiss.IndexFlatIP)(known.shape[1])
    index.add(np.ascontiguousarray(known))
    found, places = index.search(np.ascontiguousarray(asked), min(count, len(known)))
    return (-np.sqrt(np.maximum(found, 0)) if distances else found), places


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let faiss compute with so many threads: to wake them for a small search takes longer than the search."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _distinct(search: NearSearch, own: Rows) -> tuple[Rows, list[Dropped]]:
    """The same of one group."""
    index, exemplars = search.index(), np.empty(0, dtype=np.int64)
    dropped: list[Dropped] = []
    for first in range(0, len(own), _BLOCK):
        block = own[first : first + _BLOCK]
        if len(exemplars):
            asked, places, values = search.alike(index, block)
            asked, earliest = np.unique(asked, return_index=True)
            dropped += _told(block[asked], exemplars[places[earliest]], values[earliest])
            block = np.delete(block, asked)
        fresh, others = _apart(search, block)
        dropped += others
        search.add(index, fresh)
        exemplars = np.concatenate([exemplars, fresh])
    return exemplars, dropped


def _apart(search: NearSearch, items: Rows) -> tuple[Rows, list[Dropped]]:
    """The same within a block, whose images are compared with one another."""
    index = search.index()
    search.add(index, items)
    asked, places, values = search.alike(index, items)
    limits = np.searchsorted(asked, np.arange(len(items) + 1))
    left = np.ones(len(items), dtype=bool)
    dropped: list[Dropped] = []
    for number in range(len(items)):
        if left[number]:
            own = slice(limits[number], limits[number + 1])
            goes = (places[own] > number) & left[places[own]]
            left[places[own][goes]] = False
            dropped += _told(items[places[own][goes]], [items[number]] * int(goes.sum()), values[own][goes])
    return items[left], dropped


def _told(items: Rows, like: Sequence[int] | Rows, values: npt.NDArray[np.float32]) -> list[Dropped]:
    return [Dropped(int(i), int(k), float(v)) for i, k, v in zip(items, like, values, strict=True)]
