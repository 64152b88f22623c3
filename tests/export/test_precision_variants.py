"""fp16 and int8 are bundles of their own, kept only where they do the work as well; else it is told why not."""

from pathlib import Path

import numpy as np
import pytest
from cohort import make_cache, make_run

from medssl.commands.export import export
from medssl.data.cache import Cache
from medssl.export.options import ConfidenceOptions, ParityOptions, PrecisionOptions
from medssl.export.precision import Comparison, write_variants
from medssl.imaging.errors import ConfigError
from medssl.imaging.readers.open import read_volume
from medssl.runtime.bundle import Bundle
from medssl.runtime.predictor import Predictor

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
    (made,) = write_variants(out, cache, cache.cases[:2], options)
    assert made.folder is None
    assert "agreement with fp32 is" in made.problems[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "run"]


def test_classifiers_have_variants(tmp_path: Path):
    cache = make_cache(tmp_path / "classes", dims=2, classes=("healthy", "ill"))
    run, out = make_run(tmp_path / "run", cache, "classifier"), tmp_path / "bundle"
    export(run, out, data=cache.path, **_QUICK, precision=PrecisionOptions(("fp16",), cases=8, threads=1))
    found = Predictor(tmp_path / "bundle-fp16", threads=1).predict(read_volume(cache.cases[0].image_field)).report
    same = Predictor(out, threads=1).predict(read_volume(cache.cases[0].image_field)).report
    assert found["probabilities"]["ill"] == pytest.approx(same["probabilities"]["ill"], abs=0.01)


def test_rules():
    numbers = {"cases": 1, "max_logit_difference": 1.0, "megabytes": 1.0, "window_s": 1.0, "window_s_fp32": 1.0}
    good = Comparison(quality=0.9, quality_fp32=0.9, min_agreement=0.99, **numbers)
    assert good.problems(PrecisionOptions()) == []
    assert (
        len(Comparison(quality=0.8, quality_fp32=0.9, min_agreement=0.5, **numbers).problems(PrecisionOptions())) == 2
    )
    nothing = Comparison(quality=np.nan, quality_fp32=np.nan, min_agreement=np.nan, **numbers)
    assert len(nothing.problems(PrecisionOptions())) == 2
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
