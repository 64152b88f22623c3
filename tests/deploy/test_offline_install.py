"""The commands of docs/hospital.md, run as they stand on a package of the same name and extras that needs nothing."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_BACKEND = """
import zipfile

def build_wheel(folder, settings=None, metadata=None):
    name, info = "medssl-0.1.0-py3-none-any.whl", "medssl-0.1.0.dist-info"
    extras = "".join(f"Provides-Extra: {extra}\\n" for extra in EXTRAS)
    texts = {
        "medssl.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: medssl\\nVersion: 0.1.0\\n{extras}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        for path, text in texts.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\\n" for path in [*texts, f"{info}/RECORD"]))
    return name
"""


def _blocks() -> list[str]:
    text = (_ROOT / "docs" / "hospital.md").read_text("utf-8").split("\n## Without the internet\n")[1]
    return re.findall(r"```\n(.*?)```", text.split("\n## ")[0], re.DOTALL)


def test_the_offline_install_runs_as_written(tmp_path: Path):
    pytest.importorskip("pip")
    made, carried, pinned = _blocks()
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    clone, site = tmp_path / "clone", tmp_path / "site"
    clone.mkdir()
    (clone / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "medssl"\nversion = "0.1.0"\n'
    )
    (clone / "backend.py").write_text(f"EXTRAS = {list(extras)}\n{_BACKEND}")
    (clone / "constraints.txt").touch()
    (clone / "Makefile").write_text("sbom:\n\tmkdir -p dist && echo '{}' > dist/sbom-serve.json\n")
    pip = f"{sys.executable} -m pip --disable-pip-version-check"
    _run(re.sub(r"^pip ", f"{pip} ", made, flags=re.MULTILINE), clone)
    site.mkdir()
    shutil.move(clone / "wheelhouse", site)
    assert "  sbom-serve.json\n" in (site / "wheelhouse" / "SHA256SUMS").read_text()
    lines = [line for line in carried.splitlines() if "venv" not in line and "doctor" not in line]
    assert len(lines) == len(carried.splitlines()) - 2
    text = "\n".join(lines).replace("/opt/medssl/bin/pip install", f"{pip} install --target installed")
    assert "WARNING" not in _run(text, site)  # pip warns of an extra that the package has not
    assert (site / "installed" / "medssl.py").exists()
    _run(pinned.replace("/opt/medssl/bin/pip install", f"{pip} install --target pinned"), site)
    assert (site / "requirements.txt").read_text().startswith("medssl==0.1.0 --hash=sha256:")
    assert (site / "pinned" / "medssl.py").exists()


def _run(script: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_no_document_installs_from_an_index_that_has_no_medssl():
    for path in [_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md"), *(_ROOT / "apps").rglob("*.md")]:
        for line in re.findall(r"pip (?:install|download)[^`\n]*", path.read_text("utf-8")):
            assert not re.search(r"(?<![/\w])medssl\b", line) or "--no-index" in line, f"{path.name}: {line}"
