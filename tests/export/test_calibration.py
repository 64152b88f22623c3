"""Temperature, volume intervals and gate: known answers, promised coverage by simulation, and from export to report."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cohort import make_cache, make_run, write_scans
from torch import nn

from medssl.commands.export import export
from medssl.commands.parsing import parse_verb
from medssl.commands.prepare import prepare
from medssl.data.cache import Cache
from medssl.evaluation.loaded_run import load_run
from medssl.evaluation.options import PredictOptions
from medssl.evaluation.segmentation_cases import native_reference
from medssl.export.calibration import (
    LogitSample,
    calibration_error,
    fit_temperature,
    fit_window_temperature,
    volume_errors,
)
from medssl.export.confidence import measure_confidence
from medssl.export.gate import gate_lacks, measured_gate
from medssl.export.options import ConfidenceOptions, OperationOptions, ParityOptions
from medssl.export.pretraining import Pretraining
from medssl.export.trained import Trained, spread
from medssl.imaging.errors import ConfigError
from medssl.imaging.preprocess import Preprocess, restore_label
from medssl.imaging.readers.open import read_volume
from medssl.runtime.bundle import Bundle
from medssl.runtime.confidence import interval_ml
from medssl.runtime.predictor import Predictor
from medssl.runtime.sliding_window import softmax
from medssl.tasks.inference import segment_image

_PATIENTS = 26
_PARITY = ParityOptions(cases=1, threads=1)


def _drawn(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """Classes drawn with the probabilities that the logits say."""
    shares = softmax(logits.astype(np.float32)).cumsum(axis=1)
    return (rng.random((len(logits), 1)) > shares).sum(axis=1).clip(max=logits.shape[1] - 1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_spoiled_the_logits_is_found(temperature, rng):
    samples = []
    for _ in range(5):
        honest = rng.normal(0, 2, size=(4000, 3))
        samples.append(LogitSample((honest * temperature).astype(np.float32), _drawn(rng, honest)))
    found, numbers = fit_temperature(samples, "softmax")
    assert found == pytest.approx(temperature, rel=0.06)
    assert numbers["nll_after"] <= numbers["nll_before"]
    assert numbers["calibration_error_after"] < 0.02
    if temperature != 1:
        assert numbers["calibration_error_before"] > 2 * numbers["calibration_error_after"]


def test_the_temperature_of_sigmoids_makes_the_called_class_honest(rng):
    honest = rng.normal(0, 2, size=(6000, 2))
    called = honest.argmax(axis=1)
    right = rng.random(6000) < 1 / (1 + np.exp(-honest.max(axis=1)))
    sample = LogitSample((honest * 3).astype(np.float32), np.where(right, called, 1 - called))
    assert fit_temperature([sample], "sigmoid")[0] == pytest.approx(3, rel=0.1)


def test_the_temperature_of_images_is_that_of_the_mean_over_windows(rng):
    samples = []
    for _ in range(3000):
        honest = rng.normal(0, 2, size=(1, 3))
        twice = np.repeat(honest * 2.5, 2, axis=0).astype(np.float32)
        samples.append(LogitSample(twice, _drawn(rng, honest)))
    found, numbers = fit_window_temperature(samples, "softmax")
    assert found == pytest.approx(2.5, rel=0.08)
    assert numbers["calibration_error_after"] < 0.04


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_cases_without_an_error_bound_no_temperature(activation):
    """Ten patients, all right at a probability of 0.88: the best temperature would be near 0, all certain."""
    right = LogitSample(np.tile(np.float32([[2.0, 0.0]]), (5, 1)), np.zeros(5, np.int64))
    images = [LogitSample(right.logits[:1], right.truth[:1])] * 10
    for fit, samples in ((fit_temperature, [right] * 10), (fit_window_temperature, images)):
        temperature, numbers = fit(samples, activation)
        assert temperature == 1
        assert list(numbers) == ["missing"]
        assert "no error among the cases" in numbers["missing"]


def test_a_temperature_at_the_end_of_its_range_is_none():
    wrong = LogitSample(np.float32([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), np.array([1, 1, 0]))
    for fit, samples in ((fit_temperature, [wrong]), (fit_window_temperature, [wrong])):
        temperature, numbers = fit(samples, "softmax")
        assert temperature == 1
        assert "lies at an end of the range" in numbers["missing"]


def test_calibration_error_by_hand():
    shares, right = np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, False, True, True])
    assert calibration_error(shares, right, np.ones(4)) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)


def test_the_worst_case_of_a_patient_counts():
    cases = [("a", 1.0, 1.2), ("a", 1.0, 0.4), ("b", 0.0, 0.1)]
    np.testing.assert_allclose(volume_errors(cases, 1.0), [0.3, 0.1])


def test_intervals_hold_for_as_many_patients_as_promised(rng):
    """Split-conformal: over many draws of 30 patients to measure on, new patients lie within in 90 to 94 of 100."""
    coverage, patients, inside = 0.9, 30, []
    rank = int(np.ceil((patients + 1) * coverage))
    for _ in range(2000):
        true = rng.lognormal(0, 0.5, size=patients + 1)
        measured = true * rng.lognormal(0.05, 0.2, size=patients + 1)
        errors = volume_errors([(str(n), measured[n], true[n]) for n in range(patients)], 0.05)
        entry = {"quantile": float(np.sort(errors)[rank - 1]), "floor_ml": 0.05}
        low, high = interval_ml(measured[-1], entry)
        inside.append(low <= true[-1] <= high)
    assert 0.885 < np.mean(inside) < 0.94


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("many"), dims=2, patients=_PATIENTS)


def _trained_on(run: Path, *folds: list[int]) -> None:
    for number, patients in enumerate(folds):
        folder = run / f"fold_{number}" if len(folds) > 1 else run
        names = {"train": [f"patient{p}" for p in patients]}
        (folder / "run.json").write_text(json.dumps({"patients": names}))


def test_a_bundle_carries_what_was_measured_on_patients_held_out(cache: Cache, tmp_path: Path):
    run, out = make_run(tmp_path / "run", cache, seed=9), tmp_path / "bundle"
    _trained_on(run, list(range(12)))
    options = ConfidenceOptions(cases=0, near={"noise": _noise(tmp_path / "noise")}, near_cases=4)
    export(run, out, cache.path, parity=_PARITY, confidence=options, operation=OperationOptions(mirror="on"))
    spec = Bundle.open(out).spec
    assert spec.temperature != 1
    assert spec.calibration["patients"] == 11, "patient 23 is unlabelled, 24 and 25 are the test split"
    assert spec.calibration["cases"] == 22
    assert spec.intervals["patients"] == 11
    assert set(spec.intervals["labels"]) == {"1", "2"}
    gate = spec.gate
    assert (gate["training_images"], gate["held_out_patients"], gate["held_out_images"]) == (24, 11, 22)
    assert gate["quantile"] == pytest.approx(11 / 12)
    cuts = [f"60% of the field of view, axis {axis}" for axis in (0, 1)]
    assert set(gate["near"]) == {"flipped axis 0", "flipped axis 1", *cuts, "noise"}
    assert gate["given"] == ["noise"]
    assert gate["near"]["noise"] == {"auroc": 1.0, "flagged": 1.0, "images": 3}
    predictor = Predictor(out, threads=1)
    case = next(c for c in cache.cases if c.patient == "patient3")
    report = predictor.predict(read_volume(case.image_field)).report
    assert report["flags"] == []
    assert not {"volume_ml", "volume_ml_low"} & set(report["labels"][0]), "a picture has no size in mm"
    strange = predictor.predict(read_volume(tmp_path / "noise" / "0.png")).report
    assert [flag["code"] for flag in strange["flags"]] == ["unlike-training"]
    card = (out / "MODEL_CARD.md").read_text()
    assert "| noise | 3 | 1.000 | 100% |" in card
    assert "held out of the training: expected calibration error" in card
    assert card.count("also chose the weights that were kept") == 2


def test_volumes_are_those_of_the_original_labels_where_they_count(tmp_path: Path):
    """Images are halved when prepared, and the inner box is not to be judged: neither may enter the errors."""
    write_scans(tmp_path, 2, patients=7)
    halved = Preprocess(spatial_dims=2, longest=10)
    prepare(tmp_path / "manifest.csv", tmp_path / "cache", halved, ignore_label=2, workers=1)
    cache = Cache.open(tmp_path / "cache")
    run = make_run(tmp_path / "run", cache, seed=9)
    _trained_on(run, [0, 1])
    loaded = load_run(run, PredictOptions(device="cpu"))
    trained = Trained(loaded.networks, loaded.patients, loaded.spec, cache, native_reference)
    options = ConfidenceOptions(coverage=0.5)
    entry = measure_confidence(trained, options, OperationOptions()).intervals
    floor = entry["labels"]["1"]["floor_ml"]
    judged = [(case, native_reference(cache, case)) for case, _ in trained.held_out()]
    masks = [restore_label(segment_image(loaded.networks, loaded.spec, cache.image(c)), c.record) for c, _ in judged]
    ml, errors = judged[0][1].geometry.voxel_ml, []
    for (case, truth), mask in zip(judged, masks, strict=True):
        found = int(((mask.array == 1) & (truth.array != 2)).sum()) * ml
        errors.append((case.patient, found, int((truth.array == 1).sum()) * ml))
    assert entry["labels"]["1"]["quantile"] == pytest.approx(np.sort(volume_errors(errors, floor))[1])
    prepared = [int((restore_label(cache.label(c), c.record).array == 1).sum()) * ml for c, _ in judged]
    assert max(abs(one - true) / true for one, (_, _, true) in zip(prepared, errors, strict=True)) > 0.05
    Path(judged[0][0].label_field).unlink()
    assert (
        "3 of 4 cases held out have their original label"
        in measure_confidence(trained, options, OperationOptions()).intervals["missing"]
    )


def _noise(folder: Path) -> Path:
    from PIL import Image

    folder.mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 255, size=(20, 16)).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return folder


def test_folds_are_measured_on_the_patients_that_each_has_not_seen(cache: Cache, tmp_path: Path):
    run = make_run(tmp_path / "run", cache, folds=2)
    _trained_on(run, list(range(12)), list(range(6, 20)))
    loaded = load_run(run, PredictOptions(device="cpu"))
    trained = Trained(loaded.networks, loaded.patients, loaded.spec, cache, native_reference)
    held = {case.patient: networks for case, networks in trained.held_out()}
    assert held["patient0"] == (1,)
    assert held["patient15"] == (0,)
    assert held["patient21"] == (0, 1)
    assert not {"patient7", "patient23", "patient24", "patient25"} & set(held)
    assert {case.patient for case in trained.seen()} == {f"patient{p}" for p in range(12)}
    assert {case.patient for case in trained.unseen_by_first()} == {f"patient{p}" for p in (*range(12, 23),)}


def test_folds_have_a_gate_of_the_patients_that_the_first_has_not_seen(cache: Cache, tmp_path: Path):
    """Few of the cases that are predicted are unseen by the first network; the gate has cases of its own."""
    run, out = make_run(tmp_path / "run", cache, folds=3), tmp_path / "bundle"
    everyone = set(range(23))
    _trained_on(run, *(sorted(everyone - set(range(first, 23, 2))) for first in (0, 1)), sorted(everyone - {0}))
    options = ConfidenceOptions(cases=24, near_cases=0)
    export(run, out, cache.path, parity=_PARITY, confidence=options)
    spec, card = Bundle.open(out).spec, (out / "MODEL_CARD.md").read_text()
    assert spec.gate["held_out_patients"] == 12
    assert {kind["images"] for kind in spec.gate["near"].values()} == {24}
    assert "not by the mean of all 3 that the bundle holds" in spec.intervals["meaning"]
    assert "of 12 patients held out (24 images) are flagged" in card


def test_the_gate_counts_patients_not_images(rng):
    training = rng.normal(size=(40, 3)).astype(np.float32)
    usual = [(str(n % 10), rng.normal(size=3).astype(np.float32)) for n in range(30)]
    spec = SimpleNamespace(network=SimpleNamespace(spatial_dims=0))
    entry, gate = measured_gate(training, usual, lambda image: image, [], spec, ConfidenceOptions())
    worst = [max(gate.distance(one) for patient, one in usual if patient == str(n)) for n in range(10)]
    assert entry["threshold"] == pytest.approx(max(worst))
    assert (entry["held_out_patients"], entry["quantile"]) == (10, pytest.approx(10 / 11))
    assert "there are 40 and 9" in gate_lacks(40, 9)
    assert "there are 19 and 10" in gate_lacks(19, 10)
    assert gate_lacks(20, 10) == ""


def test_nothing_is_claimed_without_patients_held_out(cache: Cache, tmp_path: Path):
    run, out = make_run(tmp_path / "run", cache), tmp_path / "bundle"
    export(run, out, cache.path, parity=_PARITY)
    spec = Bundle.open(out).spec
    assert spec.temperature == 1
    for entry in (spec.calibration, spec.intervals, spec.gate):
        assert "there are 0" in entry["missing"] or "and 0" in entry["missing"]
    assert not (out / "features.npz").exists()
    case = cache.cases[0]
    report = Predictor(out, threads=1).predict(read_volume(case.image_field)).report
    assert (report["calibrated"], "gate" in report, "volume_interval" in report) == (False, False, False)


class _Refusing(nn.Module):
    """A network that must not be asked."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked")


