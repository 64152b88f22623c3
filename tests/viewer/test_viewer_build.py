"""The page as it is built and shipped: pinned, complete, without anything that a strict policy forbids."""

import filecmp
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from clinic_page import STATIC

from medssl.imaging.writers.overlay import PALETTE

_ROOT = Path(__file__).parents[2]
_SOURCE = _ROOT / "deploy" / "viewer"
_FILES = sorted(path.relative_to(_SOURCE / "src") for path in (_SOURCE / "src").rglob("*") if path.is_file())


def test_the_built_page_is_that_of_the_sources(built: None):
    record = json.loads((STATIC / "build.json").read_text())
    page = (_SOURCE / "src" / "index.html").read_text().replace('"static/', f'"static/{record["folder"]}/')
    assert (STATIC / "index.html").read_text() == page, "make viewer"
    folder = STATIC / record["folder"]
    pairs = [(_SOURCE / "src" / name, folder / name) for name in _FILES if name.name != "index.html"]
    assert [own for own, copy in pairs if not copy.is_file() or not filecmp.cmp(own, copy)] == [], "make viewer"
    assert hashlib.sha256((folder / "vendor" / "niivue.js").read_bytes()).hexdigest() == record["niivue_sha256"]
    licences = (folder / "vendor" / "LICENCES.txt").read_text()
    assert "@niivue/niivue" in licences
    assert "fflate" in licences


def test_every_package_of_the_page_is_pinned_by_its_hash_and_no_registry_is_named():
    text = (_SOURCE / "package-lock.json").read_text()
    lock = json.loads(text)["packages"]
    assert all(entry["integrity"].startswith("sha512-") for name, entry in lock.items() if name)
    assert '"resolved"' not in text
    wanted = json.loads((_SOURCE / "package.json").read_text())["dependencies"]
    assert wanted == {name: lock[f"node_modules/{name}"]["version"] for name in wanted}


@pytest.mark.parametrize("name", _FILES, ids=str)
def test_the_sources_hold_no_inline_code_no_html_from_data_and_no_other_host(name: Path):
    text = (_SOURCE / "src" / name).read_text(encoding="utf-8")
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage"
    forbidden += r"|<script(?![^>]* src=\"static/)|<style| style=| on[a-z]+=\"|https?://(?!www\.w3\.org/)"
    assert re.findall(forbidden, text) == []
    assert len(text.splitlines()) <= 300


def test_pictures_of_page_and_server_have_the_same_colours():
    text = (_SOURCE / "src" / "js" / "colours.js").read_text(encoding="utf-8")
    table = text.split("PALETTE = [", 1)[1].split("];", 1)[0]
    assert [tuple(map(int, row)) for row in re.findall(r"\[(\d+), (\d+), (\d+)\]", table)] == list(PALETTE)


def test_functions_of_the_page():
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    done = subprocess.run([node, "--test", "tests/"], cwd=_SOURCE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(?:#|ℹ) pass (\d+)", done.stdout)[0]) >= 10


@pytest.mark.parametrize("with_page", [True, False])
def test_the_wheel_holds_the_page_where_it_is_built(built: None, tmp_path: Path, with_page: bool):
    copy = tmp_path / "project"
    left_out = ["static", "node_modules", ".git", ".venv*", "tests", "docs", "runs", ".mypy_cache"]
    shutil.copytree(_ROOT, copy, ignore=shutil.ignore_patterns(*left_out))
    if with_page:
        shutil.copytree(STATIC, copy / STATIC.relative_to(_ROOT))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    shipped = {name.removeprefix("medssl/runtime/server/static/") for name in names if "/static/" in name}
    expected = {str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file()}
    assert len(expected) > len(_FILES)
    assert shipped == (expected if with_page else set())
    assert "medssl/runtime/server/api.py" in names
