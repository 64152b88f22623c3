"""Classification numbers against closed forms."""

import numpy as np
import pytest

from medssl.evaluation.classification_cases import ClassPrediction, summarise_classes
from medssl.imaging.files import write_json


def _predictions(rows: list[tuple[int, list[float]]]) -> list[ClassPrediction]:
    return [ClassPrediction(f"c{n}", f"p{n // 2}", truth, np.array(p)) for n, (truth, p) in enumerate(rows)]


def test_two_classes_with_one_swapped_pair(tmp_path) -> None:  # type: ignore[no-untyped-def]
    shares = [0.1, 0.2, 0.6, 0.4, 0.7, 0.9]  # of class 1
    truth = [0, 0, 0, 1, 1, 1]
    got = summarise_classes(
        _predictions([(t, [1 - s, s]) for t, s in zip(truth, shares, strict=True)]), ["no", "yes"], 200
    )
    assert got["metrics"]["auroc"]["estimate"] == pytest.approx(8 / 9)
    assert got["metrics"]["average_precision"]["estimate"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert got["metrics"]["accuracy"]["estimate"] == pytest.approx(4 / 6)
    assert got["metrics"]["balanced_accuracy"]["estimate"] == pytest.approx(2 / 3)
    assert got["confusion"] == [[2, 1], [1, 2]]
    assert got["classes"]["yes"]["recall"]["estimate"] == pytest.approx(2 / 3)
    assert got["metrics"]["auroc"]["clusters"] == 3
    write_json(tmp_path / "results.json", got)


def test_three_classes_average_over_those_that_occur() -> None:
    rows = [(0, [0.8, 0.1, 0.1]), (0, [0.6, 0.3, 0.1]), (1, [0.2, 0.7, 0.1]), (1, [0.5, 0.4, 0.1])]
    got = summarise_classes(_predictions(rows), ["a", "b", "absent"], 100)
    assert got["metrics"]["auroc"]["estimate"] == 1.0
    assert got["metrics"]["balanced_accuracy"]["estimate"] == pytest.approx(0.75)
    assert got["classes"]["absent"]["auroc"]["estimate"] is None
    assert got["classes"]["absent"]["recall"]["estimate"] is None


def test_interval_covers_a_perfect_classifier_as_a_point() -> None:
    got = summarise_classes(_predictions([(n % 2, [1.0 - n % 2, float(n % 2)]) for n in range(20)]), ["a", "b"], 100)
    assert (got["metrics"]["auroc"]["low"], got["metrics"]["auroc"]["high"]) == (1.0, 1.0)