@pytest.mark.parametrize("kind", ["unet", "classifier"])
def test_nothing_is_predicted_for_what_cannot_be_measured(tmp_path: Path, kind: str):
    """Two patients held out, and images of two to compare with: too few for all three."""
    cache = make_cache(tmp_path / "cohort", dims=2, classes=("healthy", "ill"))
    run = make_run(tmp_path / "run", cache, kind)
    _trained_on(run, [0, 1])
    loaded = load_run(run, PredictOptions(device="cpu"))
    trained = Trained([_Refusing()], loaded.patients, loaded.spec, cache, native_reference)
    patients = len({case.patient for case, _ in trained.held_out()})
    found = measure_confidence(trained, ConfidenceOptions(), OperationOptions())
    least = 3 if kind == "unet" else 10
    assert patients < least
    due = f"needs {least} patients held out of the training, there are {patients}"
    assert found.calibration == {"missing": due}
    assert found.intervals.get("missing", "needs 9").startswith("needs 9")
    assert f"there are 4 and {patients}" in found.gate["missing"]


def _pretrained(run: Path, cache: Cache, known: set[int] | None) -> Trained:
    """The run, which learned from patients 0 to 5, with what its run.json tells of its pretraining."""
    told = {} if known is None else {"pretraining": [f"patient{p}" for p in sorted(known)]}
    names = {"train": [f"patient{p}" for p in range(6)], **told}
    (run / "run.json").write_text(json.dumps({"patients": names}))
    loaded = load_run(run, PredictOptions(device="cpu"))
    return Trained(
        loaded.networks, loaded.patients, loaded.spec, cache, native_reference, Pretraining(loaded.pretrained_on)
    )


