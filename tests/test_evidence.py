"""What the pages say of comparison and studies is what their evidence says, and that is of the plans as they are."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from medssl.commands.comparison import joint_embedding, runs_of, with_config
from medssl.commands.parsing import read_options
from medssl.evaluation.benchmark_plan import BenchmarkPlan
from medssl.evaluation.benchmark_table import Comparison, Judged, RandomWeights, compare, markdown
from medssl.evaluation.report.study_markdown import study_markdown
from medssl.evaluation.study_plan import StudyPlan

_ROOT = Path(__file__).parents[1]
_PAGES, _EVIDENCE = _ROOT / "docs" / "methods", _ROOT / "docs" / "evidence"
_STUDIES = [
    path.parent.name for path in sorted(_EVIDENCE.glob("*/results.json")) if path.parent.name != "methods_small"
]
_OTHER_PAGE = {"resenc_mae": "spark"}


def _results() -> dict[str, list[dict[str, object]]]:
    return json.loads((_EVIDENCE / "methods_small" / "results.json").read_text(encoding="utf-8"))


def _plan() -> BenchmarkPlan:
    return read_options(BenchmarkPlan, _ROOT / "configs" / "benchmark" / "methods_small.yaml")


@pytest.fixture(scope="module")
def comparisons() -> list[Comparison]:
    results, runs = _results(), runs_of(_plan(), Path("OUT"), (), (), 1)
    rows = [Judged(**row) for row in results["runs"]]  # type: ignore[arg-type]
    random = [RandomWeights(**row) for row in results["random"]]  # type: ignore[arg-type]
    return compare(rows, random, joint_embedding(runs))


def test_every_run_of_the_plan_has_its_evidence_and_nothing_else_has():
    planned = {
        (images.name, run.key, run.seed) for run in runs_of(_plan(), Path("OUT"), (), (), 0) for images in run.sets
    }
    found = [(row["images"], row["key"], row["seed"]) for row in _results()["runs"]]
    assert len(found) == len(set(found))
    assert set(found) == planned


def test_the_table_is_made_of_the_evidence(comparisons: list[Comparison]):
    assert [found.to_json() for found in comparisons] == _results()["comparisons"]
    assert markdown(comparisons) in (_PAGES / "README.md").read_text(encoding="utf-8")


def test_the_page_of_each_method_has_its_rows_of_the_table(comparisons: list[Comparison]):
    for found in comparisons:
        page = _PAGES / f"{_OTHER_PAGE.get(found.method, found.method)}.md"
        row = next(line for line in markdown([found]).splitlines() if line.startswith(f"| {found.method} |"))
        assert f"| {found.images} {row}" in page.read_text(encoding="utf-8"), (found.images, found.method)


def _study(name: str) -> tuple[StudyPlan, dict[str, Any]]:
    plan = read_options(StudyPlan, _ROOT / "configs" / "curve" / f"{name}.yaml")
    return plan, json.loads((_EVIDENCE / name / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", _STUDIES)
def test_a_study_holds_every_run_of_its_plan_and_no_other(name: str):
    plan, results = _study(name)
    planned = [(seed, labels, arm.name) for seed in range(plan.seeds) for labels in plan.labels for arm in plan.arms]
    assert [(run["seed"], run["labels"], run["arm"]) for run in results["runs"]] == planned
    asked = (plan.metric, plan.reference, plan.split, [list(pair) for pair in plan.pairs])
    pairs = [[pair["arm"], pair["against"]] for pair in results["pairs"]]
    assert (results["metric"], results["reference"], results["split"], pairs) == asked
    tried = {(arm.name, json.dumps(one.options)) for arm in plan.arms for one in arm.trials or plan.trials}
    assert {(trial["arm"], json.dumps(trial["options"])) for trial in results["trials"]} == tried


@pytest.mark.parametrize("name", _STUDIES)
def test_the_trainings_of_a_study_are_those_of_its_plan(name: str):
    plan, results = _study(name)
    for arm in plan.arms:
        if arm.pretrain.options:
            train, found = with_config(arm.pretrain.options)["train"], results["pretraining"][arm.name]
            assert (found["steps"], found["batch_size"]) == (train["steps"], train["batch_size"])
            assert found["pretrainings"] == plan.pretrainings
        if not arm.longer_as:
            train = plan.options(arm, None)["train"]
            assert results["budgets"][arm.name]["steps"] == train["steps"]
    chosen = {(run["arm"], run["trial"]) for run in results["runs"]}
    for arm in plan.arms:
        known = [trial["validation"] for trial in results["trials"] if trial["arm"] == arm.name]
        options = [one.options for one in arm.trials or plan.trials]
        order = [options.index(trial["options"]) for trial in results["trials"] if trial["arm"] == arm.name]
        assert {trial for name, trial in chosen if name == arm.name} == {order[known.index(max(known))]}


@pytest.mark.parametrize("name", _STUDIES)
def test_the_page_says_of_a_study_what_its_results_say(name: str):
    _, results = _study(name)
    for point in results["points"]:
        for arm in point["arms"].values():
            assert arm["mean"]["estimate"] == pytest.approx(fmean(arm["seeds"].values()))
    assert study_markdown(results) in (_EVIDENCE / "README.md").read_text(encoding="utf-8")
