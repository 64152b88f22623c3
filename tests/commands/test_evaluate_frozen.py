"""`medssl evaluate` of an encoder: from the file to tables and a report, and what it refuses."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from report_checks import check_page, check_results, read_csv
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score
from small_cache import small_cache
from small_encoder import small_encoder

from medssl.__main__ import main
from medssl.commands.evaluate_frozen import encoder_file
from medssl.data.cache import Cache
from medssl.evaluation.frozen import slice_axis
from medssl.evaluation.options import FrozenOptions
from medssl.imaging.errors import ConfigError

_SPLITS = ("train",) * 12 + ("val",) * 6 + ("test",) * 6


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return small_cache(
        tmp_path_factory.mktemp("cache"), [(12, 12)] * 24, splits=_SPLITS, classes=("no", "yes"), labelled=[True] * 24
    )


def _evaluate(run: Path, cache: Cache, out: Path, *more: str) -> int:
    quick = ["--frozen.draws=2", "--frozen.episodes=3", "--frozen.random_seeds=2", "--measure.resamples=100"]
    return main(["evaluate", str(run), "--data", str(cache.path), "--out", str(out), *quick, *more])


@pytest.mark.integration
def test_two_encoders_beside_random_weights(
    cache: Cache, tmp_path: Path, browser: Browser, capsys: pytest.CaptureFixture[str]
):
    ours, theirs = small_encoder(tmp_path / "ours"), small_encoder(tmp_path / "theirs", seed=1)
    out = tmp_path / "out"
    assert _evaluate(ours, cache, out, "--baseline", str(theirs), "--frozen.labels=[8, 0]") == 0
    said = capsys.readouterr().out
    assert said.count("labelled images a linear probe on ours reaches AUROC") == 4
    results = check_results(out / "results.json")
    assert list(results["arms"]) == ["ours", "theirs", "random weights"]
    assert sum(len(points) for points in results["feature_map"]["points"].values()) == 6
    assert results["arms"]["random weights"]["encoders"] == 2
    untrained = results["arms"]["random weights"]["probes"]["0"]["linear"]
    assert np.mean(untrained["each"]) == pytest.approx(untrained["auroc"]["estimate"])
    assert len(untrained["each"]) == 2
    assert "one training of each; another seed may differ (medssl benchmark)" in said
    assert "one training of ours; another seed may differ" in said
    assert results["splits"]["train"] == {"images": 12, "patients": 12}
    assert results["encoders"]["ours"]["method"] == "SimCLR"
    arm = results["arms"]["ours"]
    assert list(arm["probes"]) == ["8", "0"]
    assert list(arm["probes"]["0"]) == ["knn", "linear", "attentive"]
    assert [shot["shots"] for shot in arm["shots"]] == [1, 2, 4]
    for name in ("theirs", "random weights"):
        for first, second in zip(arm["shots"], results["arms"][name]["shots"], strict=True):
            assert first["interval"]["estimate"] == pytest.approx(first["auroc"])
            found = results["shot_differences"][name][str(first["shots"])]
            assert found["estimate"] == pytest.approx(first["auroc"] - second["auroc"])
    assert set(arm["transferability"]) == {"logme", "h_score", "ped_logme"}
    for name in ("theirs", "random weights"):
        for labels, probes in results["differences"][name].items():
            for probe, found in probes.items():
                first, second = (results["arms"][a]["probes"][labels][probe]["auroc"] for a in ("ours", name))
                assert found["estimate"] == pytest.approx(first["estimate"] - second["estimate"])
                assert found["clusters"] == 6
    assert not untrained["questions"], "of one question there is no table"
    assert any("Split test has 6 patient(s) only" in warning for warning in results["warnings"])
    with (out / "results.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 3 * 2 * 3
    page = (out / "report.html").read_text()
    assert ", ".join(f"{value:.3f}" for value in untrained["each"]) in page
    assert page.count("data:image/png;base64,") == 3
    check_page(browser, out / "report.html")


@pytest.mark.integration
def test_the_linear_probe_is_told_image_by_image_and_on_parts(tmp_path: Path):
    splits, sites = ("train",) * 12 + ("val",) * 6 + ("test",) * 12, ("x", "y", "y") * 10
    images = small_cache(tmp_path / "cache", [(8, 8)] * 30, splits=splits, classes=("a", "b", "c"), sites=sites)
    ours, theirs = small_encoder(tmp_path / "ours"), small_encoder(tmp_path / "theirs", seed=1)
    more = ("--baseline", str(theirs), "--frozen.random_seeds=1", "--measure.class_order=[c, a, b]")
    out = tmp_path / "out"
    assert _evaluate(ours, images, out, *more, "--frozen.labels=[10, 0]") == 0
    results = check_results(out / "results.json")
    linear = results["linear"]
    assert (linear["labels"], list(linear["arms"])) == (0, ["ours", "theirs"])
    rows = read_csv(out / "cases.csv")
    assert [(row["arm"], row["case"]) for row in rows] == [
        (arm, f"c{n}") for arm in ("ours", "theirs") for n in range(18, 30)
    ]
    for arm, found in linear["arms"].items():
        own = [row for row in rows if row["arm"] == arm]
        assert [(row["patient"], row["class"]) for row in own] == [(f"p{n}", "abc"[n % 3]) for n in range(18, 30)]
        truth, scores = ([row["class"] for row in own], [[float(row[f"score_{k}"]) for k in "cab"] for row in own])
        whole = results["arms"][arm]["probes"]["0"]["linear"]["auroc"]["estimate"]
        answers = np.array([[name == k for k in "cab"] for name in truth])
        assert whole == pytest.approx(roc_auc_score(answers, scores))
        said = ["cab"[n] for n in np.argmax(scores, axis=1)]
        metrics = found["metrics"]
        assert metrics["balanced_accuracy"]["estimate"] == pytest.approx(balanced_accuracy_score(truth, said))
        kappa = cohen_kappa_score(truth, said, labels=list("cab"), weights="quadratic")
        assert metrics["quadratic_kappa"]["estimate"] == pytest.approx(kappa)
        first, second = found["subgroups"]["site"]
        assert [(p["group"], p["cases"], p["patients"], p["few"]) for p in (first, second)] == [
            ("x", 4, 4, True), ("y", 8, 8, True),
        ]  # fmt: skip
        assert first["metrics"]["auroc"]["estimate"] is None, "all of site x are of class a"
        there = [n for n, row in enumerate(own) if row["class"] != "a"]
        areas = [roc_auc_score(answers[there, k], np.array(scores)[there, k]) for k in (0, 2)]
        assert second["metrics"]["auroc"]["estimate"] == pytest.approx(np.mean(areas))
    page = (out / "report.html").read_text()
    assert "By site; the smallest part has 4 patient(s)" in page
    assert "With all labelled images; cases.csv has the scores of every image." in page


@pytest.mark.integration
def test_verdicts_are_tested_and_corrected_over_all_comparisons_of_the_report(cache: Cache, tmp_path: Path):
    run, out = small_encoder(tmp_path / "run"), tmp_path / "out"
    assert _evaluate(run, cache, out, "--frozen.labels=[8, 0]", "--frozen.random_seeds=1") == 0
    results = check_results(out / "results.json")
    shown = results["differences"]["random weights"]
    every = [one for probes in shown.values() for one in probes.values()]
    every += results["shot_differences"]["random weights"].values()
    assert results["comparisons"] == len(every) == 2 * 3 + 3
    assert all(one["p_value_corrected"] >= one["p_value"] >= one["smallest_p_value"] for one in every)
    assert {one["verdict"] for one in every} == {"no difference shown"}, "there are six patients"
    told = "9 of 9 comparisons cannot show a difference"
    assert results["warnings"][0].startswith(told)
    page = (out / "report.html").read_text()
    assert told in page
    assert page.count(">p corrected<") == 2, "a column of both tables"
    rows = read_csv(out / "results.csv")
    assert {row["verdict"] for row in rows} == {"", "no difference shown"}
    line = next(row for row in rows if (row["arm"], row["labels"], row["probe"]) == ("random weights", "0", "linear"))
    for column, entry in (("difference", "estimate"), ("p_value", "p_value"), ("p_value_corrected",) * 2):
        assert float(line[column]) == shown["0"]["linear"][entry]


@pytest.mark.integration
def test_several_answers_an_image_and_a_file_instead_of_a_folder(cache: Cache, tmp_path: Path):
    run = small_encoder(tmp_path / "run")
    more = ("--frozen.target=structures", "--frozen.crops=60", "--frozen.size=[6, 6]")
    assert _evaluate(run / "encoder.safetensors", cache, tmp_path / "out", *more) == 0
    results = check_results(tmp_path / "out" / "results.json")
    assert results["questions"] == ["box", "corner"]
    assert results["linear"]["arms"]["run"] == {"metrics": {}, "subgroups": {}}
    assert not (tmp_path / "out" / "cases.csv").exists()
    assert list(results["arms"]["run"]["probes"]["0"]) == ["knn", "linear", "multilabel_knn", "attentive"]
    for probe in results["arms"]["random weights"]["probes"]["0"].values():
        own = [probe["questions"][name]["estimate"] for name in ("box", "corner")]
        assert probe["auroc"]["estimate"] == pytest.approx(np.mean(own))
    assert "AUROC of each question." in (tmp_path / "out" / "report.html").read_text()


def test_a_run_of_both_dimensions_has_an_encoder_of_each(tmp_path: Path):
    run = small_encoder(tmp_path / "run")
    assert encoder_file(run, 2) == encoder_file(run, 3) == run / "encoder.safetensors"
    (run / "encoder.safetensors").rename(run / "encoder_2d.safetensors")
    assert encoder_file(run, 2) == run / "encoder_2d.safetensors"
    assert encoder_file(run, 3) is None
    (run / "model.safetensors").touch()
    assert encoder_file(run, 2) is None


@pytest.mark.integration
def test_slices_of_volumes_are_a_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    volumes = small_cache(tmp_path / "cache", [(10, 12, 6)] * 24, splits=_SPLITS, classes=("no", "yes"))
    sliced = volumes.preprocess.of_slices(1).to_json()
    run = small_encoder(tmp_path / "run", provenance={"crop": [8, 8], "slice_axis": 1}, preprocess=sliced)
    assert _evaluate(run, volumes, tmp_path / "out") == 2
    assert "frozen.bags slices shows it the slices of volumes" in capsys.readouterr().err
    assert _evaluate(run, volumes, tmp_path / "out", "--frozen.bags=slices", "--frozen.slices=3") == 0
    results = check_results(tmp_path / "out" / "results.json")
    assert list(results["arms"]["run"]["probes"]["0"]) == ["knn", "linear", "bag_attention"]
    assert results["slice_axis"] == 1, "that of the pretraining"
    assert not any("prepared otherwise" in warning for warning in results["warnings"])


def test_slices_lie_across_the_axis_of_the_pretraining_unless_one_is_asked_for():
    meta = {"provenance": {"slice_axis": 0}}
    assert [slice_axis(None, meta), slice_axis(1, meta), slice_axis(None, {})] == [0, 1, 2]


def test_a_collapsed_encoder_is_at_chance_and_has_no_scores(cache: Cache, tmp_path: Path):
    run = small_encoder(tmp_path / "run", factor=0.0)
    assert _evaluate(run, cache, tmp_path / "out", "--frozen.random_seeds=1", "--frozen.shots=[9]") == 0
    results = check_results(tmp_path / "out" / "results.json")
    page = (tmp_path / "out" / "report.html").read_text()
    for sentence in ("frozen.shots 9 left out: split train has", "frozen.shots names no number of images a class"):
        assert sentence in page
    arm = results["arms"]["run"]
    assert arm["probes"]["0"]["linear"]["auroc"]["estimate"] == 0.5
    assert arm["transferability"] == {"logme": None, "h_score": None, "ped_logme": None}
    assert None not in results["arms"]["random weights"]["transferability"].values()


def test_other_preprocessing_is_told(cache: Cache, tmp_path: Path):
    other = {**cache.preprocess.to_json(), "spacing_mm": [9.0, 9.0], "crop": "nonzero", "grey": True}
    run = small_encoder(tmp_path / "run", preprocess=other)
    assert _evaluate(run, cache, tmp_path / "out") == 0
    warnings = json.loads((tmp_path / "out" / "results.json").read_text())["warnings"]
    assert any("prepared otherwise (spacing_mm, grey, crop)" in warning for warning in warnings)


def test_patients_that_the_pretraining_saw_are_told(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, other = small_encoder(tmp_path / "run"), small_encoder(tmp_path / "other")
    quick = ("--frozen.random_seeds=1", "--frozen.draws=1", "--frozen.shots=[1]")
    (run / "run.json").write_text(json.dumps({"patients": {"pretraining": ["p0", "p17", "p18", "p22"]}}))
    assert _evaluate(run, cache, tmp_path / "some", f"--baseline={other}", *quick) == 0
    said, page = capsys.readouterr().out, (tmp_path / "some" / "report.html").read_text()
    for sentence in (
        "2 of 6 test patients were in the pretraining of run",
        "Whether patients of split test were in the pretraining of other is not known",
    ):
        assert f"WARNING: {sentence}" in said
        assert sentence in page
    (run / "run.json").write_text(json.dumps({"patients": {"pretraining": [f"p{n}" for n in range(18)]}}))
    assert _evaluate(run, cache, tmp_path / "none", *quick) == 0
    assert "WARNING" not in capsys.readouterr().out
    assert "in the pretraining of" not in (tmp_path / "none" / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "needs"),
    [
        ({"target": "prompt", "episodes": 3, "labels": (20,)}, ["labels", "episodes"]),
        ({"target": "landmarks", "shots": (1,), "blocks": (), "draws": 1}, ["draws", "shots", "blocks"]),
        ({"target": "class", "crops": 8, "templates": 1, "within_mm": (1.0,)}, ["crops", "templates", "within_mm"]),
        ({"target": "structures", "slices": 8, "slice_axis": 1}, ["slice_axis", "slices"]),
        ({"target": "class", "bags": "patient", "slices": 8}, ["slices"]),
    ],
)
def test_options_that_do_nothing_for_the_target_are_refused_together(given: dict[str, Any], needs: list[str]):
    with pytest.raises(ConfigError) as error:
        FrozenOptions(**given)
    told = [(problem.split(" ")[0], " needs " in problem) for problem in error.value.problems]
    assert sorted(told) == sorted((f"frozen.{name}", True) for name in needs)


@pytest.mark.parametrize("target", ["class", "structures", "landmarks", "prompt"])
def test_options_that_are_as_they_are_by_default_are_taken_for_not_given(target: Any):
    assert FrozenOptions(target=target, crops=4, labels=(0,), templates=3).target == target


def test_what_cannot_be_probed_is_refused(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, out = small_encoder(tmp_path / "run"), tmp_path / "out"
    assert _evaluate(small_encoder(tmp_path / "deep", dims=3), cache, out) == 2
    assert "encoder of 3D images" in capsys.readouterr().err
    assert _evaluate(run, cache, out, "--threshold_rule=true") == 2
    assert "compare it with another one" in capsys.readouterr().err
    assert _evaluate(run, cache, out, "--split=val", "--lesions.labels=[box]") == 2
    told = capsys.readouterr().err
    assert "it is judged on split test, options are chosen on val: leave split val out" in told
    assert "lesions.labels are for a segmentation" in told
    idle = ("--predict.mirror=on", "--measure.tolerance_mm=2")
    assert _evaluate(run, cache, out, *idle) == 2
    told = capsys.readouterr().err
    assert "predict.mirror and predict.batch_size are for a fine-tuned run" in told
    assert "measure.tolerance_mm is for a segmentation" in told
    assert _evaluate(run, cache, out, "--measure.class_order=[a, b]", "--frozen.target=structures") == 2
    assert "measure.class_order is for a classification" in capsys.readouterr().err
    assert _evaluate(run, cache, out, "--measure.class_order=[a, b]") == 2
    assert "measure.class_order ['a', 'b'] must hold the classes ['no', 'yes']" in capsys.readouterr().err
    assert _evaluate(run, cache, out, "--frozen.draws=0", "--frozen.bags=patient", "--frozen.target=structures") == 2
    told = capsys.readouterr().err
    assert "frozen.draws" in told
    assert "frozen.bags needs target class" in told
    assert _evaluate(small_encoder(tmp_path / "bare", provenance={}), cache, out) == 2
    assert "frozen.size is missing" in capsys.readouterr().err
    assert _evaluate(run, cache, out, "--frozen.labels=[99]") == 2
    assert "frozen.labels 99: split train has 12 images" in capsys.readouterr().err
    broken = small_encoder(tmp_path / "broken", factor=float("nan"))
    assert _evaluate(broken, cache, out) == 2
    assert "are no numbers (NaN)" in capsys.readouterr().err
    assert not out.exists()
