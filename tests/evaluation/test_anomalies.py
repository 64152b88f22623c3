"""Mislabel and outlier candidates: what was planted is found, and what cannot be judged is said."""

import csv
import json
from pathlib import Path

import feature_tables
import numpy as np
import pytest

from medssl.__main__ import main
from medssl.commands import anomalies as verb
from medssl.evaluation import anomalies
from medssl.evaluation.anomalies import Doubts, judged_rows, label_doubts, outlier_scores
from medssl.evaluation.retrieval import Neighbour, Neighbours


def _clumps(seed: int = 0) -> tuple[np.ndarray, list[str], list[str]]:
    """120 rows of 60 patients in three clumps, one a class."""
    rng = np.random.default_rng(seed)
    classes = np.arange(120) // 2 % 3
    vectors = 4 * np.eye(3, 8)[classes] + rng.normal(size=(120, 8))
    return vectors, [f"k{n}" for n in classes], [f"p{n // 2}" for n in range(120)]


def _doubts(vectors: np.ndarray, classes: list[str], patients: list[str]) -> Doubts:
    table = feature_tables.table(vectors, class_=classes, patient=patients)
    rows, told = judged_rows(table)
    assert told == []
    near = Neighbours(table, rows.tolist()).of(table.vectors[rows], 10, patients)
    return label_doubts(table, rows, near, folds=5, seed=0)


def test_turned_classes_are_found_and_few_others_are():
    vectors, classes, patients = _clumps()
    turned = [3, 20, 47, 80, 101]
    given = list(classes)
    for row in turned:
        given[row] = f"k{(int(classes[row][1]) + 1) % 3}"
    doubts = _doubts(vectors, given, patients)
    assert set(np.argsort(-doubts.scores)[:5].tolist()) == set(turned)
    sure = [row for row in turned if doubts.by_probe[row] >= 0]
    assert len(sure) >= 4  # of one the probe is a little less sure than of its own cases
    assert all(doubts.classes[doubts.by_probe[row]] == classes[row] for row in sure)
    assert all(doubts.classes[doubts.by_neighbours[row]] == classes[row] for row in turned)
    assert int((doubts.by_neighbours >= 0).sum()) <= 8
    assert doubts.neighbours.sum(1) == pytest.approx(1)
    assert doubts.probe.sum(1) == pytest.approx(1)
    again = _doubts(vectors, given, patients)
    assert np.array_equal(again.probe, doubts.probe)


def test_a_patient_does_not_vouch_for_its_own_wrong_class():
    vectors, classes, patients = _clumps()
    vectors[1] = vectors[0] + 0.01
    given = list(classes)
    given[0] = given[1] = "k2"
    doubts = _doubts(vectors, given, patients)
    assert doubts.by_neighbours[:2].tolist() == [0, 0]
    assert doubts.by_probe[:2].tolist() == [0, 0]


def test_the_rules_by_hand():
    doubts = Doubts(
        np.arange(3), ("a", "b"), np.array([0, 0, 1]),
        neighbours=np.array([[0.5, 0.5], [0.2, 0.8], [0.1, 0.9]]),
        probe=np.array([[0.3, 0.7], [0.05, 0.95], [0.6, 0.4]]),
        thresholds=np.array([0.7, 0.8]),
        counted=np.array([[0.5, 0.5], [0.3, 0.7], [0.1, 0.9]]),
    )  # fmt: skip
    assert doubts.by_neighbours.tolist() == [-1, 1, -1]
    assert doubts.by_probe.tolist() == [-1, 1, -1]
    assert doubts.scores == pytest.approx([0.6, 0.875, 0.35])


def test_one_near_neighbour_does_not_outvote_nineteen():
    vectors = np.random.default_rng(0).normal(size=(42, 4))
    table = feature_tables.table(vectors, class_=["a"] * 21 + ["b"] * 21)
    near = [[Neighbour(k, 0.6) for k in (range(1, 20) if row < 21 else range(22, 41))] for row in range(42)]
    near[0] = [Neighbour(30, 0.95), *near[0]]
    doubts = label_doubts(table, np.arange(42), near, folds=2, seed=0)
    assert doubts.neighbours[0, 1] > 0.8
    assert doubts.counted[0].tolist() == pytest.approx([0.95, 0.05])
    assert doubts.by_neighbours[0] == -1


