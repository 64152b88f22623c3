"""The data benchmark measures what it says; its bars are checked with `medssl bench data`, not here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medssl.commands.benchmarks import data
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti


@pytest.mark.filterwarnings("ignore::UserWarning:monai")
@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
def test_all_three_give_crops_and_the_disk_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    threads = torch.get_num_threads()
    try:
        lines = data.run(None, (80, 72, 64), crop=32, rounds=3)
    finally:
        torch.set_num_threads(threads)
    assert [line.unit for line in lines] == ["crops/s", "crops/s", "MiB"]
    for line in lines[:2]:
        assert line.ratio == pytest.approx(line.ours / line.peer)
    assert lines[2].ratio == pytest.approx(lines[2].peer / lines[2].ours)
    assert list(tmp_path.iterdir()) == []


def test_our_crops_and_the_peer_s_hold_the_same_voxels(tmp_path: Path, rng: np.random.Generator) -> None:
    volumes = [rng.integers(-1000, 3000, size=(70, 66, 68)).astype(np.int16) for _ in range(2)]
    ours, _ = data._ours(tmp_path, volumes, 32)
    peer, _ = data._nnssl(tmp_path, volumes, 32)
    for _ in range(5):
        np.testing.assert_array_equal(ours(), peer())


def test_real_volumes_are_brought_to_hu_and_get_noise(tmp_path: Path) -> None:
    """Air 0 and tissue 3700, as in shared CT that is not calibrated."""
    array = np.zeros((1, 20, 20, 10), np.int16)
    array[:, 4:, 1:] = 3700
    write_nifti(Volume(array, Geometry(np.eye(4), array.shape[1:])), tmp_path / "images" / "a.nii")
    write_nifti(Volume(array * 0, Geometry(np.eye(4), array.shape[1:])), tmp_path / "labels" / "a.nii")
    volume = data.ct_volume(tmp_path, (40, 40, 30), 1)
    tissue = volume[20:, 20:]
    assert volume.dtype == np.int16
    assert tissue.mean() == pytest.approx(40, abs=2)
    assert tissue.std() == pytest.approx(28, rel=0.05)
    assert volume[:4].mean() == pytest.approx(-1000, abs=20)
