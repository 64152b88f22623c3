"""Runs and caches that do not belong together are refused, with every difference named."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from cohort import make_cache, make_run

from medssl.data.cache import Cache
from medssl.evaluation.loaded_run import check_fits, load_run
from medssl.evaluation.options import PredictOptions
from medssl.evaluation.segmentation_cases import _voxel_size
from medssl.imaging.errors import CheckpointError, ConfigError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.preprocess import Preprocess


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cohort"), dims=2, classes=("a", "b"))


def test_folds_are_loaded_with_all_their_patients(cache: Cache, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cache, folds=2)
    for fold in (0, 1):
        (run / f"fold_{fold}" / "run.json").write_text(json.dumps({"patients": {"train": ["x", f"p{fold}"]}}))
    loaded = load_run(run, PredictOptions(mirror="on", device="cpu"))
    assert len(loaded.networks) == 2
    assert loaded.trained_on == {"x", "p0", "p1"}
    assert loaded.spec.mirror_axes == (0, 1)
    assert loaded.name == "run"


def test_of_folds_the_ensemble_is_told_and_not_the_first_one(cache: Cache, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cache, folds=3)
    for fold in range(3):
        people = sorted({"p0", "p1", "p2"} - {f"p{fold}"})
        (run / f"fold_{fold}" / "run.json").write_text(json.dumps({"patients": {"train": people}}))
        path = run / f"fold_{fold}" / "model.json"
        content = json.loads(path.read_text())
        content["validation"] = {"dice": 0.7 + 0.1 * fold, "only_here" if fold else "in_none": 1.0}
        content["provenance"] |= {"patients": 2, "cases": 4 + fold, "seed": fold, "step": 10 * fold}
        path.write_text(json.dumps(content))
    spec = load_run(run, PredictOptions(device="cpu")).spec
    assert spec.validation == {"dice": pytest.approx(0.8)}
    assert spec.provenance["patients"] == 3
    assert not {"cases", "seed", "step"} & set(spec.provenance)
    assert spec.provenance["folds"][2] == {
        "patients": 2, "cases": 6, "seed": 2, "step": 20,
        "validation": {"dice": pytest.approx(0.9), "only_here": 1.0},
    }  # fmt: skip
    (run / "fold_1" / "run.json").unlink()
    assert "patients" not in load_run(run, PredictOptions(device="cpu")).spec.provenance, "of one nobody knows"


def test_the_pretrainings_of_all_folds_are_told(cache: Cache, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cache, folds=2)
    for fold in (0, 1):
        _record(run / f"fold_{fold}", patients={"pretraining": [f"p{fold}"]})
    assert load_run(run, PredictOptions(device="cpu")).pretrained_on == {"p0", "p1"}
    _record(run / "fold_1", patients={"pretraining": None})
    assert load_run(run, PredictOptions(device="cpu")).pretrained_on is None, "of one nobody knows"


def _record(folder: Path, **content: object) -> None:
    (folder / "run.json").write_text(json.dumps(content))


def _provenance(folder: Path, **told: object) -> None:
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**content, "provenance": {**content["provenance"], **told}}))


@pytest.mark.parametrize("recorded", [True, False])
def test_a_training_that_was_stopped_is_told(cache: Cache, tmp_path: Path, recorded: bool) -> None:
    run = make_run(tmp_path / "run", cache)
    _provenance(run, steps=6, planned_steps=400, finished=False)
    if recorded:
        _record(run, status="finished", config={"train": {"steps": 400}})
    loaded = load_run(run, PredictOptions(device="cpu"))
    early = "the training was stopped by its time limit at step 6 of 400"
    assert loaded.spec.provenance["unfinished"] == early
    assert loaded.warnings({"p"}, "test")[0] == f"run: {early}; medssl finetune --resume goes on with it."
    _provenance(run, steps=400, planned_steps=400, finished=True)
    assert "unfinished" not in load_run(run, PredictOptions(device="cpu")).spec.provenance
    _record(run, status="stopped", config={"train": {"steps": 900}})
    told = load_run(run, PredictOptions(device="cpu")).spec.provenance["unfinished"]
    assert told == "the training was stopped at step 400 of 900", "prolonged, and not done"


def test_of_folds_the_stopped_ones_are_told(cache: Cache, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cache, folds=2)
    _provenance(run / "fold_1", steps=6, planned_steps=9, finished=False)
    told = load_run(run, PredictOptions(device="cpu")).spec.provenance["unfinished"]
    assert told == "the training of fold_1 was stopped by its time limit at step 6 of 9"


def test_a_run_in_training_is_refused(cache: Cache, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cache)
    _record(run, status="running")
    with pytest.raises(CheckpointError, match="still in training") as caught:
        load_run(run, PredictOptions(device="cpu"))
    assert caught.value.reason == "unfinished"


def test_missing_folds_are_named(cache: Cache, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cache, folds=2)
    _record(run / "fold_0", config={"folds": 5})
    with pytest.raises(CheckpointError, match="lacks fold_2, fold_3, fold_4 of its 5 folds") as caught:
        load_run(run, PredictOptions(device="cpu"))
    assert caught.value.reason == "no-model"
    assert len(load_run(run / "fold_0", PredictOptions(device="cpu")).networks) == 1, "one alone may be asked for"
    (run / "fold_0").rename(run / "fold_2")
    with pytest.raises(CheckpointError, match="lacks fold_0, fold_3, fold_4 of its 5"):
        load_run(run, PredictOptions(device="cpu"))


@pytest.mark.parametrize("other", [{"seed": 5}, {"data_sha256": "b"}, {"config": {"folds": 2, "labels": 3}}])
def test_folds_that_were_dealt_out_differently_make_no_ensemble(
    cache: Cache, tmp_path: Path, other: dict[str, object]
) -> None:
    run = make_run(tmp_path / "run", cache, folds=2)
    common: dict[str, object] = {"seed": 0, "data_sha256": "a", "config": {"folds": 2, "labels": 0}}
    _record(run / "fold_0", **common)
    _record(run / "fold_1", **{**common, **other})
    with pytest.raises(ConfigError, match="patients may be held out twice or never"):
        load_run(run, PredictOptions(device="cpu"))


def test_folds_that_differ_make_no_ensemble(cache: Cache, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cache, folds=2)
    path = run / "fold_1" / "model.json"
    content = json.loads(path.read_text())
    content["window"] = [8, 8]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="make no ensemble"):
        load_run(run, PredictOptions())


def test_edited_weights_are_refused(cache: Cache, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cache)
    with (run / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CheckpointError, match="cut or edited"):
        load_run(run, PredictOptions())


def test_every_difference_between_model_and_cache_is_named(cache: Cache, tmp_path: Path) -> None:
    spec = load_run(make_run(tmp_path / "run", cache), PredictOptions()).spec
    check_fits(spec, cache)
    other = replace(
        spec,
        preprocess=Preprocess(spatial_dims=2, spacing_mm=(2.0, 2.0)),
        channels=("t1", "t2"),
        labels=(Label(1, "something"),),
    )
    with pytest.raises(ConfigError) as caught:
        check_fits(other, cache)
    assert len(caught.value.problems) == 3
    content = json.loads((cache.path / "cache.json").read_text())
    named = replace(spec, channels=("T1", "FLAIR"))
    for names, fit in ((["t1", "flair"], True), (["channel_0", "channel_1"], True), (["flair", "t1"], False)):
        other = Cache(cache.path, {**content, "channels": names}, cache.cases)
        with nullcontext() if fit else pytest.raises(ConfigError, match="prepare the images in this order"):
            check_fits(named, other)
    classifier = load_run(make_run(tmp_path / "classifier", cache, "classifier"), PredictOptions()).spec
    check_fits(classifier, cache)
    with pytest.raises(ConfigError, match=r"has classes \['a', 'b'\], the model \['b', 'c'\]"):
        check_fits(replace(classifier, classes=("b", "c")), cache)


def test_sizes_have_the_unit_that_the_image_allows() -> None:
    affine = [[0.5, 0, 0, 0], [0, 2, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]]
    assert _voxel_size(Geometry(affine, (3, 3, 3)), calibrated=True) == (pytest.approx(0.004), "mL")  # type: ignore[arg-type]
    assert _voxel_size(Geometry(affine, (3, 3)), calibrated=True) == (pytest.approx(1.0), "mm2")  # type: ignore[arg-type]
    assert _voxel_size(Geometry(affine, (3, 3)), calibrated=False) == (1.0, "pixels")  # type: ignore[arg-type]
