"""The verb from run and cache to files, and what it refuses."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from cohort import make_cache, make_run
from jsonschema import ValidationError
from PIL import Image
from report_checks import check_page, check_results, read_csv

from medssl.__main__ import main
from medssl.commands.evaluate import evaluate
from medssl.commands.parsing import parse_verb
from medssl.data.cache import Cache
from medssl.evaluation.options import FrozenOptions, LesionOptions, MeasureOptions, PredictOptions
from medssl.evaluation.report.application import write_application_report
from medssl.imaging.errors import CacheError, ConfigError, ImageError, MedsslError
from medssl.imaging.files import sha256

_CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "evaluate").glob("*.yaml"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def flat_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cohort"), dims=2, classes=("healthy", "ill"))


def test_evaluation_of_two_runs_and_the_rule(cache: Cache, tmp_path: Path, browser: Browser) -> None:
    run, baseline = make_run(tmp_path / "ours", cache), make_run(tmp_path / "scratch", cache, seed=5)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5, "val/dice": 0.3}\n')
    seen = {"train": ["patient5"], "validation": [], "pretraining": ["patient1", "patient4"]}
    (run / "run.json").write_text(json.dumps({"patients": seen}))
    out = tmp_path / "evaluation"
    evaluate(run, cache.path, out, baseline=baseline, threshold_rule=True)
    assert sorted(p.name for p in out.iterdir()) == [
        "cases.csv",
        "overlays",
        "report.html",
        "results.csv",
        "results.json",
    ]
    results = check_results(out / "results.json")
    assert list(results["arms"]) == ["ours", "scratch", "threshold rule"]
    assert results["networks"] == {"ours": 1, "scratch": 1}
    assert results["weights"] == {arm: [sha256(tmp_path / arm / "model.safetensors")] for arm in ("ours", "scratch")}
    assert results["arms"]["threshold rule"]["mean_dice"]["estimate"] == 1.0
    ours = results["arms"]["ours"]["mean_dice"]["estimate"]
    assert ours < 0.5, "untrained"
    assert results["differences"]["threshold rule"]["mean_dice"]["estimate"] == pytest.approx(ours - 1)
    assert [warning.partition(":")[0] for warning in results["warnings"]] == [
        "1 of 2 test patients were in the training of ours",
        "1 of 2 test patients were in the pretraining of ours",
        "Which patients scratch was trained on is not known",
        "Whether patients of split test were in the pretraining of scratch is not known",
        "Split test has 2 patient(s) only",
    ]
    with (out / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 4 * 2
    mean = np.mean([float(r["dice"]) for r in rows if r["arm"] == "ours" and r["class"] == "class_1"])
    assert results["arms"]["ours"]["classes"]["class_1"]["dice"]["estimate"] == pytest.approx(mean, abs=1e-5)
    assert all((out / picture["file"]).is_file() for picture in results["pictures"])
    assert write_application_report(_as_stages(tmp_path, out), "demo", "").read_text().count("Best case, ") == 4
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 + 6 + 1
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert "Not a medical device" in page
    assert "called from Python" in page
    assert "Compared with threshold rule: no difference shown" in page
    assert "p 0.500, which cannot be below 0.500 where so few patients are answered differently" in page
    test = {"p_value": 0.5, "smallest_p_value": 0.5, "verdict": "no difference shown"}
    assert results["tests"]["threshold rule"] == {"mean_dice": test, "classes": {"class_1": test, "class_2": test}}
    check_page(browser, out / "report.html")
    numbers = {row["number"]: row for row in read_csv(out / "results.csv")}
    assert float(numbers["arms.ours.mean_dice"]["estimate"]) == ours
    assert float(numbers["differences.scratch.classes.class_2"]["estimate"]) == pytest.approx(
        results["differences"]["scratch"]["classes"]["class_2"]["estimate"]
    )


def test_patients_that_chose_the_weights_are_told_of_split_val_and_on_the_console(
    cache: Cache, flat_cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run = make_run(tmp_path / "run", flat_cache, "classifier")
    seen = {"train": ["patient0"], "validation": ["patient3"], "pretraining": []}
    (run / "run.json").write_text(json.dumps({"patients": seen}))
    arguments = ["--data", str(flat_cache.path), "--measure.resamples", "100"]
    assert main(["evaluate", str(run), *arguments, "--out", str(tmp_path / "tested")]) == 0
    assert "WARNING" not in capsys.readouterr().out
    assert main(["evaluate", str(run), *arguments, "--out", str(out), "--split", "val"]) == 0
    told = "1 of 1 val patients were the validation of run"
    assert f"WARNING: {told}" in capsys.readouterr().out
    assert told in (out / "report.html").read_text()


def _as_stages(root: Path, evaluation: Path) -> Path:
    (root / "stages").mkdir()
    (root / "stages" / "evaluate").symlink_to(evaluation)
    return root / "stages"


def test_folds_are_measured_as_an_ensemble(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", cache, folds=2)
    evaluate(run, cache.path, tmp_path / "out", predict=PredictOptions(mirror="on"))
    said = capsys.readouterr().out
    assert "an ensemble of 2 folds" in said
    assert "mirrored along axes [0, 1, 2]" in said
    assert "4 cases of 2 patients, split test" in said
    single = make_run(tmp_path / "single", cache)
    evaluate(single, cache.path, tmp_path / "single_out")
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "single_out"))
    assert a["arms"]["run"]["mean_dice"] != b["arms"]["single"]["mean_dice"]


def test_single_lesions_are_counted_where_they_are_asked_for(cache: Cache, tmp_path: Path) -> None:
    run, measure = make_run(tmp_path / "run", cache), MeasureOptions(resamples=100)
    plain = LesionOptions()
    for name, lesions in (("plain", plain), ("counted", LesionOptions(("class_2",), threshold=0.2, match="any"))):
        evaluate(run, cache.path, tmp_path / name, threshold_rule=True, measure=measure, lesions=lesions)
    before, after = (check_results(tmp_path / name / "results.json") for name in ("plain", "counted"))
    after["arms"]["run"]["lesions"]["class_2"]["surprise"] = 1
    (tmp_path / "surprise.json").write_text(json.dumps(after))
    with pytest.raises(ValidationError, match="surprise"):
        check_results(tmp_path / "surprise.json")
    del after["arms"]["run"]["lesions"]["class_2"]["surprise"]
    assert before["lesions"] is None
    assert before["arms"]["run"]["classes"] == after["arms"]["run"]["classes"], "the same masks"
    found = after["arms"]["run"]["lesions"]
    assert list(found) == ["class_2"]
    assert after["arms"]["threshold rule"]["lesions"] == {}, "it has no probabilities"
    assert (found["class_2"]["lesions"], found["class_2"]["cases_with_lesions"]) == (4, 4)
    with (tmp_path / "counted" / "cases.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["arm"] == "run" and row["class"] == "class_2"]
    assert [row["lesions"] for row in rows] == ["1"] * 4
    assert sum(int(row["lesions_found"]) for row in rows) == found["class_2"]["found"]
    assert sum(int(row["false_candidates"]) for row in rows) == found["class_2"]["false"]
    assert "Single lesions" in (tmp_path / "counted" / "report.html").read_text()
    assert "Single lesions" not in (tmp_path / "plain" / "report.html").read_text()
    with pytest.raises(ConfigError, match="'tumour' is none of the labels"):
        evaluate(run, cache.path, tmp_path / "out", lesions=LesionOptions(("tumour",)))
    assert not (tmp_path / "out").exists()


def test_classification(flat_cache: Cache, tmp_path: Path, browser: Browser) -> None:
    run = make_run(tmp_path / "run", flat_cache, "classifier")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
    out = tmp_path / "out"
    told = ["--data", str(flat_cache.path), "--out", str(out), "--measure.resamples", "100"]
    assert main(["evaluate", str(run), *told]) == 0
    results = check_results(out / "results.json")
    assert results["class_names"] == ["healthy", "ill"]
    assert np.sum(results["confusion"]) == 4
    assert 0 <= results["metrics"]["auroc"]["estimate"] <= 1
    assert results["environment"]["command"] == f"medssl evaluate {run} {' '.join(told)}"
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 + 1
    assert results["environment"]["command"] in page
    wrong = sum(row["class"] != row["predicted"] for row in read_csv(out / "cases.csv"))
    assert f"{wrong} of 4 answers are wrong." in page
    assert "metrics.auroc" in [row["number"] for row in read_csv(out / "results.csv")]
    check_page(browser, out / "report.html")
    with pytest.raises(ConfigError, match="segmentation"):
        evaluate(run, flat_cache.path, tmp_path / "other", threshold_rule=True)
    with pytest.raises(ConfigError, match=r"lesions\.labels are for a segmentation"):
        evaluate(run, flat_cache.path, tmp_path / "other", lesions=LesionOptions(("class_1",)))


@pytest.mark.parametrize("kind", ["segmentation", "classifier"])
def test_ages_that_cannot_be_read_are_told(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue("cache" if kind == "segmentation" else "flat_cache")
    shutil.copytree(source.path, tmp_path / "cache")
    for name, age in (("4L", "063Y"), ("4R", "63F"), ("0L", "old")):  # the last one is not evaluated
        file = next((tmp_path / "cache" / "cases").glob(f"*{name}")) / "case.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "age": age}))
    cache = Cache.open(tmp_path / "cache")
    run = make_run(tmp_path / "run", cache, *(["classifier"] if kind == "classifier" else []))
    evaluate(run, cache.path, tmp_path / "out", measure=MeasureOptions(resamples=100))
    told = [text for text in check_results(tmp_path / "out" / "results.json")["warnings"] if "cannot be read" in text]
    assert len(told) == 1
    assert told[0].startswith("The age of 1 case(s) cannot be read, so they count as 'not told': ")
    assert "4R ('63F')" in told[0]


def test_two_classifiers_are_compared_on_the_same_cases(flat_cache: Cache, tmp_path: Path, browser: Browser) -> None:
    ours, theirs = make_run(tmp_path / "ours", flat_cache, "classifier"), tmp_path / "theirs"
    make_run(theirs, flat_cache, "classifier", seed=5)
    spec = json.loads((theirs / "model.json").read_text())
    spec["classes"] = ["ill", "healthy"]  # in another order: its answers are the other way round
    (theirs / "model.json").write_text(json.dumps(spec))
    measure = MeasureOptions(resamples=100)
    for name, run in (("both", ours), ("alone", theirs)):
        evaluate(run, flat_cache.path, tmp_path / name, baseline=theirs if name == "both" else None, measure=measure)
    results, alone = (check_results(tmp_path / name / "results.json") for name in ("both", "alone"))
    assert results["others"]["theirs"]["metrics"].keys() == results["metrics"].keys()
    for name, interval in results["differences"]["theirs"].items():
        other = results["others"]["theirs"]["metrics"][name]
        if name != "average_precision":  # that of the second class
            assert other["estimate"] == pytest.approx(alone["metrics"][name]["estimate"])
        assert interval["estimate"] == pytest.approx(results["metrics"][name]["estimate"] - other["estimate"])
    assert results["networks"] == {"ours": 1, "theirs": 1}
    assert {test["verdict"] for test in results["tests"]["theirs"].values()} == {"no difference shown"}, "two patients"
    assert any("fewer than 6 patients in split test: healthy 1, ill 1." in text for text in results["warnings"])
    assert list(results["weights"]) == ["ours", "theirs"]
    rows = read_csv(tmp_path / "both" / "cases.csv")
    assert [row["arm"] for row in rows] == ["ours"] * 4 + ["theirs"] * 4
    sums = [float(row["probability_healthy"]) + float(row["probability_ill"]) for row in rows]  # of rounded numbers
    assert sums == pytest.approx([1] * 8, abs=2e-6)
    page = (tmp_path / "both" / "report.html").read_text()
    assert "one training of each; another seed may differ (medssl curve)" in page
    assert "of 4 answers are wrong." in page
    check_page(browser, tmp_path / "both" / "report.html")
    assert "differences.theirs.auroc" in [row["number"] for row in read_csv(tmp_path / "both" / "results.csv")]
    more = make_run(tmp_path / "more", make_cache(tmp_path, 2, ("healthy", "ill", "unclear")), "classifier")
    with pytest.raises(ConfigError, match="tell other classes apart, so they cannot be compared"):
        evaluate(ours, flat_cache.path, tmp_path / "no", baseline=more)
    assert not (tmp_path / "no").exists()


def test_a_map_of_the_features_is_shown_where_it_is_given(cache: Cache, tmp_path: Path) -> None:
    run, picture = make_run(tmp_path / "run", cache), tmp_path / "map.png"
    with pytest.raises(ConfigError, match=r"map\.png does not exist"):
        evaluate(run, cache.path, tmp_path / "out", feature_map=picture)
    picture.write_text("no picture")
    with pytest.raises(ImageError, match="no PNG"):
        evaluate(run, cache.path, tmp_path / "out", feature_map=picture)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(picture)
    evaluate(run, cache.path, tmp_path / "out", feature_map=picture)
    assert "Map of the features, given as map.png." in (tmp_path / "out" / "report.html").read_text()


def test_refusals_write_nothing(cache: Cache, flat_cache: Cache, tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run", cache), tmp_path / "out"
    with pytest.raises(CacheError, match="no split 'gone'"):
        evaluate(run, cache.path, out, split="gone")
    with pytest.raises(CacheError, match="has a label map"):
        evaluate(run, cache.path, out, split="val")
    with pytest.raises(ConfigError, match="prepared otherwise"):
        evaluate(run, flat_cache.path, out)
    with pytest.raises(MedsslError, match="holds no finished model"):
        evaluate(tmp_path, cache.path, out)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    out.mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        evaluate(run, cache.path, out)


def test_options_that_would_do_nothing_are_refused_together(cache: Cache, flat_cache: Cache, tmp_path: Path) -> None:
    frozen, out = FrozenOptions(draws=2), tmp_path / "out"
    run, measure, lesions = (
        make_run(tmp_path / "run", cache),
        MeasureOptions(class_order=("a",)),
        LesionOptions(overlap=0.3),
    )
    with pytest.raises(ConfigError) as caught:
        evaluate(run, cache.path, out, measure=measure, lesions=lesions, frozen=frozen)
    told = [problem.split(": ", 1)[1].split(" ")[0] for problem in caught.value.problems]
    assert told == ["frozen", "measure.class_order", "lesions"]
    with pytest.raises(ConfigError) as caught:
        evaluate(
            make_run(tmp_path / "classes", flat_cache, "classifier"), flat_cache.path, out,
            predict=PredictOptions(batch_size=4), measure=MeasureOptions(tolerance_mm=2), frozen=frozen,
        )  # fmt: skip
    told = [problem.split(": ", 1)[1].split(" ")[0] for problem in caught.value.problems]
    assert told == ["frozen", "predict.batch_size", "measure.tolerance_mm"]
    assert not out.exists()


def test_an_order_of_other_classes_is_refused_before_anything_is_predicted(
    flat_cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, measure = make_run(tmp_path / "run", flat_cache, "classifier"), MeasureOptions(class_order=("well", "ill"))
    with pytest.raises(ConfigError, match=r"measure\.class_order \['well', 'ill'\] must hold the classes"):
        evaluate(run, flat_cache.path, tmp_path / "out", measure=measure)
    assert capsys.readouterr().out == "", "what is predicted is announced first"


def test_options_out_of_range_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        MeasureOptions(tolerance_mm=-1, resamples=1)
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError):
        PredictOptions(batch_size=0)


@pytest.mark.parametrize("of_png", [1, 4])
def test_images_without_a_pixel_size_are_told(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_png: int
) -> None:
    run = make_run(tmp_path / "run", cache)
    tested = [case.case for case in cache.select("test")][:of_png]
    cases = tuple(replace(case, calibrated=case.case not in tested) for case in cache.cases)
    monkeypatch.setattr(Cache, "open", classmethod(lambda cls, path: Cache(cache.path, cache._content, cases)))
    evaluate(run, cache.path, tmp_path / "out")
    results = check_results(tmp_path / "out" / "results.json")
    assert results["calibrated"] is (of_png == 1)
    told = "1 of 4 images do not say how large a pixel is (4L): their distances" if of_png == 1 else "The images do not"
    assert sum(text.startswith(told) for text in results["warnings"]) == 1
    assert f"HD95 {'mm' if of_png == 1 else 'pixels'}" in (tmp_path / "out" / "report.html").read_text()


def test_failed_cases_are_named_and_the_others_are_written(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", cache)
    broken = tuple(replace(c, label_field="/gone.nii.gz") if c.case == "4R" else c for c in cache.cases)
    monkeypatch.setattr(Cache, "open", classmethod(lambda cls, path: Cache(cache.path, cache._content, broken)))
    with pytest.raises(MedsslError, match="1 of 4 cases could not be evaluated"):
        evaluate(run, cache.path, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["arms"]["run"]["cases"] == 3
    assert [failure["case"] for failure in results["failures"]] == ["4R"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 case(s) could not be evaluated" in page
    assert results["failures"][0]["reason"] in page


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_parses(path: Path) -> None:
    parsed = parse_verb("evaluate", ["RUN", "--config", str(path), "--data", "CACHE", "--out", "OUT"])
    assert parsed["run"] == Path("RUN")
