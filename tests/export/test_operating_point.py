"""Where a two-class model draws the line, and what that costs."""

import json
from pathlib import Path

import numpy as np
import pytest
from cohort import make_cache, make_run, write_scans

from medssl.commands.export import export
from medssl.commands.prepare import prepare
from medssl.data.cache import Cache
from medssl.evaluation.loaded_run import load_run
from medssl.evaluation.options import PredictOptions
from medssl.evaluation.segmentation_cases import native_reference
from medssl.export.operating_point import operating_point, youden_threshold
from medssl.export.options import OperationOptions
from medssl.export.trained import Trained
from medssl.imaging.errors import ConfigError
from medssl.imaging.preprocess import Preprocess
from medssl.imaging.readers.open import read_volume
from medssl.runtime.findings import called_class
from medssl.runtime.predictor import Predictor
from medssl.tasks.inference import classify_image
from medssl.tasks.model_file import load_model


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Four patients of both classes to validate with."""
    root = tmp_path_factory.mktemp("cohort")
    write_scans(root, 2, classes=("healthy", "ill"))
    manifest = root / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",train", ",val"))
    prepare(manifest, root / "cache", Preprocess(spatial_dims=2), workers=1)
    return Cache.open(root / "cache")


def test_youden_equals_a_slow_search(rng: np.random.Generator) -> None:
    for _ in range(20):
        positive = np.array([True, False, *(rng.random(18) < 0.4)])
        score = np.round(rng.random(20) * 0.6 + positive * 0.3, 1)

        def gain(threshold: float, score: np.ndarray = score, positive: np.ndarray = positive) -> float:
            return float((score[positive] >= threshold).mean() + (score[~positive] < threshold).mean())

        best = max(gain(threshold) for threshold in np.arange(-0.05, 1.1, 0.05))
        assert gain(youden_threshold(score, positive)) == pytest.approx(best)
    assert youden_threshold(np.array([0.2, 0.4]), np.array([False, True])) == pytest.approx(0.3)


@pytest.mark.parametrize("threshold", ["youden", 0.02, 0.98])
def test_the_bundle_calls_what_its_operating_point_says(cache: Cache, tmp_path: Path, threshold: float | str) -> None:
    run = make_run(tmp_path / "run", cache, "classifier")
    export(run, tmp_path / "bundle", data=cache.path, operation=OperationOptions(threshold=threshold))  # type: ignore[arg-type]
    predictor = Predictor(tmp_path / "bundle", threads=1)
    point = predictor.bundle.spec.operating_point
    network, spec = load_model(run)
    called, truth = [], []
    for case in (case for case in cache.cases if case.split == "val"):
        report = predictor.predict(read_volume(case.image_field)).report
        due = classify_image([network], spec, cache.image(case))[1] >= point["threshold"]
        assert report["class"] == ("ill" if due else "healthy")
        assert report["operating_point"] == point
        called.append(due)
        truth.append(case.class_name == "ill")
    assert point["sensitivity"] == np.array(called)[truth].mean()
    assert point["specificity"] == 1 - np.array(called)[~np.array(truth)].mean()
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "`ill` is called from" in card
    assert ("the ones it was chosen on" in card) == (threshold == "youden")


def test_folds_are_scored_on_the_patients_that_each_has_not_seen(cache: Cache, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cache, "classifier", folds=2)
    unknown = load_run(run, PredictOptions(device="cpu"))
    with pytest.raises(ConfigError, match="has not learned from"):
        operating_point(Trained(unknown.networks, unknown.patients, unknown.spec, cache, native_reference), 0.5)
    patients = sorted({case.patient for case in cache.cases if case.split == "val"})
    for fold, seen in enumerate((patients[:2], patients[2:])):
        (run / f"fold_{fold}" / "run.json").write_text(json.dumps({"patients": {"train": seen}}))
    loaded = load_run(run, PredictOptions(device="cpu"))
    trained = Trained(loaded.networks, loaded.patients, loaded.spec, cache, native_reference)
    held = [case for case in cache.cases if case.split == "val"]
    ill = np.array([case.class_name == "ill" for case in held])
    unseen = [loaded.networks[1 if case.patient in patients[:2] else 0] for case in held]
    score = np.array([classify_image([n], loaded.spec, cache.image(c))[1] for n, c in zip(unseen, held, strict=True)])
    whole = np.array([classify_image(loaded.networks, loaded.spec, cache.image(case))[1] for case in held])
    point = operating_point(trained, "youden")
    assert point["threshold"] == pytest.approx(youden_threshold(score, ill), abs=1e-9)
    assert point["threshold"] != pytest.approx(youden_threshold(whole, ill), abs=1e-6)
    assert "not by the mean of all 2" in point["measured_by"]


def test_without_cases_of_both_classes_there_is_no_point(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cohort", 2, classes=("healthy", "ill"))
    run = make_run(tmp_path / "run", cache, "classifier")
    with pytest.raises(ConfigError, match="validation cases of both classes"):
        export(run, tmp_path / "bundle", data=cache.path, operation=OperationOptions(threshold=0.5))
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(ConfigError, match="must lie in"):
        OperationOptions(threshold=1.5)


def test_without_a_point_the_more_probable_class_is_taken() -> None:
    assert called_class({"a": 0.2, "b": 0.5, "c": 0.3}, {}) == "b"
    assert called_class({"a": 0.7, "b": 0.3}, {"class": "b", "threshold": 0.3}) == "b"