def test_a_class_that_the_probe_has_not_seen_is_not_doubted_by_it(monkeypatch: pytest.MonkeyPatch):
    """Where all patients of a rare class come into one fold, nothing was learned of it."""
    rng = np.random.default_rng(0)
    given = ["a"] * 20 + ["b"] * 20 + ["rare"] * 2
    vectors = 4 * np.eye(3, 5)[[0] * 20 + [1] * 20 + [2] * 2] + rng.normal(size=(42, 5))
    parts = [(np.arange(0, 42, 2), np.arange(1, 42, 2)), (np.arange(1, 42, 2), np.arange(0, 42, 2))]
    together = [(np.setdiff1d(known, [40, 41]), np.union1d(asked, [40, 41])) for known, asked in parts[:1]]
    together += [(np.setdiff1d(known, [40, 41]), np.setdiff1d(asked, [40, 41])) for known, asked in parts[1:]]
    monkeypatch.setattr(anomalies.StratifiedGroupKFold, "split", lambda *_: together)
    doubts = _doubts(vectors, given, [f"p{n}" for n in range(42)])
    assert doubts.probe[40:] == pytest.approx(1 / 3)
    assert doubts.by_probe[40:].tolist() == [-1, -1]


def test_the_probe_does_not_doubt_a_class_that_it_believes_in_most():
    """The rare class has a low bar; the first row passes it, and is still more likely of its own class."""
    doubts = Doubts(
        np.arange(2), ("common", "rare"), np.array([0, 0]),
        neighbours=np.array([[0.9, 0.1], [0.9, 0.1]]),
        probe=np.array([[0.7, 0.3], [0.4, 0.6]]),
        thresholds=np.array([0.8, 0.25]),
        counted=np.array([[0.9, 0.1], [0.9, 0.1]]),
    )  # fmt: skip
    assert doubts.by_probe.tolist() == [-1, 1]


def test_what_cannot_be_judged_is_said():
    vectors = np.random.default_rng(0).normal(size=(8, 3))
    table = feature_tables.table(vectors, class_=["a", "a", "a", "b", "b", "b", "c", ""])
    rows, told = judged_rows(table)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert told[0] == "class 'c' has 1 patient(s): its cases are not judged"
    assert "1 of 8 rows have no class" in told[1]
    alone, told = judged_rows(feature_tables.table(vectors, class_=["a"] * 7 + ["b"]))
    assert len(alone) == 0
    assert "mislabelled cases are not looked for" in told[-1]


def test_two_patients_a_class_still_give_an_answer():
    vectors = np.array([[5, 0], [5, 1], [0, 5], [1, 5]], float) + 0.1
    doubts = _doubts(vectors, ["a", "a", "b", "b"], ["p0", "p1", "p2", "p3"])
    assert doubts.probe.sum(1) == pytest.approx(1)
    assert (doubts.by_neighbours < 0).all()


def test_the_strange_ones_are_outliers_though_they_lie_in_a_common_direction():
    rng = np.random.default_rng(0)
    usual = rng.normal(size=(60, 6))
    strange = np.array([9, 0, 0, 0, 0, 0]) + 3 * rng.normal(size=(3, 6))
    vectors = np.concatenate([usual, strange]).astype(np.float32)
    rows = list(range(63))
    scores = outlier_scores(Neighbours(feature_tables.table(vectors), distances=True).of(vectors, 5, own=rows))
    assert set(np.argsort(-scores)[:3].tolist()) == {60, 61, 62}
    assert scores[60:].min() > 3
    assert np.median(scores) == pytest.approx(0)


def test_copies_are_no_outliers():
    assert outlier_scores([[Neighbour(0, -0.0)]] * 4).tolist() == [0, 0, 0, 0]


def test_lines_are_made_of_what_is_listed_and_all_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    vectors, classes, patients = _clumps()
    given = [classes[n - 2] if n % 12 == 5 else name for n, name in enumerate(classes)]
    vectors[::40] *= 30
    features = feature_tables.folder(tmp_path / "features", vectors, class_=given, patient=patients)
    made, line = [], verb._line
    monkeypatch.setattr(verb, "_line", lambda *told: made.append(told[0]) or line(*told))
    found, counted = [], []
    for top in ("50", "2"):
        assert main(["anomalies", str(features), "--out", str(tmp_path / top), "--top", top]) == 0
        with (tmp_path / top / "candidates.csv").open(newline="") as stream:
            found.append(list(csv.DictReader(stream)))
        about = json.loads((tmp_path / top / "anomalies.json").read_text())
        counted.append([about[kind] for kind in ("mislabelled", "outliers")])
    many = [[row for row in found[0] if row["kind"] == kind] for kind in ("mislabelled", "outlier")]
    assert counted == [[len(own) for own in many]] * 2
    assert min(counted[0]) > 2
    assert found[1] == [*many[0][:2], *many[1][:2]]
    assert len(made) == len(found[0]) + 4
    scores = [(row["reason"].count(": "), float(row["score"])) for row in many[0]]
    assert scores == sorted(scores, reverse=True), "doubted by both first"


def test_names_of_rows_are_made_once():
    table = feature_tables.table(np.eye(2), slice_=["", "3"])
    assert table.names == ("c0", "c1#3")
    assert table.names is table.names
