import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from small_cache import small_cache

from medssl.commands.prepare import LabelOptions, prepare
from medssl.data.cache import Cache, stored
from medssl.imaging.errors import CacheError
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.preprocess import Intensity, Preprocess, restore_label
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

_SHAPE = (20, 14, 9)
_LPI = np.diag([-1.0, -2.0, -1.0, 1.0])


def _manifest(folder: Path, patients: int = 4, bad: bool = False) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(patients):
        image = rng.normal(size=(1, *_SHAPE)).astype(np.float32)
        label = rng.integers(0, 3, size=(1, *_SHAPE)).astype(np.uint8)
        write_nifti(Volume(image, Geometry(_LPI, _SHAPE)), folder / f"{number}.nii.gz")
        write_nifti(Volume(label, Geometry(_LPI, _SHAPE)), folder / f"{number}_label.nii.gz")
        rows.append(Row(f"c{number}", f"p{number}", f"{number}.nii.gz", f"{number}_label.nii.gz", split="train"))
    if bad:
        flat = Volume(np.zeros((1, *_SHAPE), np.float32), Geometry(_LPI, _SHAPE))
        write_nifti(flat, folder / "flat.nii.gz")
        rows.append(Row("flat", "p9", "flat.nii.gz", split="train"))
    Manifest.from_rows(rows, folder).write(folder / "m.csv")
    return folder / "m.csv"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    prepare(_manifest(tmp_path), tmp_path / "cache", labels=[LabelOptions("a", 1), LabelOptions("b", 2)], workers=1)
    return Cache.open(tmp_path / "cache")


def test_what_goes_in_comes_out(cache: Cache, tmp_path: Path):
    case = cache.cases[1]
    original = np.random.default_rng(0)
    for _ in range(2):
        image = original.normal(size=(1, *_SHAPE)).astype(np.float32)
        label = original.integers(0, 3, size=(1, *_SHAPE)).astype(np.uint8)
    turned = image[:, ::-1, ::-1, ::-1]
    expected = (turned - turned.mean(dtype=np.float64)) / turned.std(dtype=np.float64)
    np.testing.assert_allclose(cache.image(case), expected, atol=2e-3)
    np.testing.assert_array_equal(cache.label(case), label[0, ::-1, ::-1, ::-1])
    assert case.spacing_mm == (1, 2, 1)
    assert [label.name for label in cache.labels] == ["a", "b"]
    np.testing.assert_array_equal(restore_label(cache.label(case), case.record).array, label)


def test_crops_are_parts_of_the_whole_and_padded_beyond_it(cache: Cache):
    case = cache.cases[0]
    whole, label = cache.image(case), cache.label(case)
    np.testing.assert_array_equal(
        cache.crop_image(case, (3, 2, 1), (5, 6, 7)), whole[:, 3:8, 2:8, 1:8].astype(np.float16)
    )
    crop = cache.crop_image(case, (-2, 10, 0), (5, 6, 9))
    np.testing.assert_array_equal(
        crop, np.pad(whole[:, :3, 10:], [(0, 0), (2, 0), (0, 2), (0, 0)], mode="edge").astype(np.float16)
    )
    np.testing.assert_array_equal(
        cache.crop_label(case, (-2, 10, 0), (5, 6, 9)), np.pad(label[:3, 10:], [(2, 0), (0, 2), (0, 0)])
    )
    with pytest.raises(CacheError, match="misses"):
        cache.crop_image(case, (20, 0, 0), (4, 4, 4))


def test_foreground_points_carry_their_class(cache: Cache):
    for case in cache.cases:
        label = cache.label(case)
        points = cache.foreground(case)
        assert set(points) == {1, 2}
        for value, voxels in points.items():
            assert set(label[tuple(voxels.T)]) == {value}


def test_a_cache_travels_to_workers(cache: Cache):
    cache.image(cache.cases[0])
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301 (made here)
    np.testing.assert_array_equal(copy.image(copy.cases[0]), cache.image(cache.cases[0]))


def test_storage_types():
    assert stored(np.array([-1000.0, 3000], np.float32)).dtype == np.int16
    assert stored(np.array([-1.5, 3], np.float32)).dtype == np.float16
    assert stored(np.array([1e6, 0.5], np.float32)).dtype == np.float32


