"""A bundle that is not what its maker wrote is refused; predictions land in the patient's own geometry."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import onnx_bytes, write_bundle

from medssl.imaging.errors import BundleError, ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Source, Volume
from medssl.runtime.bundle import SCHEMA_VERSION, Bundle, write_sums
from medssl.runtime.confidence import Tally
from medssl.runtime.findings import check_modality, doubts, measured
from medssl.runtime.predictor import Predictor
from medssl.runtime.session import Session

_AFFINE = np.array([[0.0, -0.5, 0, 9], [0, 0, 2.5, -3], [-0.5, 0, 0, 4], [0, 0, 0, 1]])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def _refused(path: Path) -> str:
    with pytest.raises(BundleError) as error:
        Predictor(path)
    return error.value.reason


def test_the_mask_lies_on_the_native_grid(bundle: Path, rng: np.random.Generator):
    array = rng.uniform(0, 30, size=(1, 11, 9, 14)).astype(np.float32)
    volume = Volume(array, Geometry(_AFFINE, array.shape[1:]))
    prediction = Predictor(bundle).predict(volume)
    assert prediction.mask is not None
    np.testing.assert_array_equal(prediction.mask.array[0], (array[0] > 10).astype(int) + (array[0] > 20))
    assert prediction.mask.geometry.is_close(volume.geometry)
    low = prediction.report["labels"][0]
    count = int(((array > 10) & (array <= 20)).sum())
    assert (low["name"], low["voxels"]) == ("low", count)
    assert low["volume_ml"] == pytest.approx(count * 0.5 * 0.5 * 2.5 / 1000)
    assert prediction.report["bundle_sha256"] == Bundle.open(bundle).sha256
    assert "Not a medical device" in prediction.report["notice"]


_INTERVALS = {"coverage": 0.9, "patients": 20, "meaning": "m", "labels": {"1": {"quantile": 0.2, "floor_ml": 0.1}}}


@pytest.mark.parametrize(
    ("shape", "calibrated", "sizes"),
    [
        ((4, 5, 6), True, {"volume_ml": 0.06, "volume_ml_low": 0.028, "volume_ml_high": 0.092}),
        ((4, 5, 6), False, {}),
        ((4, 5), True, {"area_mm2": 5.0}),
        ((4, 5), False, {}),
    ],
)
def test_sizes_are_volumes_or_areas_and_left_out_where_the_pixel_size_is_unknown(
    bundle: Path, shape: tuple[int, ...], calibrated: bool, sizes: dict[str, float]
):
    spec = replace(Bundle.open(bundle).spec, intervals=_INTERVALS)
    mask = Volume(np.ones((1, *shape), np.uint8), Geometry(np.diag([0.5, 0.5, 2.0, 1.0]), shape))
    report = measured(mask, calibrated, spec, Tally(3, "softmax", 1.0))
    low, high = report["labels"]
    assert low == {"value": 1, "name": "low", "voxels": mask.array.size, "mean_probability": None} | sizes
    assert high["voxels"] == 0
    assert ("volume_interval" in report) is ("volume_ml" in sizes)


def test_a_report_of_an_image_without_a_pixel_size_gives_no_volume(bundle: Path):
    source = Source((), "nifti", calibrated=False)
    volume = Volume(np.full((1, 8, 8, 8), 15, np.float32), Geometry(np.eye(4), (8, 8, 8)), source=source)
    low, _ = Predictor(bundle).predict(volume).report["labels"]
    assert (low["voxels"], low.get("volume_ml")) == (512, None)


@pytest.mark.parametrize(("at_detector", "codes"), [(True, ["voxel-size"]), (False, [])])
def test_the_scale_of_a_detector_is_compared_with_the_trainings_and_an_unknown_one_is_not(
    bundle: Path, at_detector: bool, codes: list[str]
):
    trained = {"fingerprint": {"spacing_mm": {"smallest": [0.1, 0.1], "largest": [0.2, 0.2]}}}
    source = Source((), "dicom", calibrated=False, at_detector=at_detector)
    volume = Volume(np.zeros((1, 4, 4), np.float32), Geometry(np.eye(4), (4, 4)), source=source)
    assert [flag["code"] for flag in doubts(volume, replace(Bundle.open(bundle).spec, provenance=trained))] == codes


@pytest.mark.parametrize(
    ("trained", "told", "text"),
    [
        ([0.5, 0.5], True, ""),
        ([0.5, 0.5], False, "voxels of 0.50 x 0.50 mm, but the image does not tell its voxel size, so 1 mm was taken"),
        ([], True, "its training images did not tell theirs, so 1 mm was taken; this one has voxels of 0.50 x 0.50 mm"),
        ([], False, ""),
    ],
)
def test_a_network_that_works_in_mm_doubts_images_without_them(
    bundle: Path, trained: list[float], told: bool, text: str
):
    spec = Bundle.open(bundle).spec
    sizes = {"smallest": trained, "largest": trained} if trained else {}
    known = {"spacing_mm": sizes, "provenance": {"fingerprint": {"cases": 3, "spacing_mm": sizes}}}
    flat = replace(spec.preprocess, spatial_dims=2, spacing_mm=(0.5, 0.5))
    geometry = Geometry(np.diag([0.5, 0.5, 1, 1]) if told else np.eye(4), (4, 4))
    volume = Volume(np.zeros((1, 4, 4), np.float32), geometry, source=Source((), "raster", calibrated=told))
    flags = doubts(volume, replace(spec, preprocess=flat, **known))
    assert [flag["code"] for flag in flags] == (["voxel-size"] if text else [])
    assert all(text in flag["text"] for flag in flags)
    assert doubts(volume, replace(spec, preprocess=replace(flat, spacing_mm=None), **known)) == []


@pytest.mark.parametrize(
    ("own", "source", "outcome"),
    [
        ("MR", "dicom", ""),
        ("CT", "dicom", "the image is of modality CT, the bundle is for MR or PT"),
        ("OT", "dicom", "does not tell its modality"),
        ("Meier^Anna", "dicom", "the image is of modality another one, the bundle is for MR or PT"),
        ("", "dicom", "taken on trust"),
        ("", "nifti", ""),
        ("CT", "nifti", ""),
    ],
)
def test_a_dicom_image_of_another_modality_is_refused(tmp_path: Path, own: str, source: str, outcome: str):
    predictor = Predictor(write_bundle(tmp_path / "bundle", modalities=("MR", "PT")), threads=1)
    image = np.zeros((1, 8, 8, 8), np.float32)
    volume = Volume(image, Geometry(np.diag([0.5, 0.5, 2.5, 1]), (8, 8, 8)), own, Source((), source))
    if "bundle is for" in outcome:
        with pytest.raises(ImageError, match=outcome) as error:
            predictor.predict(volume)
        assert error.value.reason == "modality"
        return
    warnings = predictor.predict(volume).report["warnings"]
    assert [text for text in warnings if outcome in text] if outcome else warnings == []


def test_a_bundle_from_before_modalities_refuses_none(bundle: Path):
    content = json.loads((bundle / "bundle.json").read_text())
    for name in ("modalities", "spacing_mm"):
        del content[name]
    (bundle / "bundle.json").write_text(json.dumps(content))
    write_sums(bundle)
    spec = Bundle.open(bundle).spec
    volume = Volume(np.zeros((1, 8, 8, 8)), Geometry(np.eye(4), (8, 8, 8)), "US", Source((), "dicom"))
    assert (spec.modalities, check_modality(volume, spec), doubts(volume, spec)) == ((), [], [])


@pytest.mark.parametrize(
    ("sizes", "flagged"),
    [
        ((0.5, 0.5, 5.0), False),
        ((0.5, 5.0, 0.5), True),  # slices in another plane
        ((0.7, 0.7, 7.0), False),
        ((7.0, 7.0, 5.0), True),
        ((0.5, 0.5, 0.5), True),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_voxel_sizes_are_compared_axis_by_axis_however_the_voxels_lie(
    bundle: Path, sizes: tuple[float, ...], flagged: bool, order: tuple[int, ...]
):
    """Once as the axes of the training are, once with another axis first in the array."""
    known = {"smallest": [0.5, 0.5, 5.0], "largest": [0.5, 0.5, 5.0]}
    spec = replace(Bundle.open(bundle).spec, spacing_mm=known)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(sizes)[:, order]
    volume = Volume(np.zeros((1, 4, 4, 4)), Geometry(affine, (4, 4, 4)))
    assert [flag["code"] for flag in doubts(volume, spec)] == ["voxel-size"] * flagged


def test_a_zipped_bundle_works_like_the_folder(bundle: Path, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for file in bundle.iterdir():
            archive.write(file, f"bundle/{file.name}")
    assert Bundle.open(tmp_path / "b.zip").sha256 == Bundle.open(bundle).sha256


@pytest.mark.parametrize("name", ["model.onnx", "bundle.json", "golden.npz", "MODEL_CARD.md"])
def test_any_changed_byte_is_noticed(bundle: Path, name: str):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(bytes(content))
    assert _refused(bundle) == "hash-mismatch"


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "SHA256SUMS"])
def test_any_missing_file_is_noticed(bundle: Path, name: str):
    (bundle / name).unlink()
    assert _refused(bundle) == "incomplete"


def _edit(bundle: Path, **entries: object) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    write_sums(bundle)


def test_a_bundle_of_another_schema_names_the_version_that_it_needs(bundle: Path):
    wrote = {"versions": {"medssl": "7.8.9"}}
    for version, provenance, need in (
        (SCHEMA_VERSION + 1, wrote, "medssl 7.8.9, which wrote it, or a newer one"),
        (1, wrote, "medssl 7.8.9, which wrote it"),
        (SCHEMA_VERSION + 1, {}, "a newer medssl"),
        (1, "lost", "the medssl that wrote it"),
        (SCHEMA_VERSION + 1, {"versions": {"medssl": "1\nforged"}}, "a newer medssl"),
        (None, wrote, "medssl 7.8.9, which wrote it"),
    ):
        _edit(bundle, schema_version=version, provenance=provenance)
        with pytest.raises(BundleError, match=f"it needs {need}$") as error:
            Bundle.open(bundle)
        assert error.value.reason == "schema-version"


def test_a_bundle_with_an_unknown_entry_is_refused(bundle: Path):
    _edit(bundle, surprise=1)
    assert _refused(bundle) == "schema"


def test_golden_mismatch(tmp_path: Path):
    assert _refused(write_bundle(tmp_path / "b", golden_shift=0.1)) == "golden"
    assert Predictor(write_bundle(tmp_path / "c", golden_shift=1e-4)).golden_difference == pytest.approx(1e-4, rel=0.1)


@pytest.mark.parametrize(
    "model", [b"", b"no graph", onnx_bytes(domain="evil.custom"), onnx_bytes(output="other")], ids=len
)
def test_models_that_are_no_plain_graph(tmp_path: Path, model: bytes):
    assert _refused(write_bundle(tmp_path / "b", model)) == "bad-model"


def test_absent_bundle_and_no_zip(tmp_path: Path):
    assert _refused(tmp_path / "none") == "no-bundle"
    (tmp_path / "x.zip").write_text("no zip")
    assert _refused(tmp_path / "x.zip") == "bad-zip"


def test_wrong_channels_are_refused_and_odd_spacing_is_doubted(bundle: Path):
    predictor = Predictor(bundle)
    two = Volume(np.zeros((2, 8, 8, 8), np.float32), Geometry(_AFFINE, (8, 8, 8)))
    with pytest.raises(ImageError, match="takes 1 channel"):
        predictor.predict(two)
    wide = Volume(np.zeros((1, 8, 8, 8), np.float32), Geometry(np.diag([9.0, 9, 9, 1]), (8, 8, 8)))
    assert any("outside the training data" in warning for warning in predictor.predict(wide).report["warnings"])


def test_threads_are_what_was_asked_for(bundle: Path):
    assert Session(bundle / "model.onnx", 1).threads == 1
