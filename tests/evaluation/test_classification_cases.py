"""Classification numbers against closed forms."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_cache import small_cache

from medssl.evaluation.classification_cases import (
    ClassPrediction,
    class_warnings,
    compare_classes,
    predict_classes,
    summarise_classes,
)
from medssl.imaging.errors import ConfigError, MedsslError
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


def test_a_difference_of_two_models_is_paired_over_patients() -> None:
    """The second gives each image the first's probability, but for one pair swapped: nearly all noise is shared."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60)
    share = np.clip(0.5 + 0.15 * (truth - 0.5) + rng.normal(0, 0.15, 60), 0.01, 0.99)
    first = _predictions([(int(t), [1 - s, s]) for t, s in zip(truth, share, strict=True)])
    second = [
        replace(p, probabilities=p.probabilities[::-1].copy() if n == 5 else p.probabilities)
        for n, p in enumerate(first)
    ]
    names = ["no", "yes"]
    found = compare_classes(first, {"second": second, "same": first}, names, 200, order=names)
    alone, other = (summarise_classes(p, names, 200, order=names)["metrics"] for p in (first, second))
    assert found["others"]["second"]["metrics"] == other
    for name, interval in found["differences"]["second"].items():
        assert interval["estimate"] == pytest.approx(alone[name]["estimate"] - other[name]["estimate"])
        assert interval["high"] - interval["low"] < 0.6 * (alone[name]["high"] - alone[name]["low"])
    assert "quadratic_kappa" in found["differences"]["second"]
    assert all((i["low"], i["estimate"], i["high"]) == (0, 0, 0) for i in found["differences"]["same"].values())
    assert compare_classes(first, {}, names) == {"others": {}, "differences": {}, "tests": {}}
    # two models that differ in everything, against resamples by hand
    third = _predictions([(int(t), [0.3, 0.7] if n % 3 else [0.6, 0.4]) for n, t in enumerate(truth)])
    interval = compare_classes(first, {"third": third}, names, 50)["differences"]["third"]["brier"]
    draws = np.random.default_rng(0)
    places = [draws.integers(30, size=30) for _ in range(50)]
    values = []
    for drawn in (np.concatenate([[2 * d, 2 * d + 1] for d in place]) for place in places):
        ours, theirs = (np.array([p.probabilities[1] for p in given])[drawn] for given in (first, third))
        values.append(np.mean((ours - truth[drawn]) ** 2) - np.mean((theirs - truth[drawn]) ** 2))
    assert [interval["low"], interval["high"]] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())


def test_three_classes_average_over_those_that_occur() -> None:
    rows = [(0, [0.8, 0.1, 0.1]), (0, [0.6, 0.3, 0.1]), (1, [0.2, 0.7, 0.1]), (1, [0.5, 0.4, 0.1])]
    got = summarise_classes(_predictions(rows), ["a", "b", "absent"], 100)
    assert got["metrics"]["auroc"]["estimate"] == 1.0
    assert got["metrics"]["balanced_accuracy"]["estimate"] == pytest.approx(0.75)
    assert got["classes"]["absent"]["auroc"]["estimate"] is None
    assert got["classes"]["absent"]["recall"]["estimate"] is None


