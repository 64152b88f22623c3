"""Nearest cases: as by all pairs, without the query and without its patient."""

from collections import Counter

import feature_tables
import numpy as np
import pytest

from medssl.evaluation import retrieval
from medssl.evaluation.retrieval import Neighbours, agreement


def _oracle(vectors: np.ndarray, row: int, allowed: list[int], count: int) -> list[int]:
    centred = vectors - vectors.mean(0)
    units = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return sorted(allowed, key=lambda other: -float(units[other] @ units[row]))[:count]


def test_neighbours_are_those_of_all_pairs_but_for_itself_and_its_patient(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 6)).astype(np.float32) + 3
    patients = [f"p{n}" for n in rng.integers(0, 9, 60)]
    table = feature_tables.table(vectors, patient=patients)
    monkeypatch.setattr(retrieval, "_ASKED", 7)
    others = Neighbours(table).of(vectors, 5, patients)
    itself = Neighbours(table).of(vectors, 5, own=list(range(60)))
    part = Neighbours(table, list(range(0, 60, 2))).of(vectors, 5, patients)
    for row in range(60):
        strangers = [n for n in range(60) if patients[n] != patients[row]]
        assert [n.row for n in others[row]] == _oracle(vectors, row, strangers, 5)
        assert [n.row for n in itself[row]] == _oracle(vectors, row, [n for n in range(60) if n != row], 5)
        assert [n.row for n in part[row]] == _oracle(vectors, row, [n for n in strangers if n % 2 == 0], 5)


@pytest.mark.parametrize("distances", [False, True])
def test_a_patient_of_many_rows_costs_the_others_nothing(distances: bool, monkeypatch: pytest.MonkeyPatch):
    """200 slices of one patient, next to copies of one another, among 100 rows of 50 others, every tenth copied."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 6))
    vectors[:200] = vectors[0] + 0.01 * vectors[:200]
    vectors[210::10] = vectors[205::10][:9]
    same = [n - 5 if n >= 210 and n % 10 == 0 else n for n in range(300)]
    vectors, patients = vectors.astype(np.float32), ["many"] * 200 + [f"p{n // 2}" for n in range(100)]
    asked, search = [], retrieval.nearest

    def nearest(known: np.ndarray, rows: np.ndarray, count: int, by_distance: bool) -> tuple[np.ndarray, np.ndarray]:
        asked.append((len(rows), count))
        return search(known, rows, count, by_distance)

    monkeypatch.setattr(retrieval, "nearest", nearest)
    monkeypatch.setattr(retrieval, "_ASKED", 64)
    found = Neighbours(feature_tables.table(vectors, patient=patients), distances=distances).of(vectors, 5, patients)
    centred = (vectors - vectors.mean(0)) / (vectors.std(0) if distances else 1)
    units = centred / (1 if distances else np.linalg.norm(centred, axis=1, keepdims=True))
    for row, near in enumerate(found):
        every = -np.linalg.norm(units - units[row], axis=1) if distances else units @ units[row]
        strangers = [n for n in range(300) if patients[n] != patients[row]]
        wanted = sorted(strangers, key=lambda n: -every[n])[:5]
        assert [same[n.row] for n in near] == [same[n] for n in wanted]
        assert [n.likeness for n in near] == pytest.approx(every[wanted], abs=1e-3)
    rows_of = Counter({count: sum(rows for rows, k in asked if k == count) for _, count in asked})
    assert list(rows_of) == [6, 24, 96, 205]
    assert (rows_of[6], rows_of[96], rows_of[205]) == (300, 200, 200), "of the many alone"


def test_fewer_where_there_are_fewer_and_copies_in_their_order():
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    found = Neighbours(feature_tables.table(vectors)).of(vectors[:1], 9, own=[0])
    assert [n.row for n in found[0]] == [1, 2, 3]
    assert found[0][0].likeness > 0.9999


def test_agreement_counts_alike_neighbours():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    near = Neighbours(feature_tables.table(vectors)).of(vectors, 1, own=[0, 1, 2, 3])
    assert agreement(["a", "a", "b", "b"], near) == 1
    assert agreement(["a", "a", "b", "c"], near) == 0.5


def test_distances_are_of_standardised_features():
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(40, 3)) * [1, 100, 0.01] + 7).astype(np.float32)
    found = Neighbours(feature_tables.table(vectors), distances=True).of(vectors[:6], 4, own=list(range(6)))
    scaled = (vectors - vectors.mean(0)) / vectors.std(0)
    for row, near in enumerate(found):
        every = np.linalg.norm(scaled - scaled[row], axis=1)
        order = [n for n in np.argsort(every, kind="stable") if n != row][:4]
        assert [n.row for n in near] == order
        assert [-n.likeness for n in near] == pytest.approx(every[order], rel=1e-2)
