"""`medssl prepare` from the command line: every configuration runs, and what it says and leaves is right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import ramp, write_series
from PIL import Image

from medssl.__main__ import main
from medssl.commands import prepare as verb
from medssl.commands.prepare import LabelOptions, prepare
from medssl.data.cache import Cache
from medssl.evaluation.segmentation_cases import native_reference
from medssl.imaging import files
from medssl.imaging.errors import CacheError, ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.index import index_tree
from medssl.imaging.labels import Label
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.preprocess import Intensity, Preprocess, restore_label
from medssl.imaging.problems import DAMAGED, read_problems
from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_seg import write_dicom_seg
from medssl.imaging.writers.dicom_source import Maker
from medssl.imaging.writers.nifti import write_nifti

_CONFIGS = Path(__file__).parents[2] / "configs" / "prepare"
_SHAPE = (24, 20, 8)
_GRID = Geometry(np.diag([-1.0, 1.5, 3.0, 1.0]), _SHAPE)


def _scan(path: Path, rng: np.random.Generator, dims: int = 3) -> None:
    if dims == 3:
        array = np.zeros((1, *_SHAPE), np.float32)
        array[:, 4:20, 3:17, 1:7] = 1000
        array += rng.normal(-960, 20, size=array.shape).astype(np.float32)
        write_nifti(Volume(array, _GRID), path)
    else:
        Image.fromarray(rng.integers(0, 255, size=(30, 40, 3), dtype=np.uint8)).save(path)


def _manifest(folder: Path, rows: list[Row], dims: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for row in rows:
        for part in row.image.split(";"):
            _scan(folder / part, rng, dims)
    Manifest.from_rows(rows, folder).write(folder / "manifest.csv")
    return folder / "manifest.csv"


@pytest.mark.parametrize("config", sorted(_CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_runs_as_it_is(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dims = 2 if "2d" in config.stem else 3
    suffix = ".png" if dims == 2 else ".nii.gz"
    manifest = _manifest(tmp_path, [Row(f"c{n}", f"p{n}", f"{n}{suffix}") for n in range(2)], dims)
    arguments = ["prepare", str(manifest), "--out", str(tmp_path / "cache"), "--config", str(config), "--workers", "1"]
    assert main(arguments) == 0
    cache = Cache.open(tmp_path / "cache")
    assert len(cache.cases) == 2
    assert cache.spatial_dims == dims
    for case in cache.cases:
        image = cache.image(case)
        assert np.isfinite(image).all()
        assert np.abs(image).max() > 0.5
        assert case.to_scale is (dims == 3)
        assert restore_label(np.zeros(case.shape, np.uint8), case.record).geometry.is_close(case.record.native)
        if cache.preprocess.spacing_mm is not None:
            np.testing.assert_allclose(case.spacing_mm, cache.preprocess.spacing_mm, rtol=1e-6)
    said = capsys.readouterr()
    assert "suggestion: spacing_mm" in said.out + said.err
    assert "MiB to read, about" in said.out + said.err


def test_channels_and_image_classes_come_from_the_manifest(tmp_path: Path) -> None:
    rows = [Row(f"c{n}", f"p{n}", f"{n}a.nii;{n}b.nii", class_name="ill" if n else "well") for n in range(3)]
    prepare(_manifest(tmp_path, rows), tmp_path / "cache", channels=["T1", "T2"], workers=1)
    cache = Cache.open(tmp_path / "cache")
    assert cache.channels == ("T1", "T2")
    assert cache.classes == ("ill", "well")
    assert [case.class_name for case in cache.cases] == ["well", "ill", "ill"]
    image = cache.image(cache.cases[0])
    assert image.shape == (2, *_SHAPE)
    assert not np.allclose(image[0], image[1])
    np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), 0, atol=2e-3)


def test_cases_with_different_numbers_of_channels_are_named(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, [Row("one", "p0", "0.nii"), Row("two", "p1", "1.nii;2.nii")])
    with pytest.raises(CacheError, match="1 in 'one', 2 in 'two'"):
        prepare(manifest, tmp_path / "cache", workers=1)
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_uneven_series_of_an_index_are_left_out_unless_resampling_is_asked_for_again(tmp_path: Path) -> None:
    write_series(tmp_path / "d" / "good", ramp(4))
    write_series(tmp_path / "d" / "gap", ramp(4), positions=[(0, 0, z) for z in (0, 1, 2, 4)], series="1.2.9")
    index_tree(tmp_path / "d", tmp_path / "manifest.csv", resample_irregular=True)
    with pytest.raises(CacheError, match=r"gap: .*missing-slice"):
        prepare(tmp_path / "manifest.csv", tmp_path / "strict", workers=1)
    prepare(tmp_path / "manifest.csv", tmp_path / "cache", resample_irregular=True, workers=1)
    (gap, _) = sorted(Cache.open(tmp_path / "cache").cases, key=lambda case: case.case)
    assert gap.case == "gap"
    assert any("uneven slices were resampled" in note for note in gap.notes)


def test_a_file_of_the_manifest_that_is_damaged_is_named(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, [Row(name, name, f"{name}.nii.gz") for name in ("whole", "cut", "hole")])
    content = (tmp_path / "cut.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    (tmp_path / "hole.nii.gz").write_bytes(content[:5000] + content[6000:])
    with pytest.raises(CacheError, match="2 of 3 cases were left out"):
        prepare(manifest, tmp_path / "cache", workers=1)
    told = {Path(p.path).name: p for p in read_problems(tmp_path / "cache" / "problems.csv")}
    assert {name: problem.reason in DAMAGED for name, problem in told.items()} == {"cut": True, "hole": True}
    assert all(f"{name}.nii.gz" in problem.message for name, problem in told.items())
    cache = Cache.open(tmp_path / "cache")
    assert sorted(name for split in ("train", "val", "test") for name in cache.not_prepared(split)) == ["cut", "hole"]


def _labelled(folder: Path, patients: int) -> Path:
    rows = []
    for number in range(patients):
        for side in "LR":
            label = np.zeros((1, *_SHAPE), np.uint8)
            label[0, 5:9, 5:9, 2:5] = 3
            label[0, 9, 9, 5] = 255
            write_nifti(Volume(label, _GRID), folder / f"{number}{side}_label.nii")
            name = f"{number}{side}"
            rows.append(Row(name, f"p{number}", f"{name}.nii", f"{name}_label.nii"))
    return _manifest(folder, rows)


def test_splits_are_by_patient_and_repeat_with_the_seed(tmp_path: Path) -> None:
    manifest = _labelled(tmp_path, 8)
    chosen = []
    for run, seed in enumerate((0, 0, 1)):
        prepare(manifest, tmp_path / f"cache{run}", split="50/25/25", seed=seed, ignore_label=255, workers=1)
        cases = Cache.open(tmp_path / f"cache{run}").cases
        chosen.append({case.case: case.split for case in cases})
        assert all(chosen[-1][f"{n}L"] == chosen[-1][f"{n}R"] for n in range(8))
        assert sorted(chosen[-1].values()) == ["test"] * 4 + ["train"] * 8 + ["val"] * 4
    assert chosen[0] == chosen[1] != chosen[2]


def test_too_few_patients_for_the_splits_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(_labelled(tmp_path, 2), tmp_path / "cache", ignore_label=255, workers=1)
    said = capsys.readouterr().out
    assert "2 labelled patient(s) are too few for --split 70/15/15: no patient for val and test" in said


def test_ages_that_cannot_be_read_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = _manifest(tmp_path, [Row("a", "p1", "a.nii.gz", age="063Y"), Row("b", "p2", "b.nii.gz", age="63 F")])
    prepare(manifest, tmp_path / "cache", workers=1)
    said = capsys.readouterr().out
    assert f"WARNING: 1 age(s) in {manifest} cannot be read and count as not told" in said
    assert "  - line 3: age '63 F' of case 'b'\n" in said
    assert len(Cache.open(tmp_path / "cache").cases) == 2


def test_values_found_become_classes_mapped_and_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(_labelled(tmp_path, 1), tmp_path / "cache", label_map={3: 1}, ignore_label=255, workers=1)
    cache = Cache.open(tmp_path / "cache")
    assert [(label.value, label.name) for label in cache.labels] == [(1, "class_1")]
    assert cache.ignore_label == 255
    assert sorted(np.unique(cache.label(cache.cases[0]))) == [0, 1, 255]
    assert cache.fingerprint["label_voxels"]["1"] == 2 * 4 * 4 * 3
    said = capsys.readouterr()
    assert "label classes: class_1 (no labels were given" in said.out + said.err


def test_a_changed_original_is_prepared_again_and_the_others_are_not(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, [Row(f"c{n}", f"p{n}", f"{n}.nii") for n in range(2)])
    prepare(manifest, tmp_path / "cache", Preprocess(intensity=Intensity("none")), workers=1)
    cache = Cache.open(tmp_path / "cache")
    before = [cache.image(case) for case in cache.cases]
    times = [(cache.path / "cases" / f"c{n}" / "image.b2nd").stat().st_mtime_ns for n in range(2)]
    _scan(tmp_path / "1.nii", np.random.default_rng(5))
    prepare(manifest, tmp_path / "cache", Preprocess(intensity=Intensity("none")), workers=1)
    again = Cache.open(tmp_path / "cache")
    np.testing.assert_array_equal(again.image(again.cases[0]), before[0])
    assert not np.array_equal(again.image(again.cases[1]), before[1])
    assert (cache.path / "cases" / "c0" / "image.b2nd").stat().st_mtime_ns == times[0]
    assert again.data_sha256 != cache.data_sha256


def test_an_unforeseen_failure_leaves_one_case_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = verb._write

    def odd(job: verb.Job, digest: str) -> None:
        if job.row.case == "c1":
            raise IndexError("a file like no other")
        write(job, digest)

    monkeypatch.setattr(verb, "_write", odd)
    manifest = _manifest(tmp_path, [Row(f"c{n}", f"p{n}", f"{n}.nii") for n in range(3)])
    with pytest.raises(CacheError, match=r"c1: IndexError: a file like no other \(internal-error\)"):
        prepare(manifest, tmp_path / "cache", workers=1)
    assert [case.case for case in Cache.open(tmp_path / "cache").cases] == ["c0", "c2"]


def test_a_full_disk_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = _manifest(tmp_path, [Row(f"c{n}", f"p{n}", f"{n}.nii") for n in range(3)])
    seen = []

    def full(job: verb.Job, digest: str) -> None:
        seen.append(job.row.case)
        raise OSError(28, "No space left on device", "image.b2nd")

    monkeypatch.setattr(verb, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(manifest, tmp_path / "cache", workers=1)
    assert seen == ["c0"]
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_little_space_is_told_before_and_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = _manifest(tmp_path, [Row("c", "p", "0.nii")])
    monkeypatch.setattr(verb.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5})())
    prepare(manifest, tmp_path / "cache", workers=1)
    assert "has 0 MiB free, the originals take" in capsys.readouterr().out
    assert len(Cache.open(tmp_path / "cache").cases) == 1


def test_mistakes_of_the_command_line_end_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = _manifest(tmp_path, [Row("c", "p", "0.nii")])
    config = tmp_path / "odd.yaml"
    config.write_text(json.dumps({"preprocess": {"spacing": [1, 1, 1]}}))
    assert main(["prepare", str(manifest), "--out", str(tmp_path / "cache"), "--config", str(config)]) == 2
    assert "spacing" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_the_file_of_many_slices_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(f"v_{k}", "p", f"v.nii.gz#slice=2:{k}") for k in range(_SHAPE[2])]
    _scan(tmp_path / "v.nii.gz", np.random.default_rng(0))
    hashed, sha256 = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    first = {verb.source_hash(row, tmp_path, "") for row in rows}
    assert hashed == ["v.nii.gz"]
    assert len(first) == 1, "what tells slices apart is in the text"
    _scan(tmp_path / "v.nii.gz", np.random.default_rng(1))
    assert {verb.source_hash(row, tmp_path, "") for row in rows} != first
    assert len(hashed) == 2, "a file that changed is read again"


def _with_segments(folder: Path, patient: int, *drawn: tuple[str, int]) -> Row:
    """A CT series, and a DICOM-SEG of another program with a segment a name, on its frame of reference."""
    uid = f"1.2.3.{patient}"
    attributes = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "O"}
    image = read_volume(write_series(folder / f"s{patient}", ramp(4), series=uid, **attributes))
    array = np.zeros((1, *image.geometry.shape), np.uint8)
    for value, (_, rows) in enumerate(drawn, start=1):
        array[0, 2 * value : 2 * value + rows, 2:5, 1:3] = value
    labels = tuple(Label(value, name) for value, (name, _) in enumerate(drawn, start=1))
    path = folder / f"seg{patient}.dcm"
    write_dicom_seg(Volume(array, image.geometry), image, labels, path, Maker("m", "k"))
    return Row(f"c{patient}", f"p{patient}", f"s{patient}", label=f"seg{patient}.dcm", split="train")


def test_numbers_of_segments_with_several_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        _with_segments(tmp_path, 1, ("liver", 2), ("cyst", 1)),
        _with_segments(tmp_path, 2, ("cyst", 2), ("liver", 1)),
    ]
    Manifest.from_rows(rows, tmp_path).write(tmp_path / "m.csv")
    with pytest.raises(CacheError, match="segment 1 is called 'liver' in case 'c1' and 'cyst' in case 'c2'") as error:
        prepare(tmp_path / "m.csv", tmp_path / "numbers", workers=1)
    assert error.value.reason == "label-names"
    assert not (tmp_path / "numbers" / "cache.json").exists()
    prepare(tmp_path / "m.csv", tmp_path / "names", labels=[LabelOptions("liver", 1)], workers=1)
    assert "remark: segment 'cyst' is not in the class list and was left out: c1, c2" in capsys.readouterr().out
    cache = Cache.open(tmp_path / "names")
    assert [int((cache.label(case) == 1).sum()) for case in cache.cases] == [12, 6]


def test_names_of_segments_without_a_voxel_and_their_spelling_divide_nobody() -> None:
    cases = [
        {"case": f"c{n}", "extra": {"segments": {"2": name}}} for n, name in enumerate(["", "Left lung", "left_lung"])
    ]
    verb._refuse_renamed(cases)
    with pytest.raises(CacheError, match="'Left lung' in case 'c1' and 'cyst' in case 'c3'"):
        verb._refuse_renamed([*cases, {"case": "c3", "extra": {"segments": {"2": "cyst"}}}])


def test_a_case_keeps_whose_label_may_be_read_for_it(tmp_path: Path) -> None:
    Manifest.from_rows([_with_segments(tmp_path, 1, ("liver", 2))], tmp_path).write(tmp_path / "m.csv")
    prepare(tmp_path / "m.csv", tmp_path / "cache", labels=[LabelOptions("liver", 1)], workers=1)
    cache = Cache.open(tmp_path / "cache")
    (case,) = cache.cases
    assert case.uids == {"SeriesInstanceUID": "1.2.3.1", "FrameOfReferenceUID": "1.2.4"}
    assert int((native_reference(cache, case).array == 1).sum()) == 12
    other = replace(case, uids={"SeriesInstanceUID": "1.2.8", "FrameOfReferenceUID": "1.2.9"})
    with pytest.raises(ImageError, match="another frame of reference"):
        native_reference(cache, other)
    with pytest.raises(ImageError, match="run medssl prepare again"):
        native_reference(cache, replace(case, uids=None))
