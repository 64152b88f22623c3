"""Nearest cases by their features, exactly."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medssl.data.likeness import unit_rows
from medssl.data.near_duplicates import nearest
from medssl.evaluation.feature_files import Array, FeatureTable

_ASKED = 4096  # at once, so that memory stays bounded
_GROWTH = 4  # of how many are asked for, where too many of those found are left out


@dataclass(frozen=True)
class Neighbour:
    """A case that is near.

    Args:
        row: Its place in the table.
        likeness: Cosine, or minus the distance.
    """

    row: int
    likeness: float


class Neighbours:
    """Nearest rows of a table; final.

    Args:
        table: What is searched.
        rows: The rows that may be found; all when left out.
        distances: Likeness is minus the Euclidean distance of features that have mean 0 and deviation 1 over the table;
            else the cosine of features from the table's mean, as in the kNN probe.
    """

    def __init__(self, table: FeatureTable, rows: Sequence[int] | None = None, distances: bool = False) -> None:
        self._mean, self._distances = table.vectors.mean(0, dtype=np.float64), distances
        self._deviation = np.maximum(table.vectors.std(0, dtype=np.float64), 1e-6)
        self._rows = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
        self._known = self._scaled(table.vectors[self._rows])
        patients = [table.columns["patient"][row] for row in self._rows]
        self._most, self._codes = Counter(patients), {name: n for n, name in enumerate(dict.fromkeys(patients))}
        self._owners = np.array([self._codes[name] for name in patients], dtype=np.int64)

    def _scaled(self, vectors: Array) -> Array:
        centred = vectors - self._mean
        return np.asarray(centred / self._deviation, dtype=np.float32) if self._distances else unit_rows(centred)

    def of(
        self,
        vectors: Array,
        count: int,
        patients: Sequence[str] = (),
        own: Sequence[int] = (),
    ) -> list[list[Neighbour]]:
        """Nearest rows of each vector, nearest first.

        Args:
            vectors: (n, E).
            count: How many; fewer where there are fewer.
            patients: Of each vector, whose rows are left out; nobody's when left out.
            own: Row that each vector is, which is left out; -1 for none.
        """
        asked, nobody = self._scaled(vectors), np.full(len(vectors), -1)
        owners = np.array([self._codes.get(patient, -1) for patient in patients]) if patients else nobody
        itself = np.asarray(own) if own else nobody
        most = min(len(self._known), count + max((self._most[patient] for patient in patients), default=0) + bool(own))
        found: list[list[Neighbour]] = [[] for _ in asked]
        left, wanted = np.arange(len(asked)), min(most, count + 1)
        while len(left):
            again = [left[:0]]
            for first in range(0, len(left), _ASKED):
                rows = left[first : first + _ASKED]
                values, places = nearest(self._known, asked[rows], wanted, self._distances)
                allowed = self._owners[places] != owners[rows, None]
                allowed &= self._rows[places] != itself[rows, None]
                settled = _settled(values, allowed, count) | (wanted == most)
                for n in np.flatnonzero(settled):
                    found[rows[n]] = self._first(values[n, allowed[n]], places[n, allowed[n]], count)
                again.append(rows[~settled])
            left, wanted = np.concatenate(again), min(most, wanted * _GROWTH)
        return found

    def _first(self, values: Array, places: npt.NDArray[np.int64], count: int) -> list[Neighbour]:
        """The nearest of these, those that are equally near by their rows."""
        rows = self._rows[places]
        return [Neighbour(int(rows[n]), float(values[n])) for n in np.lexsort((rows, -values))[:count]]


def _settled(values: Array, allowed: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.bool_]:
    """Of which rows (n, k) enough neighbours are found: what comes after is less like them than the last one."""
    number = allowed.cumsum(1)
    last = np.take_along_axis(values, (number >= count).argmax(1)[:, None], 1)[:, 0]
    return (number[:, -1] >= count) & (values[:, -1] < last)


def agreement(values: Sequence[str], found: Sequence[Sequence[Neighbour]]) -> float:
    """Share of the neighbours of all rows that have the row's own value; NaN where there are none."""
    same = [values[n.row] == value for value, near in zip(values, found, strict=True) for n in near]
    return float(np.mean(same)) if same else float("nan")