def test_classes_with_an_order_are_shown_in_it_and_get_a_kappa() -> None:
    names = ["mild", "none", "severe"]
    predictions = _predictions([(0, [0.6, 0.3, 0.1]), (1, [0.2, 0.7, 0.1]), (2, [0.1, 0.2, 0.7]), (2, [0.5, 0.1, 0.4])])
    got = summarise_classes(predictions, names, 100, order=["none", "mild", "severe"])
    assert got["class_names"] == ["none", "mild", "severe"]
    assert got["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert 0 < got["metrics"]["quadratic_kappa"]["estimate"] < 1
    assert got["metrics"]["auroc"] == summarise_classes(predictions, names, 100)["metrics"]["auroc"]
    assert "quadratic_kappa" not in summarise_classes(predictions, names, 100)["metrics"]
    with pytest.raises(ConfigError, match="must hold the classes"):
        summarise_classes(predictions, names, 100, order=["none", "mild"])


def test_parts_of_the_cases_have_the_same_numbers() -> None:
    rows = [(n % 2, [0.9 - 0.8 * (n % 2), 0.1 + 0.8 * (n % 2)] if n < 8 else [0.5, 0.5]) for n in range(16)]
    predictions = [replace(p, groups={"site": "a" if n < 8 else "b"}) for n, p in enumerate(_predictions(rows))]
    got = summarise_classes(predictions, ["no", "yes"], 100)
    a, b = got["subgroups"]["site"]
    assert (a["metrics"]["auroc"]["estimate"], b["metrics"]["auroc"]["estimate"]) == (1.0, 0.5)
    assert (a["patients"], a["few"]) == (4, True)


def test_a_part_with_few_patients_of_a_class_is_marked_and_says_how_often_its_number_is_not_defined() -> None:
    """Part a has 20 patients, one of them positive, who is drawn in 64 % of the resamples; part b has 12 and 8."""
    rows = [(int(n == 0), [0.7, 0.3]) for n in range(40)] + [(int(n < 16), [0.4, 0.6]) for n in range(40)]
    predictions = [replace(p, groups={"site": "a" if n < 40 else "b"}) for n, p in enumerate(_predictions(rows))]
    a, b = summarise_classes(predictions, ["no", "yes"], 200)["subgroups"]["site"]
    assert (a["patients"], a["few"], b["few"]) == (20, True, False)
    assert re.search(r"not defined in (2|3|4)\d\.\d% of the resamples", a["metrics"]["auroc"]["method"])
    assert "not defined" not in b["metrics"]["auroc"]["method"]


def test_a_resample_without_a_class_is_no_mean_over_the_others() -> None:
    """The third class has one patient, is never found, and is drawn in 64 % of the resamples."""
    rows = [(n % 2, [0.8, 0.2, 0.0] if n % 2 == 0 else [0.2, 0.8, 0.0]) for n in range(40)] + [(2, [0.6, 0.4, 0.0])] * 2
    names = ["a", "b", "rare"]
    got = summarise_classes(_predictions(rows), names, 200)["metrics"]["balanced_accuracy"]
    assert (got["estimate"], got["high"]) == pytest.approx((2 / 3, 2 / 3))
    assert re.search(r"not defined in (2|3|4)\d\.\d% of the resamples", got["method"])


def test_probabilities_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    cache = small_cache(tmp_path, [(8, 8)] * 2, classes=["no", "yes"])
    with pytest.raises(MedsslError, match="are no numbers"):
        predict_classes(cache, cache.cases, ["no", "yes"], lambda image: np.array([np.nan, 1.0]))


def test_one_class_and_classes_that_do_not_occur_are_told() -> None:
    alone = _predictions([(0, [0.9, 0.1]), (0, [0.4, 0.6])])
    few, one_class = class_warnings(alone, ("no", "yes"), "test")
    assert few == "Split test has 1 patient(s) only: the numbers say next to nothing."
    assert "All cases are of class 'no'" in one_class
    found = summarise_classes(alone, ("no", "yes"), resamples=100)
    assert found["metrics"]["auroc"]["estimate"] is None, "not 0.5, and not left out in silence"
    beside = compare_classes(alone, {"other": _predictions([(0, [0.8, 0.2]), (0, [0.1, 0.9])])}, ("no", "yes"), 100)
    told = beside["tests"]["other"]
    assert {told[name]["verdict"] for name in told} == {"no difference shown"}
    assert beside["differences"]["other"]["auroc"]["estimate"] is None
    both = _predictions([(0, [0.9, 0.1, 0]), (2, [0.4, 0, 0.6])])
    _, few_of_class, told = class_warnings(both, ("no", "maybe", "yes"), "test")
    assert few_of_class.startswith("Classes with fewer than 6 patients in split test: no 1, yes 1.")
    assert told == "No case is of class 'maybe': it is in no mean over classes."
    enough = _predictions([(n // 2 % 2, [0.9, 0.1]) for n in range(24)])
    assert class_warnings(enough, ("no", "yes"), "test") == []


def test_a_difference_needs_its_paired_test_to_be_called_better() -> None:
    """Two patients who are all answered better are no proof; twenty are; less is better for the Brier score."""
    for patients, verdict in ((2, "no difference shown"), (20, "better")):
        truth = np.arange(2 * patients) % 2
        good, bad = (_predictions([(int(t), [1 - s, s] if t else [s, 1 - s]) for t in truth]) for s in (0.9, 0.4))
        found = compare_classes(good, {"bad": bad}, ["no", "yes"], 60)
        for name in ("auroc", "average_precision", "accuracy", "balanced_accuracy", "brier", "calibration_error"):
            difference, test = found["differences"]["bad"][name], found["tests"]["bad"][name]
            assert difference["low"] * difference["high"] > 0, "the interval alone would have said better"
            assert test["verdict"] == verdict, name
            assert test["p_value"] == (pytest.approx(2 / 2**2) if patients == 2 else pytest.approx(1 / 61))
        assert found["tests"]["bad"]["auroc"]["smallest_p_value"] == found["tests"]["bad"]["auroc"]["p_value"]
    same = compare_classes(good, {"same": good}, ["no", "yes"], 60)["tests"]["same"]
    assert {(test["p_value"], test["verdict"]) for test in same.values()} == {(1.0, "no difference shown")}


def test_interval_covers_a_perfect_classifier_as_a_point() -> None:
    got = summarise_classes(_predictions([(n % 2, [1.0 - n % 2, float(n % 2)]) for n in range(20)]), ["a", "b"], 100)
    assert (got["metrics"]["auroc"]["low"], got["metrics"]["auroc"]["high"]) == (1.0, 1.0)
