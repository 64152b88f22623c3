"""Slices of volumes as 2D images: the same voxels at the same places, read again when the file changes."""

from pathlib import Path

import numpy as np
import pytest

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.naming import split_field, split_slice
from medssl.imaging.readers import open as opened
from medssl.imaging.readers.open import read_channels, read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti


def _volume(path: Path, seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.7, 1.1, 3.0]
    affine[:3, 3] = [-20, 30, 5]
    write_nifti(Volume(rng.normal(size=(1, 5, 6, 7)).astype(np.float32), Geometry(affine, (5, 6, 7)), "CT"), path)
    return read_volume(path)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_has_the_voxels_and_places_of_its_volume(axis: int, tmp_path: Path):
    volume = _volume(tmp_path / "v.nii.gz")
    found = read_volume(f"{tmp_path / 'v.nii.gz'}#slice={axis}:3")
    np.testing.assert_array_equal(found.array, volume.array.take(3, axis=axis + 1))
    assert found.spatial_dims == 2
    kept = [a for a in range(3) if a != axis]
    assert found.geometry.spacing_mm == pytest.approx([volume.geometry.spacing_mm[a] for a in kept])
    index = np.zeros(3)
    index[kept], index[axis] = (2, 4), 3
    np.testing.assert_allclose(found.geometry.to_world((2, 4, 0)), volume.geometry.to_world(index), atol=1e-9)


def test_a_file_that_changes_is_read_again(tmp_path: Path):
    first = read_volume(f"{tmp_path / 'v.nii.gz'}#slice=2:1") if _volume(tmp_path / "v.nii.gz") else None
    _volume(tmp_path / "v.nii.gz", seed=1)
    assert first is not None
    assert not np.array_equal(read_volume(f"{tmp_path / 'v.nii.gz'}#slice=2:1").array, first.array)


def test_channels_of_slices_are_decoded_once_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = [f"{case}{channel}.nii.gz" for case in "uv" for channel in "ab"]
    for name in names:
        _volume(tmp_path / name)
    read, decode = [], opened._read
    monkeypatch.setattr(opened, "_read", lambda file, *more: read.append(file.name) or decode(file, *more))
    for case in "uv":
        for k in range(7):
            field = f"{case}a.nii.gz#slice=2:{k}; {case}b.nii.gz#slice=2:{k}; {case}a.nii.gz#slice=2:{k}"
            found = read_channels(field, tmp_path).array
            assert found.shape == (3, 5, 6)
        assert np.array_equal(found[0], found[2])
    assert read == names
    read_channels("ua.nii.gz#slice=2:0", tmp_path)
    assert read == [*names, names[0]], "one case is held at a time"


@pytest.mark.parametrize("place", ["3:0", "2:7", "2:-1", "x", "2"])
def test_a_slice_that_is_not_there_is_refused(place: str, tmp_path: Path):
    _volume(tmp_path / "v.nii.gz")
    with pytest.raises(ImageError, match="has no slice"):
        read_volume(f"{tmp_path / 'v.nii.gz'}#slice={place}")


def test_a_manifest_names_slices(tmp_path: Path):
    _volume(tmp_path / "v.nii.gz")
    rows = [Row(f"v_{k}", "p", f"v.nii.gz#slice=2:{k}") for k in range(7)]
    Manifest.from_rows(rows, tmp_path).write(tmp_path / "m.csv")
    assert Manifest.read(tmp_path / "m.csv").rows[3].image == "v.nii.gz#slice=2:3"
    assert split_field("a/b#1.2.3#slice=0:4") == (Path("a/b"), "1.2.3")
    assert split_slice("a/b#1.2.3#slice=0:4") == ("a/b#1.2.3", "0:4")
