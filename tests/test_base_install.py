"""The base install holds no training library, and the clinic's verbs do not need one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROBE = """
import sys
import medssl.__main__
for argv in (["--help"], ["--version"], ["index", "--help"], ["predict", "--help"], ["serve", "--help"], ["doctor"]):
    try:
        medssl.__main__.main(argv)
    except SystemExit:
        pass
# nibabel looks for scipy by itself and does without it, as the base environment shows
heavy = {"torch", "monai", "lightning", "sklearn", "skimage"} & set(sys.modules)
sys.exit(f"imported: {sorted(heavy)}" if heavy else 0)
"""


def test_help_index_predict_serve_and_doctor_never_import_training_libraries():
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_inference_leaves_nothing_in_the_home_folder_and_reports_to_nobody(tmp_path: Path):
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "LANG")}
    command = [sys.executable, "-m", "medssl", "doctor"]
    subprocess.run(command, check=True, env={**kept, "HOME": str(tmp_path)}, stdout=subprocess.DEVNULL)
    assert [path.name for path in tmp_path.rglob("*")] == []  # else ONNX Runtime's number of this machine and its queue


def test_configurations_and_applications_resolve_from_the_wheel(tmp_path: Path):
    if ".venv-base" not in sys.prefix:
        pytest.skip("only the environment of make test-base is made from the wheel")
    probe = (
        "from pathlib import Path; import medssl; from medssl.commands.parsing import resolve_folder; "
        "assert 'site-packages' in medssl.__file__, medssl.__file__; "
        "print(resolve_folder('configs', Path('mae_vit3d')), resolve_folder('apps', Path('apps/hippocampus_mr')))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all("site-packages" in part for part in done.stdout.split()), done.stdout


@pytest.mark.parametrize("module", ["torch", "scipy"])
def test_what_only_training_needs_is_absent_with_the_server_too(module: str):
    if ".venv-base" not in sys.prefix:
        pytest.skip("only the environment of make test-base is without torch")
    probe = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in probe.stderr


def test_the_wheel_holds_the_page_of_the_server_where_it_was_built(tmp_path: Path):
    if ".venv-base" not in sys.prefix:
        pytest.skip("only the environment of make test-base is made from the wheel")
    page = "runtime/server/static/build.json"
    if not (Path(__file__).parents[1] / "medssl" / page).exists():
        pytest.skip("make viewer was not run: npm is not there")
    probe = f"from pathlib import Path; import medssl; print((Path(medssl.__file__).parent / {page!r}).read_text())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_seen_enough_ends_the_command_without_an_error():
    command = f"{sys.executable} -m medssl doctor | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141)
    assert done.stderr == ""
