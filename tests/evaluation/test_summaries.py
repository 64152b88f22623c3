"""Summaries of hand-made results."""

import math
from dataclasses import replace

import pytest

from medssl.evaluation.metrics import ClassScore
from medssl.evaluation.report.results import subgroup_section
from medssl.evaluation.summaries import CaseResult, best_median_worst, differences, summarise
from medssl.imaging.files import write_json


def _result(case: str, patient: str, dice: float, voxels: tuple[int, int] = (110, 100)) -> CaseResult:
    good = ClassScore(dice, 1.0, 0.9, *voxels)
    return CaseResult(case, patient, {"a": good, "b": ClassScore(math.nan, math.nan, math.nan, 0, 0)}, 0.5)


def test_summary_of_known_cases(tmp_path) -> None:  # type: ignore[no-untyped-def]
    results = [_result("1", "p", 0.8), _result("2", "p", 0.9), _result("3", "q", 0.7, (80, 100))]
    missed = CaseResult("4", "r", {"a": ClassScore(0.0, math.inf, 0.0, 0, 100), "b": results[0].scores["b"]}, 0.5)
    got = summarise([*results, missed])
    assert (got["cases"], got["patients"]) == (4, 3)
    assert got["mean_dice"]["estimate"] == pytest.approx(0.6)
    one = got["classes"]["a"]
    assert (one["scored"], one["missed"], one["distance_not_defined"]) == (3, 1, 1)
    assert one["hd95_mm"]["estimate"] == 1.0
    assert one["hd95_mm"]["n"] == 3
    assert one["size_difference"]["bias"]["estimate"] == pytest.approx((5 + 5 - 10 - 50) / 4)
    low, high = one["size_difference"]["limits_of_agreement"]
    assert high - low == pytest.approx(2 * 1.96 * 25.98076, rel=1e-4)
    assert got["classes"]["b"]["both_empty"] == 4
    assert got["classes"]["b"]["dice"]["estimate"] is None
    write_json(tmp_path / "results.json", got)


def test_parts_of_the_cases_have_the_numbers_of_every_class() -> None:
    """Class b is in one patient of the north alone."""
    site = {"1": "north", "2": "north", "3": "south"}
    results = [replace(_result(c, f"p{c}", 0.8 - 0.1 * int(c)), groups={"site": site[c]}) for c in site]
    b = ClassScore(0.25, 4.0, 0.5, 3, 4)
    results[0] = replace(results[0], scores={**results[0].scores, "b": b})
    got = summarise(results)
    north, south = got["subgroups"]["site"]
    assert north["classes"]["a"]["dice"]["estimate"] == pytest.approx(0.65)
    assert [north["classes"]["b"][n]["estimate"] for n in ("dice", "hd95_mm", "nsd")] == [0.25, 4.0, 0.5]
    assert north["classes"]["b"]["dice"]["clusters"] == 1
    assert south["classes"]["b"]["dice"]["estimate"] is None
    whole = summarise(results[:2])["classes"]["a"]
    assert all(north["classes"]["a"][name] == whole[name] for name in ("dice", "hd95_mm", "nsd"))
    table = subgroup_section(got["subgroups"], "pixels").tables[1]
    assert table.header[4] == "HD95 pixels"
    assert [row[:4] for row in table.rows] == [
        ("a", "north *", "2", "0.650 (0.600\u00a0to\u00a00.700)"), ("a", "south *", "1", "0.500"),
        ("b", "north *", "1", "0.250"), ("b", "south *", "0", "–"),
    ]  # fmt: skip
    assert "the fewest patients in whom one counts are 0." in table.caption
    assert [row[-1] for row in table.rows] == ["–", "–", "1 both empty", "1 both empty"]


