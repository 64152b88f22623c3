"""Nearest cases by their features, exactly."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.data.likeness import unit_rows
from medssl.data.near_duplicates import nearest
from medssl.evaluation.feature_files import Array, FeatureTable

_ASKED = 4096  # at once, so that memory stays bounded


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
        self._patients = [table.columns["patient"][row] for row in self._rows]
        self._most = Counter(self._patients)

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
        asked = self._scaled(vectors)
        more = max((self._most[patient] for patient in patients), default=0) + bool(own)
        found: list[list[Neighbour]] = []
        for first in range(0, len(asked), _ASKED):
            found_here, places = nearest(self._known, asked[first : first + _ASKED], count + more, self._distances)
            for number, (values, near) in enumerate(zip(found_here, places, strict=True), first):
                left_out = patients[number] if patients else None
                itself = own[number] if own else -1
                kept = [
                    Neighbour(int(self._rows[place]), float(value))
                    for value, place in zip(values, near, strict=True)
                    if self._patients[place] != left_out and self._rows[place] != itself
                ]
                found.append(sorted(kept, key=lambda n: (-n.likeness, n.row))[:count])
        return found


def agreement(values: Sequence[str], found: Sequence[Sequence[Neighbour]]) -> float:
    """Share of the neighbours of all rows that have the row's own value; NaN where there are none."""
    same = [values[n.row] == value for value, near in zip(values, found, strict=True) for n in near]
    return float(np.mean(same)) if same else float("nan")