def test_patients_that_the_pretraining_has_seen_are_left_out_where_enough_others_remain(cache: Cache, tmp_path: Path):
    """17 patients held out of the fine-tuning: 6 to 22; patient 23 has no label, 24 and 25 are the test split."""
    run = make_run(tmp_path / "run", cache)
    for seen, held in (
        ({1, 2}, set(range(6, 23))),
        (set(range(13)), set(range(13, 23))),
        (set(range(14)), set(range(6, 23))),
    ):
        trained = _pretrained(run, cache, seen)
        cases = [case for case, _ in trained.held_out()]
        assert {case.patient for case in cases} == {f"patient{p}" for p in held}
        assert {case.patient for case in trained.unseen_by_first()} == {case.patient for case in cases}
        said = trained.measured_by(cases)
        assert ("the pretraining has seen images of 8 of these 17 patients" in said) == (len(seen) == 14)
        assert ("pretraining" in said) == (len(seen) == 14)
    assert "whether the pretraining has seen images of these patients is not known" in _said(
        _pretrained(run, cache, None)
    )
    spec = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**spec, "provenance": {**spec["provenance"], "init": None}}))
    assert "pretraining" not in _said(_pretrained(run, cache, None)), "it began from random weights"


def test_a_class_that_the_pretraining_alone_has_seen_is_kept():
    cases = [SimpleNamespace(patient=str(n), class_name="ill" if n < 3 else "well", split="val") for n in range(15)]
    found, knows_the_ill = [(case, (0,)) for case in cases], Pretraining(frozenset("012"))
    assert knows_the_ill.left_out_of(found, None, every_class=True) == found
    assert knows_the_ill.left_out_of(found, None, every_class=False) == found[3:]
    assert Pretraining(frozenset("3")).left_out_of(found, None, every_class=True) == [*found[:3], *found[4:]]


