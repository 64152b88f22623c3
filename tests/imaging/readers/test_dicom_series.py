"""Series that are damaged, mixed or oddly written: what is left out is said, nothing is shortened in silence."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_phantom import ramp, slice_dataset, write_series
from pydicom.uid import JPEG2000Lossless

from medssl.imaging.errors import ImageError
from medssl.imaging.readers.open import read_volume
from medssl.imaging.readers.scan import scan_tree

_SAGITTAL = (0.0, 1, 0, 0, 0, -1)


def _refused(path: Path | str) -> ImageError:
    with pytest.raises(ImageError) as error:
        read_volume(path)
    return error.value


@pytest.mark.parametrize("k", [0, 2, 3])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_cut_slice_at_any_place_refuses_the_series(tmp_path: Path, k: int, compressed: bool):
    """Cut at the end of the stack nothing else would tell: the rest is evenly spaced."""
    folder = write_series(tmp_path / "s", ramp(4, 64, 64))
    path = folder / f"{k:03d}.dcm"
    if compressed:
        dataset = slice_dataset(ramp(4, 64, 64)[k], (0, 0, 2.5 * k))
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-100])
    error = _refused(folder)
    assert path.name in error.message
    assert error.reason == "truncated"


def test_a_slice_cut_in_its_header_refuses_the_folder(tmp_path: Path):
    folder = write_series(tmp_path / "s", ramp(4))
    path = folder / "003.dcm"
    path.write_bytes(path.read_bytes()[:400])
    assert "003.dcm" in _refused(folder).message


def test_a_slice_cut_before_its_place_is_told_is_not_one_of_another_grid(tmp_path: Path):
    folder = write_series(tmp_path / "s", ramp(4))
    content = (folder / "003.dcm").read_bytes()
    (folder / "003.dcm").write_bytes(content[: content.index(b"\x28\x00\x30\x00")])  # size is told, spacing is not
    assert _refused(folder).reason == _refused(f"{folder}#1.2.3.1").reason == "truncated"
    scan = scan_tree(tmp_path)
    assert not scan.images
    assert {problem.reason for problem in scan.problems} == {"truncated", "damaged-series"}


def test_the_scan_finds_the_cut_slice_by_its_length(tmp_path: Path):
    folder = write_series(tmp_path / "s", ramp(4))
    path = folder / "003.dcm"
    path.write_bytes(path.read_bytes()[:-1])
    scan = scan_tree(tmp_path)
    assert not scan.images
    told = {Path(p.path).name: p for p in scan.problems}
    assert {name: p.reason for name, p in told.items()} == {
        **{f"00{k}.dcm": "damaged-series" for k in range(3)},
        "003.dcm": "truncated",
    }
    assert "003.dcm is cut" in told["003.dcm"].message
    assert f"its series was left out whole, because {path} of it is cut" in told["000.dcm"].message
    assert list(scan.spoilt) == ["1.2.3.1"]


def test_planes_on_another_grid_and_localizers_are_left_out_and_said(tmp_path: Path):
    write_series(tmp_path, ramp())
    for k in range(3):
        plane = slice_dataset(ramp(1)[0], (2.0 * k, 0, 0), orientation=_SAGITTAL)
        plane.save_as(tmp_path / f"sagittal{k}.dcm", enforce_file_format=True)
    scout = slice_dataset(ramp(1, 40, 40)[0], (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.save_as(tmp_path / "scout.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path)
    assert volume.array.shape == (1, 12, 10, 16)
    assert volume.source.notes == (
        "1 localizer file(s) of the series were left out",
        "3 plane(s) of the series on another grid than its 16 were left out",
    )
    assert volume.source.doubts == (), "survey images across the volume are no part of it"
    scan = scan_tree(tmp_path)
    assert sorted(p.reason for p in scan.problems) == ["localizer", "other-grid", "other-grid", "other-grid"]
    assert scan.images[0].geometry is not None
    assert scan.images[0].geometry.is_close(volume.geometry)


@pytest.mark.parametrize("other", [{"orientation": (1, 0, 0, 0, 0.96, 0.28)}, {"shape": (5, 6)}])
def test_a_head_in_two_tilts_or_sizes_has_a_reason_not_to_use_the_result(tmp_path: Path, other: dict[str, Any]):
    """16 planes of one and 3 of the other, which lie above them: that part of the patient is not in the volume."""
    write_series(tmp_path, ramp())
    rows, columns = other.pop("shape", (10, 12))
    for k in range(3):
        plane = slice_dataset(ramp(1, rows, columns)[0], (0, 0, 100 + 2.5 * k), **other)
        plane.save_as(tmp_path / f"upper{k}.dcm", enforce_file_format=True)
    ((code, text),) = read_volume(tmp_path).source.doubts
    assert code == "planes-left-out"
    assert text.startswith("3 plane(s) of the series, of another tilt or size than the others, were left out")


def test_two_grids_of_one_size_are_refused(tmp_path: Path):
    write_series(tmp_path, ramp(3))
    for k in range(3):
        plane = slice_dataset(ramp(3)[k], (2.0 * k, 0, 0), orientation=_SAGITTAL)
        plane.save_as(tmp_path / f"sagittal{k}.dcm", enforce_file_format=True)
    assert _refused(tmp_path).reason == "mixed-series"


def test_rounded_cosines_stay_one_grid(tmp_path: Path):
    """0.0004 and 0.0006 round to different thousandths, but a degree is 0.017."""
    for k in range(4):
        tiny = 0.0004 if k % 2 else 0.0006
        plane = slice_dataset(ramp(4)[k], (0, 0, 2.5 * k), orientation=(1, tiny, 0, -tiny, 1, 0))
        plane.save_as(tmp_path / f"{k}.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path)
    assert volume.array.shape[-1] == 4
    assert volume.source.notes == ()


@pytest.mark.filterwarnings("ignore")  # pydicom remarks on the decimal strings that are too long
def test_decimal_strings_longer_than_the_standard_allows(tmp_path: Path):
    cosine = 0.7071067811865476123
    orientation = (f"{cosine:.20f}", f"{cosine:.20f}", "0", f"-{cosine:.20f}", f"{cosine:.20f}", "0")
    volume = read_volume(write_series(tmp_path, ramp(3), ImageOrientationPatient=list(orientation)))
    np.testing.assert_allclose(volume.geometry.affine[:3, 0], [-cosine / 2, -cosine / 2, 0], atol=1e-6)


@pytest.mark.parametrize("step", [2.5, -2.5])
def test_oblique_series_lie_on_their_positions(tmp_path: Path, step: float):
    row, column = np.array([0.8, 0.36, 0.48]), np.array([0.0, 0.8, -0.6])
    normal = np.cross(row, column)
    places = [tuple(np.array([5.0, -6, 7]) + step * k * normal) for k in range(4)]
    write_series(tmp_path, ramp(4), positions=places, ImageOrientationPatient=[*row, *column])
    volume = read_volume(tmp_path)
    for k, r, c in ((0, 0, 0), (3, 2, 5), (1, 9, 11)):
        lps = np.array(places[k]) + row * 0.5 * c + column * 0.5 * r
        index = volume.geometry.to_index(lps * (-1, -1, 1))
        np.testing.assert_allclose(index, np.rint(index), atol=1e-4)
        assert volume.array[(0, *np.rint(index).astype(int))] == ramp(4)[k, r, c]
    assert np.linalg.det(volume.geometry.affine[:3, :3]) * np.linalg.det(np.diag([-1, -1, 1])) > 0


def test_positions_beside_the_line_are_refused(tmp_path: Path):
    places = [(0, 0.5 if k == 3 else 0, 2.5 * k) for k in range(6)]
    assert _refused(write_series(tmp_path, ramp(6), positions=places)).reason == "curved-positions"


def test_a_number_sign_in_a_folder_name_is_no_series(tmp_path: Path):
    folder = tmp_path / "patient#1"
    write_series(folder / "a", ramp(3))
    write_series(folder / "b", ramp(4), series="1.2.3.9")
    assert read_volume(folder / "a").array.shape[-1] == 3
    assert read_volume(f"{folder}#1.2.3.9").array.shape[-1] == 4


@pytest.mark.parametrize(
    ("age", "years"), [("034Y", "34"), ("006M", "0.5"), ("000D", "0"), ("", ""), ("young", ""), ("100Y", "100")]
)
@pytest.mark.filterwarnings("ignore")
def test_ages_are_in_years(tmp_path: Path, age: str, years: str):
    write_series(tmp_path, ramp(2), PatientAge=age)
    assert scan_tree(tmp_path).images[0].age == years


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("series", range(5))
def test_real_series_equal_those_of_dcm2niix(real_data: Path, tmp_path: Path, series: int):
    """Every voxel, at its place in the patient; dcm2niix flips rows, so indices differ."""
    folder = sorted({path.parent for path in (real_data / "dicom_mr_brain_pgbm").rglob("*.dcm")})[series]
    command = ["dcm2niix", "-z", "n", "-m", "n", "-f", "out", "-o", str(tmp_path), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (written,) = tmp_path.glob("*.nii")
    assert json.loads(written.with_suffix(".json").read_text())
    other, ours = nib.load(written), read_volume(folder)
    theirs = np.asanyarray(other.dataobj)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in theirs.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    place = ours.geometry.to_index(index @ other.affine[:3, :3].T + other.affine[:3, 3])
    whole = np.rint(place).astype(int)
    assert np.abs(place - whole).max() < 0.05
    np.testing.assert_allclose(ours.array[0][tuple(whole.T)], theirs.reshape(-1), rtol=1e-5)
