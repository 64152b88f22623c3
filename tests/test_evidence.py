"""What the pages say of the comparison is what its evidence says, and the evidence is of the plan as it is."""

import json
from pathlib import Path

import pytest

from medssl.commands.comparison import joint_embedding, runs_of
from medssl.commands.parsing import read_options
from medssl.evaluation.benchmark_plan import BenchmarkPlan
from medssl.evaluation.benchmark_table import Comparison, Judged, RandomWeights, compare, markdown

_ROOT = Path(__file__).parents[1]
_PAGES = _ROOT / "docs" / "methods"
_OTHER_PAGE = {"resenc_mae": "spark"}


def _results() -> dict[str, list[dict[str, object]]]:
    return json.loads((_ROOT / "docs" / "evidence" / "methods_small" / "results.json").read_text(encoding="utf-8"))


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
