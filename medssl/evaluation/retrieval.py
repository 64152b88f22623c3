"""Nearest cases by the cosine of their features, exactly."""

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
        cosine: Of the features, from their mean.
    """

    row: int
    cosine: float


class Neighbours:
    """Nearest rows of a table; final. Cosines are of vectors from the table's mean, as in the kNN probe.

    Args:
        table: What is searched.
        rows: The rows that may be found; all when left out.
    """

    def __init__(self, table: FeatureTable, rows: Sequence[int] | None = None) -> None:
        self._mean = table.vectors.mean(0, dtype=np.float64).astype(np.float32)
        self._rows = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
        self._units = unit_rows(table.vectors[self._rows] - self._mean)
        self._patients = [table.columns["patient"][row] for row in self._rows]
        self._most = Counter(self._patients)

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
        asked = unit_rows(vectors - self._mean)
        more = max((self._most[patient] for patient in patients), default=0) + bool(own)
        found: list[list[Neighbour]] = []
        for first in range(0, len(asked), _ASKED):
            cosines, places = nearest(self._units, asked[first : first + _ASKED], count + more)
            for number, (values, near) in enumerate(zip(cosines, places, strict=True), first):
                left_out = patients[number] if patients else None
                itself = own[number] if own else -1
                kept = [
                    Neighbour(int(self._rows[place]), float(value))
                    for value, place in zip(values, near, strict=True)
                    if self._patients[place] != left_out and self._rows[place] != itself
                ]
                found.append(sorted(kept, key=lambda n: (-n.cosine, n.row))[:count])
        return found


def agreement(values: Sequence[str], found: Sequence[Sequence[Neighbour]]) -> float:
    """Share of the neighbours of all rows that have the row's own value; NaN where there are none."""
    same = [values[n.row] == value for value, near in zip(values, found, strict=True) for n in near]
    return float(np.mean(same)) if same else float("nan")
