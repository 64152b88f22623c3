"""What the documents show of the comparison of methods is what was measured."""

import json
from pathlib import Path

import pytest

from medssl.evaluation.benchmark_table import Comparison, Judged, RandomWeights, compare, markdown

_DOCS = Path(__file__).parents[1] / "docs"
_PAGES = {"resenc_mae": "spark"}


def _compared() -> list[Comparison]:
    evidence = json.loads((_DOCS / "evidence" / "methods_small" / "results.json").read_text(encoding="utf-8"))
    return compare([Judged(**run) for run in evidence["runs"]], [RandomWeights(**run) for run in evidence["random"]])


def test_the_table_of_methods_is_that_of_the_evidence() -> None:
    assert markdown(_compared()) in (_DOCS / "methods" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", sorted({c.method for c in _compared()}))
def test_the_page_of_a_method_shows_its_rows(method: str) -> None:
    page = (_DOCS / "methods" / f"{_PAGES.get(method, method)}.md").read_text(encoding="utf-8")
    for compared in _compared():
        if compared.method == method:
            row = next(line for line in markdown([compared]).splitlines() if line.startswith(f"| {method} |"))
            assert f"| {compared.images} {row}" in page