def _said(trained: Trained) -> str:
    return trained.measured_by([case for case, _ in trained.held_out()])


def test_where_nobody_knows_the_pretraining_its_usual_splits_are_left_out(tmp_path: Path):
    write_scans(tmp_path, 2, patients=30)
    manifest = tmp_path / "manifest.csv"
    rows = manifest.read_text().splitlines()
    moved = [
        row.replace(",train", ",val") if f"patient{n // 2}," in row and n >= 30 else row
        for n, row in enumerate(rows[1:])
    ]
    manifest.write_text("\n".join([rows[0], *moved]) + "\n")
    prepare(manifest, tmp_path / "cache", Preprocess(spatial_dims=2), workers=1)
    cache = Cache.open(tmp_path / "cache")
    trained = _pretrained(make_run(tmp_path / "run", cache), cache, None)
    assert {case.split for case, _ in trained.held_out()} == {"val"}
    assert {case.split for case in trained.cache.cases if case.split} == {"train", "val", "test"}


def test_card_and_intervals_say_what_the_pretraining_has_seen(cache: Cache, tmp_path: Path):
    run, out = make_run(tmp_path / "run", cache, seed=9), tmp_path / "bundle"
    names = {"train": [f"patient{p}" for p in range(12)], "pretraining": [f"patient{p}" for p in range(20)]}
    (run / "run.json").write_text(json.dumps({"patients": names}))
    export(run, out, cache.path, parity=_PARITY, confidence=ConfidenceOptions(cases=0, near_cases=1))
    spec, card = Bundle.open(out).spec, (out / "MODEL_CARD.md").read_text()
    due = "the pretraining has seen images of 8 of these 11 patients, without labels"
    assert due in spec.intervals["meaning"]
    assert due in spec.gate["measured_by"]
    assert card.count(due) == 3
    assert "patient1" not in card


