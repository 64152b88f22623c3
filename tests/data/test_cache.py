import json
import pickle
from pathlib import Path

import blosc2
import numpy as np
import pytest
from small_cache import small_cache

from medssl.commands.prepare import LabelOptions, prepare
from medssl.data.cache import OUTSIDE, Cache, stored, write_case
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
        cache.crop_label(case, (-2, 10, 0), (5, 6, 9)),
        np.pad(label[:3, 10:].astype(int), [(2, 0), (0, 2), (0, 0)], constant_values=OUTSIDE),
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


def _smooth(shape: tuple[int, ...]) -> np.ndarray:
    """An image that compresses, so that most bytes matter."""
    axes = np.meshgrid(*[np.linspace(0, 3, n, dtype=np.float32) for n in shape], indexing="ij")
    return np.sin(sum(axes))[None]


def _without_checksums(cache: Cache) -> Cache:
    """As a cache from before they were kept."""
    for case in cache.cases:
        path = cache.path / "cases" / case.case / "case.json"
        content = json.loads(path.read_text())
        del content["extra"]["checksums"]
        path.write_text(json.dumps(content))
    return Cache.open(cache.path)


@pytest.mark.parametrize("kind", ["image", "label", "foreground"])
def test_no_flipped_bit_passes_unseen(kind: str, tmp_path: Path, rng: np.random.Generator):
    cache = small_cache(tmp_path, [(30, 20, 20)], labelled=[True])
    case = cache.cases[0]
    write_case(cache.path, case, _smooth(case.shape), cache.label(case), {})
    path = next(cache.path.glob(f"cases/c0/{kind}.*"))
    good, refused = path.read_bytes(), 0

    def read() -> list[np.ndarray]:
        found = getattr(Cache.open(cache.path), kind)(case)
        return [np.array(list(found)), *found.values()] if isinstance(found, dict) else [found]

    whole = read()
    for place in rng.integers(len(good), size=150):
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        try:
            found = read()
        except CacheError:
            refused += 1
        else:
            assert all(np.array_equal(now, then) for now, then in zip(found, whole, strict=True)), place
    assert refused > 30


def test_a_crop_checks_the_chunks_that_it_touches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = small_cache(tmp_path, [(70, 70, 70)])
    case = cache.cases[0]
    path = cache.path / "cases" / "c0" / "case.json"
    content = json.loads(path.read_text())
    chunks = content["extra"]["checksums"]["image.b2nd"]["chunks"].split()
    assert len(chunks) == 8
    chunks[5] = "0" * 8  # the one behind (64, 0, 64)
    content["extra"]["checksums"]["image.b2nd"]["chunks"] = " ".join(chunks)
    path.write_text(json.dumps(content))
    cache = Cache.open(tmp_path)
    for start in ((0, 0, 0), (32, 32, 0), (64, 0, 32), (64, 64, 64)):
        cache.crop_image(case, start, (4, 4, 32))
    with pytest.raises(CacheError, match="chunk 5 is not what was written"):
        cache.crop_image(case, (60, 10, 60), (6, 6, 6))
    monkeypatch.setattr("zlib.crc32", None)  # what was good is not looked at again
    cache.crop_image(case, (32, 32, 0), (4, 4, 32))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_no_case_can_hold_is_refused_without_checksums_too(tmp_path: Path, value: float):
    cache = small_cache(tmp_path, [(9, 9), (9, 9), (9, 9)], labelled=[True] * 3, ignore_label=200)
    first, second, third = cache.cases
    image = np.full((1, *first.shape), -65504, np.float32)  # the lowest number of float16
    write_case(cache.path, second, image, np.full((9, 9), 3, np.uint8), {})
    write_case(cache.path, third, image, np.full((9, 9), 200, np.uint8), {})
    image[0, 4, 4] = value
    array = blosc2.asarray(image.astype(np.float16), urlpath=str(tmp_path / "cases/c0/image.b2nd"), mode="w")
    del array
    cache = _without_checksums(cache)
    for read in (cache.image, lambda case: cache.crop_image(case, (3, 3), (4, 4))):
        with pytest.raises(CacheError, match=r"cases/c0/image.*no numbers") as told:
            read(first)
        assert told.value.reason == "bad-cache"
    assert np.isfinite(cache.crop_image(first, (0, 0), (4, 4))).all()
    with pytest.raises(CacheError, match=r"cases/c1/label.*label value 3 is of no class"):
        cache.label(second)
    assert (cache.label(third) == 200).all()


@pytest.mark.parametrize("error", [MemoryError(), SyntaxError("x"), AttributeError("y")])
def test_whatever_damaged_bytes_raise_is_a_damaged_case(error: Exception, cache: Cache, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("medssl.data.cache.open_array", broken)
    monkeypatch.setattr("numpy.load", broken)
    for read in (cache.image, cache.foreground):
        with pytest.raises(CacheError, match=type(error).__name__ if not str(error) else str(error)) as told:
            read(cache.cases[0])
        assert told.value.reason == "bad-cache"


def test_prepare_makes_anew_what_is_damaged(cache: Cache, tmp_path: Path):
    whole = cache.image(cache.cases[1])
    path = cache.path / "cases" / "c1" / "image.b2nd"
    written = {case.case: (cache.path / "cases" / case.case / "case.json").stat().st_mtime_ns for case in cache.cases}
    bad = bytearray(path.read_bytes())
    bad[len(bad) // 2] ^= 1
    path.write_bytes(bad)
    prepare(tmp_path / "m.csv", cache.path, labels=[LabelOptions("a", 1), LabelOptions("b", 2)], workers=1)
    np.testing.assert_array_equal(Cache.open(cache.path).image(cache.cases[1]), whole)
    for case, before in written.items():
        assert ((cache.path / "cases" / case / "case.json").stat().st_mtime_ns != before) == (case == "c1")


def test_arrays_are_on_the_disk_before_the_case_counts_as_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced = []

    def sync(path: Path) -> None:
        assert not (tmp_path / "cases" / "c0" / "case.json").exists()
        synced.append(path.name)

    monkeypatch.setattr("medssl.data.cache.sync_file", sync)
    small_cache(tmp_path, [(9, 9)], labelled=[True])
    assert sorted(synced) == ["foreground.npz", "image.b2nd", "label.b2nd"]


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