def test_a_part_tells_the_structures_that_its_distance_leaves_out() -> None:
    """The mean distance of south is that of one case: of the other two the model missed the structure."""
    results = [replace(_result(n, n, 0.8), groups={"site": "north" if n < "3" else "south"}) for n in "12345"]
    for place in (3, 4):
        lost = {**results[place].scores, "a": ClassScore(0.0, math.inf, 0.0, 0, 100)}
        results[place] = replace(results[place], scores=lost)
    north, south = summarise(results)["subgroups"]["site"]
    assert north["classes"]["a"]["hd95_mm"]["estimate"] == south["classes"]["a"]["hd95_mm"]["estimate"] == 1.0
    assert [south["classes"]["a"][name] for name in ("scored", "missed", "distance_not_defined")] == [1, 2, 2]
    table = subgroup_section({"site": [north, south]}).tables[1]
    assert table.header[-1] == "not counted"
    assert [row[-1] for row in table.rows[:2]] == ["–", "2 missed, 2 without a distance"]


def test_rows_leave_undefined_cells_empty() -> None:
    first, second = _result("1", "p", 0.8).rows("model")
    assert first["dice"] == "0.8"
    assert first["prediction_ml"] == "55"
    assert first["difference_ml"] == "5"
    assert (second["dice"], second["hd95_mm"], second["state"]) == ("", "", "both-empty")


def test_differences_are_paired_by_case() -> None:
    ours = [_result("1", "p", 0.8), _result("2", "q", 0.9)]
    theirs = [_result("2", "q", 0.85), _result("3", "r", 0.1), _result("1", "p", 0.75)]
    got, tests = differences(ours, theirs)
    assert got["cases"] == 2
    for test in (tests["mean_dice"], tests["classes"]["a"]):
        assert (test["p_value"], test["smallest_p_value"]) == (0.5, 0.5), "two patients"
        assert test["verdict"] == "no difference shown", "whatever the interval of two patients says"
    assert tests["classes"]["b"] == {"p_value": None, "smallest_p_value": None, "verdict": "no difference shown"}
    assert got["mean_dice"]["estimate"] == pytest.approx(0.05)
    assert got["classes"]["a"]["low"] == pytest.approx(0.05)


def test_differences_hold_the_structures_that_one_arm_invents() -> None:
    """Ten patients with a lesion, Dice 0.8 in both arms, and ten without, in whom ours invents one."""
    absent, invented = ClassScore(math.nan, math.nan, math.nan, 0, 0), ClassScore(0.0, math.inf, 0.0, 9, 0)

    def arm(of_empty: ClassScore) -> list[CaseResult]:
        ill = [CaseResult(f"i{n}", f"i{n}", {"a": ClassScore(0.8, 1.0, 0.9, 9, 9)}, 0.5) for n in range(10)]
        return [*ill, *(CaseResult(f"h{n}", f"h{n}", {"a": of_empty}, 0.5) for n in range(10))]

    for ours, theirs, sign in ((invented, absent, -1), (absent, invented, 1)):
        got, tests = differences(arm(ours), arm(theirs))
        for interval in (got["mean_dice"], got["classes"]["a"]):
            assert (interval["estimate"], interval["n"]) == (pytest.approx(sign * 0.5), 20)
            assert interval["low"] * interval["high"] > 0
        for test in (tests["mean_dice"], tests["classes"]["a"]):
            assert (test["p_value"], test["verdict"]) == (2 / 2**10, "better" if sign > 0 else "worse")
    same = differences(arm(absent), arm(absent))[0]["mean_dice"]
    assert (same["estimate"], same["n"]) == (0.0, 10), "what both leave empty stays out"


def test_best_median_worst() -> None:
    results = [_result(str(n), str(n), d) for n, d in enumerate((0.5, 0.9, 0.7, 0.8, 0.6))]
    picked = best_median_worst(results)
    assert {name: r.mean_dice for name, r in picked.items()} == {"best": 0.9, "median": 0.7, "worst": 0.5}
    assert list(best_median_worst(results[:2])) == ["best", "worst"]
    assert list(best_median_worst(results[:1])) == ["best"]
