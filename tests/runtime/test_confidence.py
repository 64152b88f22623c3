"""What a report says of its own certainty: closed forms, a slow oracle, and what a damaged gate does."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import BIAS, WEIGHT, write_bundle

from medssl.commands.predict import predict
from medssl.imaging.errors import BundleError, ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.runtime.bundle import GATE_FILE, Bundle, write_sums
from medssl.runtime.confidence import Featured, Gate, Tally, called_probability, interval_ml
from medssl.runtime.predictor import Predictor
from medssl.runtime.sliding_window import Plan, classify, segment_by, sigmoid, softmax, windows_of


def _gate(threshold: float = 3.0) -> Gate:
    """Images with means around 10, a deviation of 1."""
    features = np.random.default_rng(0).normal(10, 1, size=(40, 1)).astype(np.float32)
    known = Gate.fit(features, neighbours=3)
    return Gate(known.mean, known.scale, known.embeddings, 3, threshold)


def _volume(level: float, shape: tuple[int, ...] = (9, 8, 10)) -> Volume:
    values = np.random.default_rng(1).normal(level, 3, size=(1, *shape)).astype(np.float32)
    return Volume(values, Geometry(np.diag([0.5, 0.5, 2.5, 1]), shape))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_probability_of_the_called_class_is_that_of_softmax_and_sigmoid(temperature, rng):
    logits = rng.normal(0, 20, size=(5, 30)).astype(np.float32)
    called = rng.integers(0, 5, size=30)
    for name, function in (("softmax", softmax), ("sigmoid", sigmoid)):
        expected = function((logits / np.float32(temperature)).T)[np.arange(30), called]
        np.testing.assert_allclose(called_probability(logits, called, name, temperature), expected, atol=1e-6)


def test_a_tally_over_planes_is_the_mean_over_voxels_of_each_class(rng):
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32)
    labels = logits.argmax(axis=0).astype(np.uint8)
    tally = Tally(4, "softmax", 2.0)
    for plane in range(4):
        tally.observe((), logits[:, plane : plane + 1], labels[plane : plane + 1])
    shares = softmax((logits / 2).reshape(1, 3, 20))[0].max(axis=0).reshape(4, 5)
    assert tally.mean(1) == pytest.approx(shares[labels == 1].mean(), rel=1e-5)
    assert tally.mean(2) == pytest.approx(shares[labels == 2].mean(), rel=1e-5)
    assert tally.mean(3) is None


def test_a_tally_forgets_voxels_that_lose_their_class(rng):
    logits = rng.normal(size=(3, 40, 50)).astype(np.float32)
    labels = logits.argmax(axis=0).astype(np.uint8)
    tally = Tally(3, "softmax", 1.0, labels.shape)
    for plane in range(40):
        tally.observe((slice(plane, plane + 1), slice(None)), logits[:, plane : plane + 1], labels[plane : plane + 1])
    shares, left = softmax(logits.reshape(1, 3, -1))[0].max(axis=0).reshape(labels.shape), labels.copy()
    left[10:] = 0
    tally.keep(left)
    assert tally.mean(1) == pytest.approx(shares[left == 1].mean(), abs=1e-4)
    assert tally.mean(2) == pytest.approx(shares[left == 2].mean(), abs=1e-4)
    with pytest.raises(ValueError, match="forgets single voxels"):
        Tally(3, "softmax", 1.0).keep(left)


def test_an_interval_never_goes_below_nothing():
    assert interval_ml(2.0, {"quantile": 0.1, "floor_ml": 1.0}) == pytest.approx((1.7, 2.3))
    assert interval_ml(0.0, {"quantile": 0.5, "floor_ml": 1.0}) == pytest.approx((0.0, 0.5))


def test_the_distance_is_that_to_the_kth_neighbour_in_units_of_the_training(rng):
    features = rng.normal(size=(30, 4)).astype(np.float32) * [1, 10, 100, 0]
    gate = Gate.fit(features.astype(np.float32), neighbours=4)
    asked = rng.normal(size=4).astype(np.float32)
    scaled = np.where(np.arange(4) < 3, features.std(axis=0), 1e-3 * features.std(axis=0).max())
    apart = sorted(float(np.sqrt((((asked - row) / scaled) ** 2).mean())) for row in features)
    assert gate.distance(asked) == pytest.approx(apart[3], rel=1e-4)
    assert gate.distance(np.full(4, np.nan)) == float("inf")


def test_features_are_the_mean_over_all_windows(rng):
    network = Featured(lambda windows: (windows, windows.mean(axis=(1, 2))[:, None]))
    with pytest.raises(ValueError, match="no window"):
        network.features()
    batches = [rng.normal(size=(n, 2, 3)).astype(np.float32) for n in (1, 3)]
    for batch in batches:
        np.testing.assert_array_equal(network(batch), batch)
    assert network.features() == pytest.approx(np.concatenate(batches).mean(axis=(1, 2)).mean(), rel=1e-5)
    mirrored = Featured(lambda windows: (windows, windows[:, 0]), mirrorings=2)
    image = rng.normal(size=(1, 20)).astype(np.float32)
    classify(image, (8,), lambda windows: mirrored(windows)[:, 0], mirror_axes=(0,))
    crops = np.concatenate([window[:, 0] for window in windows_of(image, (8,), 0.0)])
    np.testing.assert_allclose(mirrored.features(), crops.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
def test_each_place_of_a_window_counts_once_however_little_memory_there_is(rng, mirror_axes: tuple[int, ...]):
    image, window = rng.normal(size=(1, 20, 17, 9)).astype(np.float32), (8, 8, 8)
    due = np.mean([crop[0, 0, 0, 0, 0] for crop in windows_of(image, window, 0.5)])
    for strips in (1, 2, 4):
        plan = Plan(window, batch_size=3, mirror_axes=mirror_axes, slab_bytes=2 * 8 * 17 * 9 * 4 // strips)
        network = Featured(
            lambda crops: (np.concatenate([crops, -crops], 1), crops[:, 0, 0, 0, :1]), 2 ** len(mirror_axes)
        )
        labels = segment_by(plan, image, network, 2)
        np.testing.assert_array_equal(labels, (image[0] < 0).astype(np.uint8))
        assert network.features() == pytest.approx(due, rel=1e-5), strips


def test_the_report_says_how_sure_it_is(tmp_path: Path):
    known = {"1": {"quantile": 0.25, "floor_ml": 0.01}}
    intervals = {"coverage": 0.9, "patients": 20, "meaning": "as drawn", "labels": known}
    bundle = write_bundle(tmp_path / "b", temperature=4.0, calibration={"cases": 20}, intervals=intervals)
    volume = _volume(14)
    report = Predictor(bundle, threads=1).predict(volume).report
    low, high = report["labels"]
    values = volume.array[0].astype(np.float64)
    logits = np.multiply.outer(WEIGHT, values) + np.reshape(BIAS, (3, 1, 1, 1))
    shares = np.exp(logits / 4) / np.exp(logits / 4).sum(axis=0)
    called = (values > 10) & (values <= 20)
    assert low["mean_probability"] == pytest.approx(shares[1][called].mean(), abs=1e-4)
    reach = 0.25 * (low["volume_ml"] + 0.01)
    assert low["volume_ml_low"] == pytest.approx(low["volume_ml"] - reach, abs=1e-6)
    assert low["volume_ml_high"] == pytest.approx(low["volume_ml"] + reach, abs=1e-6)
    assert "volume_ml_low" not in high
    assert report["volume_interval"] == {"coverage": 0.9, "patients": 20, "meaning": "as drawn"}
    assert (report["calibrated"], report["flags"]) == (True, [])


def test_an_image_unlike_the_training_is_flagged(tmp_path: Path):
    predictor = Predictor(write_bundle(tmp_path / "b", gate=_gate()), threads=1)
    usual, strange = (predictor.predict(_volume(level)).report for level in (10, 40))
    assert usual["flags"] == []
    assert usual["gate"]["distance"] < usual["gate"]["threshold"] == 3.0
    assert [flag["code"] for flag in strange["flags"]] == ["unlike-training"]
    assert any(w.startswith("do not use: the image is unlike") for w in strange["warnings"])
    empty = Volume(np.full((1, 8, 8, 8), np.nan, np.float32), Geometry(np.diag([0.5, 0.5, 2.5, 1]), (8, 8, 8)))
    with pytest.raises(ImageError, match="no finite numbers"):
        predictor.predict(empty)


def test_flags_are_in_the_summary(tmp_path: Path):
    write_nifti(_volume(40), tmp_path / "a.nii.gz")
    predict(write_bundle(tmp_path / "b", gate=_gate()), [str(tmp_path / "a.nii.gz")], tmp_path / "out", threads=1)
    text = (tmp_path / "out" / "summary.csv").read_text()
    assert ",unlike-training," in text
    assert json.loads((tmp_path / "out" / "a" / "report.json").read_text())["flags"][0]["code"] == "unlike-training"


def _refused(bundle: Path) -> str:
    with pytest.raises(BundleError) as error:
        Predictor(bundle)
    return error.value.reason


def test_a_gate_that_is_not_what_its_maker_wrote_is_refused(tmp_path: Path):
    bundle = write_bundle(tmp_path / "b", gate=_gate())
    file = bundle / GATE_FILE
    content = file.read_bytes()
    file.write_bytes(content[:-7] + b"changed")
    assert _refused(bundle) == "hash-mismatch"
    file.unlink()
    assert _refused(bundle) == "hash-mismatch"
    write_sums(bundle)
    assert _refused(bundle) == "incomplete"
    file.write_bytes(content[:50])
    write_sums(bundle)
    assert _refused(bundle) == "gate"
    np.savez(file, mean=np.zeros(2), scale=np.ones(1), embeddings=np.zeros((40, 1)))
    write_sums(bundle)
    assert _refused(bundle) == "gate"


def test_a_gate_file_that_no_list_names_is_noticed(tmp_path: Path):
    bundle = write_bundle(tmp_path / "b")
    (bundle / GATE_FILE).write_bytes(b"slipped in")
    assert _refused(bundle) == "hash-mismatch"


def test_features_are_part_of_the_golden_case(tmp_path: Path):
    bundle = write_bundle(tmp_path / "b", gate=_gate())
    image, logits, features = Bundle.open(bundle).golden()
    assert features is not None
    np.savez(bundle / "golden.npz", image=image, logits=logits, features=features + 1)
    write_sums(bundle)
    assert _refused(bundle) == "golden"