def test_a_classifier_is_calibrated_as_its_images_are_classified(tmp_path: Path):
    cache = make_cache(tmp_path / "classes", dims=2, classes=("healthy", "ill"), patients=_PATIENTS)
    run, out = make_run(tmp_path / "run", cache, "classifier"), tmp_path / "bundle"
    _trained_on(run, list(range(12)))
    export(run, out, cache.path, parity=_PARITY, confidence=ConfidenceOptions(near_cases=2))
    predictor = Predictor(out, threads=1)
    spec = predictor.bundle.spec
    assert spec.calibration["patients"] == 12
    assert "calibration_error_after" in spec.calibration
    assert predictor.bundle.has_gate
    report = predictor.predict(read_volume(cache.cases[0].image_field)).report
    assert report["calibrated"]
    assert sum(report["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert report["gate"]["distance"] < report["gate"]["threshold"]


def test_options(tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        ConfidenceOptions(coverage=1.0, quantile=0.2, neighbours=0, near={"x": tmp_path / "absent"})
    assert len(error.value.problems) == 4
    assert spread(range(10), 3) == [0, 4, 9]
    assert spread(range(3), 0) == [0, 1, 2]
    given = ["RUN", "--out", "OUT", "--confidence.near", f"{{other: {tmp_path}}}", "--confidence.coverage", "0.8"]
    parsed = parse_verb("export", given)["confidence"]
    assert (parsed.near, parsed.coverage) == ({"other": tmp_path}, 0.8)
    (tmp_path / "series.yaml").write_text("series:\n  - {modality: MR, words: [t1], spacing_mm: [0.5, 2]}\n")
    (rule,) = parse_verb("export", ["RUN", "--out", "OUT", "--config", str(tmp_path / "series.yaml")])["series"]
    assert (rule.modality, rule.words, rule.spacing_mm) == ("MR", ("t1",), (0.5, 2.0))
