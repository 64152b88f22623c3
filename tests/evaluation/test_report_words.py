"""What a report says in words, lists as failures, and gives as CSV."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_checks import check_results

from medssl.evaluation.benchmark_table import Judged, RandomWeights, compare
from medssl.evaluation.encoder_tests import Compared
from medssl.evaluation.feature_map import principal_map
from medssl.evaluation.probe_data import ProbeData
from medssl.evaluation.provenance import origins
from medssl.evaluation.report.benchmark import benchmark_sections
from medssl.evaluation.report.failures import classification_failures, segmentation_failures
from medssl.evaluation.report.feature_map import feature_map_section
from medssl.evaluation.report.page import Table
from medssl.evaluation.report.results import head, interval_rows, size_text, subgroup_section
from medssl.evaluation.report.summary import (
    classification_summary,
    encoder_cells,
    encoder_words,
    segmentation_summary,
)
from medssl.evaluation.statistics import Interval
from medssl.evaluation.swap_tests import SwapTest
from medssl.imaging.problems import Problem, write_problems

_EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence" / "methods_small" / "results.json"


def _interval(estimate: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"estimate": estimate, "low": low, "high": high, "method": "m", "n": 3, "clusters": 3, "confidence": 0.95}


def _test(verdict: str, p_value: float = 0.01, least: float = 0.001) -> dict[str, Any]:
    return {"p_value": p_value, "smallest_p_value": least, "verdict": verdict}


def _segmentation(difference: dict[str, Any], **given: Any) -> dict[str, Any]:
    structure = {
        "dice": _interval(0.8, 0.7, 0.9), "hd95_mm": _interval(2.04), "missed": 1, "invented": 0,
        "size_difference": {"bias": _interval(-0.25)}, "mean_reference_size": 1.5,
    }  # fmt: skip
    arm = {
        "cases": 4, "patients": 3, "mean_dice": _interval(0.8, 0.7, 0.9), "classes": {"left_lung": structure},
        "size_unit": "mL", "seconds_per_case": 1.5, "subgroups": {},
    }  # fmt: skip
    return {
        **head("segmentation"), "networks": {"ours": 1, "scratch": 1},
        "arm": "ours", "arms": {"ours": arm}, "split": "test", "calibrated": True,
        "differences": {"scratch": {"mean_dice": difference}}, "tests": {"scratch": {"mean_dice": _test("better")}},
        "failures": [], "warnings": ["careful"],
        "data_sha256": "a" * 64, "manifest_sha256": "b" * 64, **given,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "test", "told"),
    [
        (_interval(0.02, 0.01, 0.03), _test("better"), "Compared with scratch: ours is better, +0.020"),
        (_interval(-0.02, -0.03, -0.01), _test("worse"), "Compared with scratch: ours is worse, -0.020"),
        (_interval(0.02, 0.01, 0.05), _test("no difference shown", 0.2), "over the same cases, p 0.200."),
        (
            _interval(0.02, 0.01, 0.05),
            _test("no difference shown", 0.25, 0.25),
            "no difference shown, +0.020 (+0.010\u00a0to\u00a0+0.050) in Dice over the same cases, p 0.250, which "
            "cannot be below 0.250 where so few patients are answered differently.",
        ),
        (_interval(0.02), _test("no difference shown"), "without an interval nothing can be said"),
    ],
)
def test_a_difference_is_told_by_its_test(difference: dict[str, Any], test: dict[str, Any], told: str) -> None:
    section = segmentation_summary(_segmentation(difference, tests={"scratch": {"mean_dice": test}}))
    assert told in section.text[1]
    assert section.warnings == ("careful",)


@pytest.mark.parametrize(
    ("networks", "told"),
    [
        ({"ours": 1, "scratch": 1}, "one training of each; another seed may differ (medssl curve)"),
        ({"ours": 1}, "one training of ours; another seed may differ (medssl curve)"),
        ({"ours": 5, "scratch": 5}, ""),
    ],
)
def test_a_single_training_is_told_in_the_lead(networks: dict[str, int], told: str) -> None:
    words = segmentation_summary(_segmentation(_interval(0.02, 0.01, 0.03), networks=networks)).text[1]
    assert told in words
    assert ("one training" in words) == bool(told)


def test_a_structure_is_told_in_words() -> None:
    clinician = segmentation_summary(_segmentation(_interval(0.0))).parts[0]
    assert clinician[0] == "For a clinician"
    assert clinician[1][0] == (
        "Left lung: Dice 0.800 (0.700\u00a0to\u00a00.900); 95 % of the border lies within 2.0 mm of the "
        "reference's (mean of the cases); on average 0.250 mL too small, of 1.50 mL; missed in 1 "
        "case(s), drawn where there is none in 0."
    )
    pixels = segmentation_summary(_segmentation(_interval(0.0), calibrated=False)).parts[0]
    assert "within 2.0 pixels" in pixels[1][0]


def test_a_classifier_at_chance_is_called_so() -> None:
    part = {"group": "F", "patients": 2, "cases": 2, "few": True, "metrics": {"auroc": _interval(0.5)}}
    results = {
        **head("classification"), "arm": "ours", "class_names": ["no", "ill"], "cases": 10, "patients": 9,
        "metrics": {"auroc": _interval(0.55, 0.4, 0.7), "calibration_error": _interval(0.123)}, "split": "test",
        "confusion": [[3, 2], [1, 4]], "warnings": [], "data_sha256": "a" * 64, "manifest_sha256": "b" * 64,
        "subgroups": {"sex": [part, {**part, "group": "M", "patients": 7}]},
    }  # fmt: skip
    section = classification_summary(results)
    assert "in 55 of 100 pairs" in section.text[1]
    assert "better than chance is not shown" in section.text[2]
    words = dict(section.parts)
    assert "ill: of 5 image(s) it found 4; of 6 that it called so, 4 were." in words["For a clinician"]
    assert any("differ by 12 percentage points" in line for line in words["For a clinician"])
    assert "The smallest part of the cases is sex F with 2 patient(s)." in words["For a reviewer"]
    assert "the smallest part has 2 patient(s)" in subgroup_section(results["subgroups"]).tables[0].caption
    assert subgroup_section({}).tables == ()


def test_failures_name_cases_structures_and_the_surest_wrong_answers() -> None:
    failures = [{"case": "z", "reason": "not-found", "message": "gone"}]
    rows = [
        {"arm": "ours", "case": "a", "patient": "p", "class": "x", "state": "missed", "dice": "0"},
        {"arm": "ours", "case": "a", "patient": "p", "class": "y", "state": "scored", "dice": "0.5"},
        {"arm": "ours", "case": "b", "patient": "q", "class": "x", "state": "both-empty", "dice": ""},
        {"arm": "other", "case": "b", "patient": "q", "class": "x", "state": "invented", "dice": "0"},
    ]
    section = segmentation_failures({"arm": "ours", "failures": failures}, rows)
    assert section.text == ("1 case(s) could not be evaluated; 1 structure(s) were missed or invented.",)
    assert [table.rows for table in section.tables] == [
        (("z", "gone", "not-found"),),
        (("a", "p", "x", "missed"),),
        (("a", "p", "0.250"),),
    ]
    answers = [
        {"case": f"c{n}", "patient": "p", "class": "no", "predicted": "ill", "probability_ill": str(0.5 + n / 100)}
        for n in range(30)
    ]
    wrong = classification_failures([*answers, {**answers[0], "predicted": "no"}])
    assert wrong.text == ("30 of 31 answers are wrong.",)
    assert wrong.tables[0].rows[0] == ("c29", "p", "no", "ill", "0.790")
    assert len(wrong.tables[0].rows) == 20
    assert "20 of 30 are shown" in wrong.tables[0].caption


def test_every_interval_becomes_a_line() -> None:
    parts = [{"group": "F", "metrics": {"dice": _interval(0.5)}}]
    content = {"arms": {"a": {"dice": _interval(0.25), "subgroups": {"sex": parts}}}, "list": [1, _interval(None)]}
    assert [(row["number"], row["estimate"]) for row in interval_rows(content)] == [
        ("arms.a.dice", 0.25),
        ("arms.a.subgroups.sex.F.metrics.dice", 0.5),
        ("list.1", None),
    ]


def test_the_map_shows_the_direction_in_which_the_features_differ() -> None:
    rng = np.random.default_rng(0)
    answers = torch.tensor([[n % 2 == 1] for n in range(40)])
    features = rng.normal(0, 0.1, (40, 5)).astype(np.float32)
    features[1::2, 3] += 10
    data = ProbeData(torch.zeros(40, 1, 2, 2), answers, ("ill",), ("test",) * 40, tuple(map(str, range(40))))
    found = principal_map(features, data)
    assert found is not None
    assert set(found["points"]) == {"ill", "not ill"}
    assert found["explained"][0] > 0.95
    first = {name: [x for x, _ in points] for name, points in found["points"].items()}
    assert max(first["ill"]) < min(first["not ill"]) or max(first["not ill"]) < min(first["ill"])
    section = feature_map_section(found)
    assert section is not None
    assert "ill, not ill" in section.pictures[0].caption
    assert principal_map(np.ones((40, 5), np.float32), data) is None, "one point has no plane"
    assert feature_map_section(None) is None


def test_commands_are_found_from_the_cache_to_the_last_run(tmp_path: Path) -> None:
    def run(name: str, verb: str, **config: str) -> Path:
        (tmp_path / name).mkdir()
        sessions = [{"command": f"medssl {verb}"}, {"command": f"medssl {verb} --resume"}]
        content = {"verb": verb, "config": config, "sessions": sessions}
        (tmp_path / name / "run.json").write_text(json.dumps(content))
        return tmp_path / name

    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "cache.json").write_text(json.dumps({"command": "medssl prepare"}))
    pretrained = run("pretrain", "pretrain", data=str(cache))
    tuned = run("finetune", "finetune", data=str(tmp_path / "gone"), init=str(pretrained / "encoder.safetensors"))
    assert [entry["command"] for entry in origins(tuned)] == [
        "medssl prepare", "medssl pretrain", "medssl pretrain --resume", "medssl finetune", "medssl finetune --resume",
    ]  # fmt: skip
    (tuned / "run.json").write_text("damaged")
    assert origins(tuned) == []


def test_sizes_have_three_digits_and_no_exponent() -> None:
    sizes = (1170.4, 97.402, 0.3901, 0.00012345, -74.43, 0)
    assert [size_text(size) for size in sizes] == ["1170", "97.4", "0.390", "0.000123", "-74.4", "0"]
    assert size_text(158.2, "+") == "+158"


def test_columns_of_sentences_are_told_from_numbers() -> None:
    table = Table(("a", "b", "c"), (("x", "1.000 (0.900 to 1.100)", "1 mistake in the options of this run, at 3"),))
    assert table.words == {0, 2}
    assert table.sentences == {2}


def _first_seed(evidence: dict[str, Any]) -> dict[str, Any]:
    """The first seed of three methods of a kept comparison, with one run that failed."""
    runs = [run for run in evidence["runs"] if run["seed"] == 0 and run["method"] in ("simclr", "vicreg", "mae")]
    of_vicreg = next(run for run in runs if (run["method"], run["images"]) == ("vicreg", "chest_xray"))
    of_vicreg.update(probes={}, architecture={}, failed="out of memory")
    random = evidence["random"]
    return _compared(runs, random)


def _compared(runs: list[dict[str, Any]], random: list[dict[str, Any]]) -> dict[str, Any]:
    rows, beside = [Judged(**run) for run in runs], [RandomWeights(**entry) for entry in random]
    found = compare(rows, beside, {"simclr", "moco_v2", "vicreg"})
    return {"runs": runs, "random": random, "comparisons": [c.to_json() for c in found]}


def test_a_comparison_with_one_seed_shows_nothing_and_says_so(tmp_path: Path) -> None:
    results = {**head("benchmark"), "data_sha256": {}, **_first_seed(json.loads(_EVIDENCE.read_text()))}
    results["warnings"] = ["ct: 1 of 9 cases of split val have no class"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    check_results(tmp_path / "results.json")
    write_problems(tmp_path / "problems.csv", [Problem("cache/cases/odd", "unreadable", "left out", "no image")])
    sections = {section.title: section for section in benchmark_sections(results, {"ct": tmp_path})}
    assert list(sections) == ["Summary", "chest_xray", "hippocampus", "Failures", "Every run"]
    assert "One seed only" in sections["Summary"].warnings[0]
    assert "0 of 3 methods are shown" in sections["Summary"].text[0]
    assert "corrected" not in sections["Summary"].text[0]
    assert sections["Failures"].tables[0].rows[0][:3] == ("vicreg", "chest_xray", "0")
    assert "could not be prepared" in sections["Summary"].warnings[1]
    assert sections["Summary"].warnings[2:] == tuple(results["warnings"])
    assert sections["Failures"].tables[1].rows == (("odd", "no image", "unreadable"),)
    assert len(sections["Every run"].tables[0].rows) == 6 + len(results["random"])


def test_a_comparison_tells_what_stays_after_correction_and_what_neighbours_do_not_show() -> None:
    weak, strong = (0.69, 0.75, 0.78), (0.89, 0.90, 0.91)
    found = {"simclr": (strong, strong), "moco_v2": (weak, strong), "mae": ((0.5, 0.9, 0.7), (0.71, 0.73, 0.76))}
    runs = [
        asdict(Judged("xray", name, "f", {}, seed, "k", {"knn": knn[seed], "linear": linear[seed]}, 0.5))
        for name, (knn, linear) in found.items()
        for seed in range(3)
    ]
    random = [
        asdict(RandomWeights("xray", {}, seed, "k", {"knn": v, "linear": v}))
        for seed, v in enumerate((0.66, 0.7, 0.68))
    ]
    summary, table, *_ = benchmark_sections({**head("benchmark"), **_compared(runs, random)}, {})
    assert summary.text[0].startswith(
        "xray: 1 (simclr) of 3 methods are shown to learn more than random weights, corrected over 6 differences; each "
        "for itself, 2 (simclr, mae) are. In part: moco_v2: yes, kNN not shown."
    )
    verdicts = {row[0]: row[-3] for row in table.tables[0].rows}
    assert verdicts == {"simclr": "yes *", "moco_v2": "yes, kNN not shown", "mae": "yes"}
    assert [cell.endswith(" *") for cell in table.tables[0].rows[1][1:3]] == [False, True]
    assert any("Holm's correction over all methods and probes" in note for note in summary.notes)
    assert any("say nothing about other patients" in note for note in summary.notes)
    assert any("(3D: 3 x 3 x 3) are averaged" in note for note in summary.notes)


def test_an_encoder_that_one_with_random_weights_reaches_is_not_called_better() -> None:
    def cells(ours: float, theirs: list[float], ends: tuple[float, float], p_value: float = 0.01) -> tuple[str, ...]:
        interval = Interval(sum(ends) / 2, *ends, "m", 9, 9)
        found = Compared(ours, theirs, interval, SwapTest(0.005, 0.001), smaller=ours > 1).to_json(p_value)
        return encoder_cells(found, theirs, smaller=ours > 1)

    gain, nearer = (0.05, 0.15), (-2.0, -1.0)
    shown = "+0.100 (+0.050\u00a0to\u00a0+0.150)"
    assert cells(0.7, [0.55, 0.6, 0.65], gain) == (shown, "0.005", "0.010", "better")
    assert cells(0.7, [0.55, 0.6, 0.65], gain, 0.06) == (shown, "0.005", "0.060", "no difference shown")
    assert cells(0.7, [0.4, 0.68, 0.72], gain)[3] == "no difference shown: one of 3 encoders reaches 0.720"
    assert cells(0.7, [0.4, 0.68, 0.72], gain, 0.06)[3] == "no difference shown"
    assert cells(4.0, [5.0, 6.0], nearer)[3] == "better"
    assert cells(4.0, [3.5, 7.5], nearer)[3] == "no difference shown: one of 2 encoders reaches 3.500"


def test_encoders_without_a_number_show_nothing() -> None:
    interval = Interval(math.nan, math.nan, math.nan, "none", 0, 0)
    found = Compared(None, [None], interval, SwapTest(math.nan, math.nan)).to_json(math.nan)
    assert (found["p_value"], found["p_value_corrected"], found["estimate"]) == (None, None, None)
    assert encoder_words(found, [None]) == "difference –, corrected p –: no difference shown"