def test_resuming_keeps_finished_cases_and_mends_others(tmp_path: Path):
    manifest, out = _manifest(tmp_path), tmp_path / "cache"
    prepare(manifest, out, workers=1)
    before = (out / "cases" / "c0" / "case.json").stat().st_mtime_ns
    (out / "cases" / "c1" / "case.json").unlink()
    (out / "cache.json").unlink()
    prepare(manifest, out, workers=2)
    assert (out / "cases" / "c0" / "case.json").stat().st_mtime_ns == before
    assert len(Cache.open(out).cases) == 4


def test_other_settings_for_a_cache_that_is_there_are_refused(tmp_path: Path):
    manifest, out = _manifest(tmp_path), tmp_path / "cache"
    prepare(manifest, out, workers=1)
    with pytest.raises(CacheError, match="other settings \\(preprocess\\)"):
        prepare(manifest, out, preprocess=Preprocess(intensity=Intensity("none")), workers=1)
    settings = json.loads((out / "settings.json").read_text())
    del settings["preprocess"]["grey"]  # as an earlier version wrote them
    (out / "settings.json").write_text(json.dumps(settings))
    prepare(manifest, out, workers=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(CacheError, match="not empty"):
        prepare(manifest, tmp_path / "full", workers=1)


def test_a_bad_case_is_named_and_the_others_are_finished(tmp_path: Path):
    manifest, out = _manifest(tmp_path, bad=True), tmp_path / "cache"
    with pytest.raises(CacheError, match=r"1 of 5 cases were left out(.|\n)*flat: .*\(constant-image\)"):
        prepare(manifest, out, workers=1)
    assert [case.case for case in Cache.open(out).cases] == ["c0", "c1", "c2", "c3"]
    assert "constant-image" in (out / "problems.csv").read_text()
    assert not (out / "cases" / "flat").exists()


def test_labels_outside_the_classes_leave_the_case_out(tmp_path: Path):
    with pytest.raises(
        CacheError, match=r"no case could be prepared \(4 label-values; for instance .*c0: .*problems\.csv lists all"
    ):
        prepare(_manifest(tmp_path), tmp_path / "cache", labels=[LabelOptions("a", 1)], workers=1)
    assert "label-values" in (tmp_path / "cache" / "problems.csv").read_text()


def test_damaged_newer_and_missing_caches(cache: Cache):
    path = cache.path / "cache.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(CacheError, match="version 99"):
        Cache.open(cache.path)
    path.write_text("{")
    with pytest.raises(CacheError, match="damaged"):
        Cache.open(cache.path)
    path.unlink()
    with pytest.raises(CacheError, match="no finished cache"):
        Cache.open(cache.path)
    path.write_text(json.dumps(content))
    array = cache.path / "cases" / "c0" / "image.b2nd"
    array.write_bytes(array.read_bytes()[:100])
    opened = Cache.open(cache.path)
    with pytest.raises(CacheError, match="damaged"):
        opened.image(opened.cases[0])


def test_open_arrays_stay_bounded(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medssl.data.cache._OPEN_ARRAYS", 2)
    for case in cache.cases:
        cache.crop_image(case, (0, 0, 0), (2, 2, 2))
    assert len(cache._arrays) == 2


def test_resampled_hu_are_int16_and_lone_peaks_keep_the_rest(rng: np.random.Generator):
    hu = rng.normal(0, 500, size=(1, 20, 20, 20)).astype(np.float32)
    hu[0, 0, 0, 0] = 3000.5
    assert stored(hu).dtype == np.int16
    np.testing.assert_allclose(stored(hu), hu, atol=0.5)
    quiet = rng.normal(size=(1, 20, 20, 20)).astype(np.float32)
    quiet[0, 0, 0, 0] = 3000.5
    assert stored(quiet).dtype == np.float32


def test_open_maps_do_not_grow_with_the_number_of_cases(tmp_path: Path):
    big = small_cache(tmp_path / "big", [(8, 8, 8)] * 90)
    for case in big.cases:
        big.crop_image(case, (0, 0, 0), (4, 4, 4))
    maps = Path("/proc/self/maps")
    if maps.is_file():
        held = {line.split()[-1] for line in maps.read_text().splitlines() if str(big.path) in line}
        assert 0 < len(held) <= 64
    assert len(big._arrays) == 64
