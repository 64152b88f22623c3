"""fp16 and int8 are bundles of their own, kept only where they do the work as well; else it is told why not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from cohort import make_cache, make_run

from medssl.commands.export import export
from medssl.data.cache import Cache
from medssl.evaluation.loaded_run import load_run
from medssl.evaluation.options import PredictOptions
from medssl.evaluation.segmentation_cases import native_reference
from medssl.export.comparison import Comparison, _classes, compare
from medssl.export.options import ConfidenceOptions, OperationOptions, ParityOptions, PrecisionOptions
from medssl.export.precision import write_variants
from medssl.export.trained import Judges, Trained
from medssl.imaging.errors import BundleError, ConfigError
from medssl.imaging.readers.open import read_volume
from medssl.runtime.bundle import Bundle, BundleSpec, write_sums
from medssl.runtime.predictor import Predictor
from medssl.runtime.session import Session

_QUICK = {"parity": ParityOptions(cases=1, threads=1), "confidence": ConfidenceOptions(measure=False)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cohort"))


def test_variants_that_agree_are_kept_as_bundles(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, out = make_run(tmp_path / "run", cache), tmp_path / "bundle"
    options = PrecisionOptions(
        ("fp16", "int8"), cases=2, calibration_windows=8, max_quality_loss=0.05, min_agreement=0.8
    )
    export(run, out, data=cache.path, **_QUICK, precision=options)
    told = capsys.readouterr().out
    plain, half = Predictor(out, threads=1), Predictor(tmp_path / "bundle-fp16", threads=1)
    spec = half.bundle.spec
    assert (spec.precision, plain.bundle.spec.precision) == ("fp16", "fp32")
    assert spec.parity["precision"]["cases"] == 2
    with pytest.raises(BundleError, match="golden_tolerance must be above 0 and at most 2"):
        BundleSpec.from_json({**spec.to_json(), "golden_tolerance": 2.1})
    assert half.bundle.sha256 != plain.bundle.sha256
    assert 0 < half.golden_difference <= spec.golden_tolerance
    assert (half.bundle.folder / "model.onnx").stat().st_size < (plain.bundle.folder / "model.onnx").stat().st_size
    volume = read_volume(cache.cases[0].image_field)
    masks = [predictor.predict(volume).mask.array for predictor in (plain, half)]
    assert (masks[0] == masks[1]).mean() > 0.99
    assert half.predict(volume).report["precision"] == "fp16"
    assert "## Precision" in (half.bundle.folder / "MODEL_CARD.md").read_text()
    assert f"fp16: kept as {tmp_path / 'bundle-fp16'}" in told
    kept = (tmp_path / "bundle-int8").exists()
    assert (f"int8: {'kept as' if kept else 'not kept: '}") in told
    if kept:
        assert Bundle.open(tmp_path / "bundle-int8").spec.precision == "int8"


def test_a_variant_that_answers_otherwise_is_not_kept(cache: Cache, tmp_path: Path):
    run, out = make_run(tmp_path / "run", cache), tmp_path / "bundle"
    export(run, out, data=cache.path, **_QUICK)
    options = PrecisionOptions(
        ("int8",), cases=2, threads=1, calibration_windows=8, max_quality_loss=0.0, min_agreement=1.0
    )
    (made,) = write_variants(out, cache, Judges(cache.cases[:2], True, cache.cases[2:]), options)
    assert made.folder is None
    assert any("agreement with fp32 is" in problem for problem in made.problems)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "run"]


def test_a_variant_that_fails_is_not_kept_and_the_others_are_tried(cache: Cache, tmp_path: Path):
    """Without patients who do not judge it, int8 has no ranges; a graph with NaN gives no mask."""
    run, out = make_run(tmp_path / "run", cache), tmp_path / "bundle"
    export(run, out, data=cache.path, **_QUICK)
    judges = Judges(cache.cases[:2], False, ())
    eight, half = write_variants(out, cache, judges, PrecisionOptions(("int8", "fp16"), threads=1))
    assert (eight.comparison, eight.folder) == (None, None)
    assert "a smaller precision.cases leaves some" in eight.problems[0]
    assert half.folder == tmp_path / "bundle-fp16"
    assert "that networks of the bundle have learned from" in (half.folder / "MODEL_CARD.md").read_text()
    shutil.rmtree(half.folder)
    model = onnx.load(str(out / "model.onnx"))
    weights = next(one for one in model.graph.initializer if len(one.dims) == 5)
    weights.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(weights.dims), np.nan, np.float32), weights.name))
    onnx.save_model(model, str(out / "model.onnx"))
    write_sums(out)
    (half,) = write_variants(out, cache, judges, PrecisionOptions(("fp16",), threads=1))
    assert (half.comparison, half.folder) == (None, None)
    assert "no finite numbers" in half.problems[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "run"]


@pytest.mark.parametrize("folds", [0, 2])
def test_cases_that_were_learned_from_judge_only_where_there_are_no_others(cache: Cache, tmp_path: Path, folds: int):
    run = make_run(tmp_path / "run", cache, folds=folds)
    for number in range(max(folds, 1)):
        place = run / f"fold_{number}" if folds else run
        (place / "run.json").write_text(json.dumps({"patients": {"train": [f"patient{number}", "patient2"]}}))
    loaded = load_run(run, PredictOptions(device="cpu"))
    judges = Trained(loaded.networks, loaded.patients, loaded.spec, cache, native_reference).judges(4)
    assert judges.held_out == (folds == 0)
    judged = {case.patient for case in judges.cases}
    assert not judged & {case.patient for case in judges.others}
    assert not {"patient4", "patient5"} & (judged | {case.patient for case in judges.others})
    assert judged == ({"patient0", "patient1", "patient2"} if folds else {"patient1"})


def test_variants_are_compared_as_the_clinic_uses_them(tmp_path: Path):
    """Mirrored, with the largest part alone, and by the gate: what would be flagged otherwise is not kept."""
    cache = make_cache(tmp_path / "many", dims=2, patients=26)
    run, out = make_run(tmp_path / "run", cache, seed=9), tmp_path / "bundle"
    (run / "run.json").write_text(json.dumps({"patients": {"train": [f"patient{p}" for p in range(12)]}}))
    operation = OperationOptions(largest_component=(1, 2), mirror="on")
    export(run, out, cache.path, parity=_QUICK["parity"], operation=operation)
    bundle, strange = Bundle.open(out), tmp_path / "strange.onnx"
    model = onnx.load(str(out / "model.onnx"))
    for weights in (one for one in model.graph.initializer if len(one.dims) == 4):
        backwards = onnx.numpy_helper.to_array(weights)[:, :, ::-1, ::-1] * 2
        weights.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(backwards), weights.name))
    onnx.save_model(model, str(strange))
    judges = Judges(cache.cases[30:34], True, ())
    same, others = (
        compare(Session(out / "model.onnx", 1), Session(model, 1), bundle, model, cache, judges)
        for model in (out / "model.onnx", strange)
    )
    assert (same.max_distance_change, same.flags_changed, same.max_probability_change) == (0, 0, 0)
    predictor, dices = Predictor(out, threads=1), []
    for case in judges.cases:
        mask, truth = predictor.predict(read_volume(case.image_field)).mask.array[0], cache.label(case)
        dices += [2 * ((mask == v) & (truth == v)).sum() / ((mask == v).sum() + (truth == v).sum()) for v in (1, 2)]
    assert same.quality == pytest.approx(np.mean(dices))
    assert others.max_distance_change > 0.1
    assert any("the gate's distance changes" in problem for problem in others.problems(PrecisionOptions()))
    assert any("the probability of a class changes" in problem for problem in others.problems(PrecisionOptions()))


def test_classifiers_have_variants(tmp_path: Path):
    cache = make_cache(tmp_path / "classes", dims=2, classes=("healthy", "ill"))
    run, out = make_run(tmp_path / "run", cache, "classifier"), tmp_path / "bundle"
    export(run, out, data=cache.path, **_QUICK, precision=PrecisionOptions(("fp16",), cases=8, threads=1))
    found = Predictor(tmp_path / "bundle-fp16", threads=1).predict(read_volume(cache.cases[0].image_field)).report
    same = Predictor(out, threads=1).predict(read_volume(cache.cases[0].image_field)).report
    assert found["probabilities"]["ill"] == pytest.approx(same["probabilities"]["ill"], abs=0.01)


def test_rules():
    numbers = {"cases": 1, "held_out": True, "max_probability_change": 0.0, "max_distance_change": None}
    numbers |= {
        "flags_changed": 0,
        "golden_tolerance": 0.1,
        "golden_limit": 0.5,
        "max_logit_difference": 1.0,
        "megabytes": 1.0,
        "window_s": 1.0,
        "window_s_fp32": 1.0,
    }
    good = Comparison(quality=0.9, quality_fp32=0.9, min_agreement=0.99, **numbers)
    assert good.problems(PrecisionOptions()) == []
    assert (
        len(Comparison(quality=0.8, quality_fp32=0.9, min_agreement=0.5, **numbers).problems(PrecisionOptions())) == 2
    )
    nothing = Comparison(quality=np.nan, quality_fp32=np.nan, min_agreement=np.nan, **numbers)
    assert len(nothing.problems(PrecisionOptions())) == 2
    for name, value in (("max_probability_change", 0.03), ("max_distance_change", 0.11), ("flags_changed", 1)):
        assert len(replace(good, **{name: value}).problems(PrecisionOptions())) == 1
    assert "at most 0.5 is allowed" in replace(good, golden_tolerance=0.6).problems(PrecisionOptions())[0]
    with pytest.raises(ConfigError) as error:
        PrecisionOptions(cases=0, max_quality_loss=1, min_agreement=0.1)
    assert len(error.value.problems) == 3


def test_variants_need_a_free_folder(cache: Cache, tmp_path: Path):
    run = make_run(tmp_path / "run", cache)
    (tmp_path / "bundle-fp16").mkdir()
    with pytest.raises(ConfigError, match="bundle-fp16 exists already"):
        export(run, tmp_path / "bundle", data=cache.path, precision=PrecisionOptions(("fp16",)))
    with pytest.raises(ConfigError, match="give a folder as --out"):
        export(run, tmp_path / "bundle.zip", data=cache.path, precision=PrecisionOptions(("fp16",)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle-fp16", "run"]


def test_classes_are_compared_at_the_operating_point():
    spec = SimpleNamespace(classes=("well", "ill"), operating_point={"class": "ill", "threshold": 0.1})
    cases = [SimpleNamespace(class_name=("well", "ill")[n % 2], number=n) for n in range(4)]
    scores = [0.105, 0.06, 0.105, 0.06]
    clinics = [
        SimpleNamespace(shares=lambda image, less=less: np.array([1 - scores[image] + less, scores[image] - less]))
        for less in (0, 0.01)
    ]
    images = SimpleNamespace(image=lambda case: case.number)
    _, _, alike, change = _classes(clinics, spec, images, cases)
    assert (alike, change) == (0.5, pytest.approx(0.01)), "half of them are called ill by one alone"
