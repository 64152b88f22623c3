"""Output folders that may not be written and disks that refuse: real processes, real errors of the system.

A limit on the size of files stands for the full disk: the system refuses the write in the middle of it either way.
"""

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cohort import make_cache, make_run, write_scans

from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from tiny_bundle import write_bundle

_DROP_FROM_BOUNDING_SET, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def _obey_permissions() -> None:
    """Root ignores permissions; without these two capabilities it obeys them as everybody does."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            libc.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)


def _small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))


def _command(verb: str, root: Path, out: Path) -> list[str]:
    """A command that would succeed if it could write below `out`."""
    if verb == "index":
        write_scans(root)
        return ["index", str(root), "--out", str(out / "manifest.csv")]
    if verb == "prepare":
        write_scans(root)
        return ["prepare", str(root / "manifest.csv"), "--out", str(out / "cache"), "--workers", "1"]
    if verb == "predict":
        noise = np.random.default_rng(0).normal(10, 8, (1, 20, 20, 20)).astype(np.float32)
        write_nifti(Volume(noise, Geometry(np.eye(4), (20, 20, 20))), root / "image.nii.gz")
        bundle = write_bundle(root / "bundle")
        return ["predict", str(bundle), str(root / "image.nii.gz"), "--out", str(out / "predictions")]
    cache = make_cache(root)
    if verb == "export":
        return ["export", str(make_run(root / "run", cache)), "--out", str(out / "bundle"), "--data", str(cache.path)]
    small = ["--train.steps", "1", "--crops.size", "[16,16,16]", "--train.batch_size", "1", "--train.warmup_steps", "0"]
    return [
        "finetune", "--config", "segmentation_unet3d", "--data", str(cache.path), "--out", str(out / "run"), *small
    ]  # fmt: skip


def _refused(command: list[str], prepare: Callable[[], None]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "medssl", *command],
        capture_output=True,
        text=True,
        preexec_fn=prepare,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode not in (0, 3), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("verb", ["index", "prepare", "predict", "finetune", "export"])
def test_a_folder_without_permission(tmp_path: Path, verb: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = _command(verb, tmp_path / "in", out)
    out.chmod(0o555)
    try:
        told = _refused(command, _obey_permissions)
    finally:
        out.chmod(0o755)
    assert str(out) in told
    assert "ermission" in told
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("verb", ["index", "prepare", "predict", "finetune", "export"])
def test_a_disk_that_refuses_leaves_nothing_half_written(tmp_path: Path, verb: str) -> None:
    out = tmp_path / "out"
    told = _refused(_command(verb, tmp_path / "in", out), _small_files_only)
    assert str(out) in told or "too large" in told
    left = [p for p in out.rglob("*") if p.is_file() and p.stat().st_size >= 300]
    assert left == [], "a cut file would be taken for a whole one"


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    write_scans(tmp_path / "in")
    closed = tmp_path / "in" / "images" / "0L.nii.gz"
    closed.chmod(0)
    command = ["index", str(tmp_path / "in"), "--out", str(tmp_path / "m" / "manifest.csv")]
    done = subprocess.run(
        [sys.executable, "-m", "medssl", *command],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=_obey_permissions,
    )
    closed.chmod(0o644)
    assert done.returncode == 0, done.stderr
    assert "0L" not in (tmp_path / "m" / "manifest.csv").read_text()
    problems = (tmp_path / "m" / "problems.csv").read_text()
    assert "0L.nii.gz" in problems
    assert "ermission" in problems
