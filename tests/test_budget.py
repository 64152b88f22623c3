"""The size budgets of the project: files, functions and the share of small files."""

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PACKAGE = sorted(p for p in (_ROOT / "medssl").rglob("*.py") if p.read_text(encoding="utf-8").strip())
_PYTHON = _PACKAGE + sorted((_ROOT / "tests").rglob("*.py")) + sorted((_ROOT / "apps").rglob("*.py"))


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", _PYTHON, ids=lambda p: str(p.relative_to(_ROOT)))
def test_no_file_is_over_500_lines(path: Path):
    assert _lines(path) <= 500


def test_nine_of_ten_package_files_are_under_300_lines():
    sizes = sorted(_lines(p) for p in _PACKAGE)
    assert sizes[int(0.9 * (len(sizes) - 1))] < 300


def test_half_of_the_package_files_have_120_lines_or_less():
    sizes = sorted(_lines(p) for p in _PACKAGE)
    assert sizes[len(sizes) // 2] <= 120


def test_package_init_files_are_empty():
    filled = [p for p in (_ROOT / "medssl").rglob("__init__.py") if p.read_text(encoding="utf-8").strip()]
    assert filled == []


@pytest.mark.parametrize("path", _PACKAGE, ids=lambda p: str(p.relative_to(_ROOT)))
def test_function_bodies_have_at_most_60_lines(path: Path):
    """Ruff counts statements (40); this bounds the lines a reader has to scroll, docstring left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            body = node.body[1:] if docstring and len(node.body) > 1 else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
