"""The base install holds no training library, and the clinic's verbs do not need one."""

import subprocess
import sys

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


def test_torch_is_absent_from_the_base_environment():
    if ".venv-base" not in sys.prefix:
        pytest.skip("only the environment of make test-base is without torch")
    probe = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False)
    assert probe.returncode != 0
