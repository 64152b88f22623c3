"""`medssl benchmark`: a comparison from a folder of pictures to a table, resumed, with a run that fails."""

import csv
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from browser import Browser
from PIL import Image
from report_checks import check_page, check_results
from small_cache import small_cache

from medssl.__main__ import main
from medssl.commands import comparison
from medssl.commands.benchmark import _earlier
from medssl.commands.comparison import joint_embedding, judged, runs_of
from medssl.commands.comparison_sets import cache_of, not_measured
from medssl.commands.parsing import parse_verb, read_options, resolve_folder
from medssl.data.cache import Cache
from medssl.evaluation.benchmark_plan import BenchmarkPlan, MethodPlan, SetPlan, merged
from medssl.evaluation.benchmark_table import Judged
from medssl.evaluation.probe_data import not_probed
from medssl.training.loop import launch
from medssl.training.pretraining import Settings, assemble

_CNN = {"class_path": "medssl.models.unet.ResidualUNetEncoder", "init_args": {"features": [4, 8], "blocks": [0, 1]}}
_SMALL = {
    "encoder": _CNN,
    "views": {"size": [8, 8], "source": [16, 16]},
    "train": {"steps": 2, "batch_size": 4, "warmup_steps": 0},
}


def _pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "who", "ill", "part", "bad"])
        for number in range(36):
            ill = number % 2
            array = rng.normal(90 + 60 * ill, 20, (16, 16)).clip(0, 255).astype(np.uint8)
            Image.fromarray(array).save(folder / "pictures" / f"p{number}.png")
            writer.writerow([f"p{number}", f"w{number}", ill, ("train", "val", "test")[number // 2 % 3], 0])
        writer.writerow(["missing", "w99", 1, "train", 1])


def _without_class(folder: Path) -> None:
    """One more picture of split test, of which nobody says what it is."""
    shutil.copy(folder / "pictures" / "p0.png", folder / "pictures" / "unknown.png")
    with (folder / "table.csv").open("a", newline="") as stream:
        csv.writer(stream).writerow(["unknown", "w98", "", "test", 0])


def _volumes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(24):
        label = np.zeros((12, 12, 12), np.uint8)
        label[(slice(0, 3 + number % 7),) * 3] = 1
        image = rng.normal(90, 20, label.shape).astype(np.float32) + 60 * label
        for kind, array in (("images", image), ("labels", label)):
            nibabel.Nifti1Image(array, np.eye(4)).to_filename(folder / kind / f"v{number}.nii.gz")


def _plan(path: Path, **given: object) -> Path:
    images = {
        "name": "pictures", "images": "pictures", "table": "table.csv", "target": "class", "size": [16, 16],
        "columns": {"image": "name", "class": "ill", "patient": "who", "split": "part"}, "suffix": ".png",
        "labels_used": 8, "draws": 2, "exclude": {"bad": "1"}, "prepare": {"config": "image_2d"},
    }  # fmt: skip
    methods = [
        {"name": "spark", "family": "masked", "config": "spark_unet", "changes": {"views": {"source": []}}},
        {"name": "simclr", "family": "siamese", "config": "simclr_unet"},
        {"name": "broken", "family": "siamese", "config": "byol_unet", "changes": {"train": {"batch_size": 1}}},
    ]  # fmt: skip
    masked = {"method": {"init_args": {"block": 4}}}
    families = [
        {"name": "masked", "changes": {"pictures": {**_SMALL, **masked}}},
        {"name": "siamese", "changes": {"pictures": _SMALL}},
    ]
    content = {"sets": [images], "families": families, "methods": methods, "seeds": 2, "random_seeds": 3, **given}
    path.write_text(yaml.safe_dump(content))
    return path


def _run(*arguments: object) -> int:
    return main(["benchmark", *[str(a) for a in arguments]])


def _encoders(out: Path, method: str) -> dict[Path, int]:
    found = (out / "runs" / "pictures" / method).glob("seed*/encoder.safetensors")
    return {path: path.stat().st_mtime_ns for path in found}


def assert_validation_is_told(results: dict[str, Any], out: Path) -> None:
    """Every row has what its probes found on split val, in results.json and results.csv."""
    for run in results["runs"][:4]:
        folder = out / "runs" / "pictures" / run["method"] / f"seed{run['seed']}-{run['key']}"
        found = json.loads((folder / "probes.json").read_text())
        assert run["val"] == {name: entry["val"] for name, entry in found.items()}
        assert run["probes"] == {name: entry["test"] for name, entry in found.items()}
    rows = [*results["runs"], *results["random"]]
    with (out / "results.csv").open(newline="") as stream:
        told = [float(line["auroc_val"]) for line in csv.DictReader(stream) if line["auroc_val"]]
    assert told == [value for row in rows for value in row["val"].values()]
    assert all(set(row["val"]) == set(row["probes"]) for row in rows)


def test_an_error_of_a_method_ends_its_own_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever it is: of memory, of a library, of a method that somebody added."""

    def pretrain(verb: str, arguments: list[str]) -> None:
        if "/spark/" in arguments[-1]:
            raise RuntimeError("mat1 and mat2 shapes\ncannot be multiplied")

    def probe(run: comparison.Run, images: SetPlan, device: str) -> Judged:
        return Judged(images.name, run.method.name, run.method.family, _CNN, run.seed, run.key, {"knn": 0.5}, 0.0)

    monkeypatch.setattr(comparison, "run_verb", pretrain)
    monkeypatch.setattr(comparison, "refuse_unfinished", lambda *told: None)
    monkeypatch.setattr(comparison, "_probe", probe)
    plan = read_options(BenchmarkPlan, _plan(tmp_path / "plan.yaml"))
    found = [one for _, one in judged(runs_of(plan, tmp_path / "out", ("spark", "simclr"), (), 1), 1, "cpu")]
    (broken,), (whole,) = found
    assert broken.failed == "RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    assert (broken.method, broken.probes, whole.method, whole.failed) == ("spark", {}, "simclr", "")


def test_cases_of_a_set_that_are_in_no_number_are_told(tmp_path: Path):
    images = read_options(BenchmarkPlan, _plan(tmp_path / "plan.yaml")).sets[0]
    assert not_measured(images, tmp_path / "out") == [], "nothing is prepared yet"
    path = cache_of(images, tmp_path / "out")
    small_cache(path, [(8, 8)] * 6, splits=("train", "val", "test") * 2, classes=("0", "1", "0", "1", "", "1"))
    content = json.loads((path / "cache.json").read_text())
    (path / "cache.json").write_text(json.dumps({**content, "not_prepared": {"cut": "test"}}))
    unanswered, broken = not_measured(images, tmp_path / "out")
    assert unanswered.startswith("pictures: 1 of 2 cases of split val have no class and are in no number (c4)")
    assert broken.startswith("pictures: 1 case(s) of split test could not be prepared and are in no number (cut)")
    labelled = small_cache(tmp_path / "labels", [(8, 8)] * 2, splits=("val", "test"), labelled=(True, False))
    (told,) = not_probed(labelled, "structures")
    assert told.startswith("1 of 1 cases of split test have no label map")


@pytest.mark.integration
def test_a_comparison_ends_in_a_table_and_resumes(tmp_path: Path, browser: Browser, capsys: pytest.CaptureFixture[str]):
    _pictures(tmp_path / "data")
    _without_class(tmp_path / "data")
    plan, out = _plan(tmp_path / "plan.yaml"), tmp_path / "out"
    assert _run(plan, "--data", tmp_path / "data", "--out", out, "--methods", "[simclr]") == 0
    first = _encoders(out, "simclr")
    assert len(first) == 2
    assert _run(plan, "--data", tmp_path / "data", "--out", out) == 0
    assert _encoders(out, "simclr") == first
    results = check_results(out / "results.json")
    assert [(c["method"], c["encoder"]) for c in results["comparisons"]] == [
        ("spark", "ResidualUNetEncoder"),
        ("simclr", "ResidualUNetEncoder"),
        ("broken", ""),
    ]
    assert "samples at a time" in results["comparisons"][2]["failures"][0]
    (warning,) = results["warnings"]
    assert warning.startswith("pictures: 1 of 13 cases of split test have no class and are in no number (unknown)")
    assert len(results["runs"]) == 6
    assert {run["seed"] for run in results["runs"]} == {0, 1}
    assert [entry["seed"] for entry in results["random"]] == [0, 1, 2], "both methods have the same encoder"
    for row in [*results["runs"][:4], *results["random"]]:
        assert set(row["probes"]) == {"knn", "linear", "attentive"}
        assert all(0 <= value <= 1 for value in row["probes"].values())
    assert_validation_is_told(results, out)
    assert results["random"][0]["probes"] != results["random"][1]["probes"]
    linear = results["comparisons"][1]["probes"]["linear"]
    assert linear["random"] == pytest.approx(np.mean([r["probes"]["linear"] for r in results["random"]]))
    assert linear["difference"]["n"] == 2 + 3
    table = (out / "table.md").read_text()
    assert table.startswith("### pictures")
    assert "| failed |" in table
    with (out / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * 3 + 2 + 3 * 3
    said = capsys.readouterr().out
    assert "benchmark: 4 of 4: pictures, broken, seed 1: failed: " in said
    for row in [*results["runs"][:4], results["random"][0]]:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in row["val"].items())
        assert f", seed {row['seed']}: AUROC on split val: {numbers}\n" in said
    assert said.count(f"WARNING: {warning}\n") == 2, "once a call"
    page = (out / "report.html").read_text()
    assert warning in page
    assert page.count("data:image/png;base64,") == 1
    assert page.count("samples at a time") == 2, "each failed run is told"
    check_page(browser, out / "report.html")


@pytest.mark.integration
def test_results_are_enough_to_resume_and_a_changed_plan_is_run_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _pictures(tmp_path / "data")
    path, out = tmp_path / "plan.yaml", tmp_path / "out"
    plan = yaml.safe_load(_plan(path).read_text())
    plan["methods"] = plan["methods"][:2]
    path.write_text(yaml.safe_dump(plan))
    assert _run(path, "--data", tmp_path / "data", "--out", out) == 0
    found = (out / "results.json").read_text()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "results.json").write_text(found)
    assert _run(path, "--data", tmp_path / "data", "--out", elsewhere) == 0
    assert "4 runs, 4 of them finished already" in capsys.readouterr().out
    again, first = json.loads((elsewhere / "results.json").read_text()), json.loads(found)
    assert again.pop("environment")["command"] != first.pop("environment")["command"]
    assert again == first
    assert (elsewhere / "table.md").read_text() == (out / "table.md").read_text()
    assert not (elsewhere / "sets").exists()

    plan["methods"][1]["changes"] = {"train": {"lr": 0.01}}
    path.write_text(yaml.safe_dump(plan))
    assert _run(path, "--data", tmp_path / "data", "--out", out) == 0
    assert "4 runs, 2 of them finished already" in capsys.readouterr().out
    assert len(_encoders(out, "simclr")) == 4
    before, after = json.loads(found)["runs"], json.loads((out / "results.json").read_text())["runs"]
    assert before[:2] == after[:2]
    assert not {run["key"] for run in before[2:]} & {run["key"] for run in after[2:]}

    (elsewhere / "results.json").write_text("{}")
    assert _run(path, "--data", tmp_path / "data", "--out", elsewhere) == 2
    assert "is not a table of results" in capsys.readouterr().err


@pytest.mark.integration
def test_a_pretraining_whose_time_was_up_is_no_result_and_goes_on(tmp_path: Path):
    _pictures(tmp_path / "data")
    path, out = tmp_path / "plan.yaml", tmp_path / "out"
    plan = yaml.safe_load(_plan(path).read_text())
    plan["methods"] = [{**plan["methods"][1], "changes": {"train": {"time_limit_min": 1e-6}}}]
    path.write_text(yaml.safe_dump(plan))
    arguments = [path, "--data", tmp_path / "data", "--out", out, "--seeds", "1"]
    assert _run(*arguments) == 0
    (stopped,) = json.loads((out / "results.json").read_text())["runs"]
    assert "time_limit_min was over before its last step" in stopped["failed"]
    (encoder,) = _encoders(out, "simclr")
    assert not json.loads(encoder.with_suffix(".json").read_text())["provenance"]["finished"]
    untrue = {name: {"val": 2.0, "test": 2.0} for name in ("knn", "linear", "attentive")}
    encoder.with_name("probes.json").write_text(json.dumps(untrue))
    taken = {**stopped, "architecture": _CNN, "probes": dict.fromkeys(untrue, 2.0), "failed": ""}
    (out / "results.json").write_text(json.dumps({"runs": [taken], "random": []}))
    assert _run(*arguments) == 0
    (done,) = json.loads((out / "results.json").read_text())["runs"]
    assert not done["failed"]
    assert max(done["probes"].values()) <= 1, "not what was found with the weights of before"
    told = json.loads(encoder.with_suffix(".json").read_text())["provenance"]
    assert (told["finished"], told["steps"]) == (True, 2)


@pytest.mark.integration
def test_results_of_other_images_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, out = tmp_path / "data", tmp_path / "out"
    _pictures(data)
    plan = _plan(tmp_path / "plan.yaml", random_seeds=2)
    arguments = [plan, "--out", out, "--methods", "[simclr]", "--seeds", "1", "--data"]
    assert _run(*arguments, data) == 0
    first = json.loads((out / "results.json").read_text())
    (told,) = first["data_sha256"].values()
    assert [json.loads(path.read_text()) for path in out.glob("sets/*/data.json")] == [{"data_sha256": told}]

    moved = shutil.copytree(data, tmp_path / "moved")
    assert _run(*arguments, moved) == 0, "the same images, wherever they lie"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(moved / "pictures" / "p4.png")  # of split test
    capsys.readouterr()
    assert _run(*arguments, moved) == 2
    refused = capsys.readouterr().err
    found = re.findall(r"set pictures has data_sha256 (\w{12}) there and (\w{12}) below", refused)
    assert len(found) == 2, "results.json, and the prepared set"
    assert {before for before, _ in found} == {told[:12]}
    assert told[:12] not in {now for _, now in found}
    assert json.loads((out / "results.json").read_text())["runs"] == first["runs"]
    kept = (out / "results.json").read_text()
    (out / "results.json").unlink()
    assert _run(*arguments, moved) == 2, "encoders of the other images lie there"
    next(out.glob("sets/*/data.json")).unlink()
    capsys.readouterr()
    assert _run(*arguments, data) == 0
    assert "does not tell which images its set pictures is of" in capsys.readouterr().out

    del first["data_sha256"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "results.json").write_text(json.dumps(first))
    arguments[2] = elsewhere
    capsys.readouterr()
    assert _run(*arguments, data) == 0
    assert "does not tell which images its set pictures is of" in capsys.readouterr().out
    assert json.loads((elsewhere / "results.json").read_text())["data_sha256"] == json.loads(kept)["data_sha256"]
    assert _run(*arguments, data) == 0
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.integration
def test_runs_side_by_side_find_what_runs_one_by_one_find(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    _pictures(tmp_path / "data")
    arguments = [_plan(tmp_path / "plan.yaml"), "--data", tmp_path / "data", "--methods", "[simclr, broken]"]
    assert _run(*arguments, "--out", tmp_path / "one") == 0
    capfd.readouterr()
    assert _run(*arguments, "--out", tmp_path / "two", "--jobs", "2") == 0
    assert "pretrain:" not in capfd.readouterr().err
    log = next((tmp_path / "two" / "runs" / "pictures" / "simclr").glob("seed1-*.log")).read_text()
    assert "pretrain: done: step 2" in log
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["random"] == two["random"]
    for runs in zip(one["runs"], two["runs"], strict=True):
        first, second = ({name: value for name, value in run.items() if name != "hours"} for run in runs)
        assert first == second


@pytest.mark.integration
def test_a_mixed_method_is_run_once_and_judged_on_both_sets(tmp_path: Path):
    _pictures(tmp_path / "data")
    _volumes(tmp_path / "data" / "volumes")
    plan = yaml.safe_load(_plan(tmp_path / "plan.yaml").read_text())
    small = {
        "encoder": {
            "class_path": "medssl.models.unified_vit.UnifiedViT",
            "init_args": {"patch_size_2d": 4, "patch_size_3d": 4, "width": 12, "depth": 1, "heads": 2},
        },
        "method": {"init_args": {"decoder": [12, 1, 2]}},
        "views": {"size": [8, 8]},
        "also": {"views": {"size": [8, 8, 8]}, "batch_size": 4},
        "train": {**_SMALL["train"], "steps": 4},
    }
    volumes = {
        "name": "volumes", "images": "volumes/images", "labels": "volumes/labels", "target": "structures",
        "size": [8, 8, 8], "labels_used": 8, "draws": 2,
        "prepare": {"config": "mr_native", "labels": [{"name": "lump", "value": 1}]},
    }  # fmt: skip
    both = tmp_path / "both.yaml"
    content = {
        "sets": [*plan["sets"], volumes], "seeds": 2, "random_seeds": 2,
        "families": [{"name": "both", "changes": {"mixed": small}}],
        "methods": [{"name": "uni4eye", "family": "both", "config": "uni4eye_vit", "mixed": True}],
    }  # fmt: skip
    both.write_text(yaml.safe_dump(content))
    data, out = tmp_path / "data", tmp_path / "out"
    assert _run(both, "--data", data, "--out", out) == 0
    results = json.loads((out / "results.json").read_text())
    assert [(c["images"], c["encoder"], c["failures"]) for c in results["comparisons"]] == [
        ("pictures", "ViT", []),
        ("volumes", "ViT", []),
    ]
    names = {path.name for path in (out / "runs" / "pictures+volumes" / "uni4eye").glob("seed1-*/probes*")}
    assert names == {"probes_2d.json", "probes_3d.json"}
    assert _run(both, "--data", data, "--out", tmp_path / "none", "--sets", "[pictures]") == 2
    both.write_text(yaml.safe_dump({**content, "sets": plan["sets"]}))
    assert _run(both, "--data", data, "--out", tmp_path / "none") == 2


def test_mistakes_are_told_before_anything_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    methods = [{"name": "m", "family": "masked", "config": "nothing_of_that_name"}]
    plan = _plan(tmp_path / "plan.yaml", methods=methods)
    assert _run(plan, "--data", tmp_path / "none", "--out", tmp_path / "out", "--sets", "[other]") == 2
    told = capsys.readouterr().err
    for part in ("data", "'other' is not in the plan", "nothing_of_that_name2d does not exist"):
        assert part in told
    assert not (tmp_path / "out").exists()
    plan = _plan(tmp_path / "plan.yaml")
    assert _run(plan, "--data", tmp_path, "--out", tmp_path / "out") == 2
    assert "which the plan's set pictures needs" in capsys.readouterr().err
    plan.write_text(plan.read_text().replace("name: pictures", "name: mixed"))
    assert _run(plan, "--data", tmp_path, "--out", tmp_path / "out") == 2
    assert "mixed is no name for a set" in capsys.readouterr().err
    plan = _plan(tmp_path / "plan.yaml", seeds=1, speed=3)
    assert _run(plan, "--data", tmp_path, "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "speed" in told


def test_options_that_no_run_takes_and_budgets_that_a_family_leaves_open_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _pictures(tmp_path / "data")
    wrong = {"name": "spark", "family": "masked", "config": "spark_unet", "changes": {"train": {"lrr": 1}}}
    unused = {"name": "simclr", "family": "empty", "config": "simclr_unet", "on_set": {"mixed": {"train": {"lr": 1}}}}
    families = yaml.safe_load(_plan(tmp_path / "plan.yaml").read_text())["families"]
    plan = _plan(
        tmp_path / "plan.yaml", methods=[wrong, unused], families=[*families, {"name": "empty", "changes": {}}]
    )
    assert _run(plan, "--data", tmp_path / "data", "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "methods: simclr changes 'mixed' in on_set, where it has no run" in told
    assert "families: empty says nothing of pictures, where simclr runs" in told
    plan = _plan(tmp_path / "plan.yaml", methods=[wrong])
    assert _run(plan, "--data", tmp_path / "data", "--out", tmp_path / "out") == 2
    assert "methods: pictures, spark, seed 0: pretrain: option train.lrr is unknown" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_content_of_a_configuration_is_another_set_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    images = yaml.safe_load(_plan(tmp_path / "plan.yaml").read_text())["sets"][0]
    plan = _plan(tmp_path / "plan.yaml", sets=[{**images, "prepare": {"config": "own.yaml"}}])
    keys = []
    for seed in (0, 7):
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({"seed": seed}))
        wanted = read_options(BenchmarkPlan, plan)
        keys.append((runs_of(wanted, tmp_path, (), (), 1)[0].key, cache_of(wanted.sets[0], tmp_path)))
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] != keys[1][1]


def test_a_run_that_failed_stays_in_the_results_of_a_call_for_others(tmp_path: Path):
    plan = read_options(BenchmarkPlan, _plan(tmp_path / "plan.yaml"))
    caches = {images.name: cache_of(images, tmp_path) for images in plan.all_sets}
    rows = [
        Judged(run.sets[0].name, run.method.name, run.method.family, {}, run.seed, run.key, {}, 0.0, "of memory")
        for run in runs_of(plan, tmp_path, (), (), 2)
    ]
    content = {"runs": [asdict(row) for row in rows], "random": []}
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert _earlier(tmp_path, plan, caches, 2)[0] == rows


def test_a_table_without_a_column_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _pictures(tmp_path / "data")
    (tmp_path / "data" / "table.csv").write_text("name,who\np0,w0\n")
    assert _run(_plan(tmp_path / "plan.yaml"), "--data", tmp_path / "data", "--out", tmp_path / "out") == 2
    assert "table.csv" in capsys.readouterr().err


_SMALL_PLAN = read_options(BenchmarkPlan, resolve_folder("configs", Path("methods_small")))


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Cache]:
    shapes: dict[int, tuple[int, ...]] = {2: (100, 100), 3: (36, 50, 34)}
    return {dims: small_cache(tmp_path_factory.mktemp("cache"), [shape] * 2) for dims, shape in shapes.items()}


@pytest.mark.parametrize("images", _SMALL_PLAN.sets, ids=lambda entry: entry.name)
@pytest.mark.parametrize("method", _SMALL_PLAN.methods, ids=lambda entry: entry.name)
def test_every_run_of_the_built_in_plan_can_be_built(
    method: MethodPlan, images: SetPlan, caches: dict[int, Cache], tmp_path: Path
):
    start = yaml.safe_load(resolve_folder("configs", Path(method.config_for(images))).read_text(encoding="utf-8"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(merged(start, _SMALL_PLAN.changes(method, images))))
    given = parse_verb("pretrain", ["--config", str(tmp_path / "run.yaml"), "--data", "c", "--out", "o"])
    also = replace(given["also"], data=Path("c")) if method.mixed else given["also"]
    settings = Settings(given["method"], given["encoder"], given["views"], given["train"], also=also)
    settings.check()
    dims = len(images.size)
    first, second = (caches[2], caches[3]) if method.mixed else (caches[dims], None)
    encoder = assemble(settings, first, launch(settings.train), second).method.encoder
    assert (encoder.plain(dims) if method.mixed else encoder).spatial_dims == dims


def test_which_methods_neighbours_must_show_is_told_by_their_cards():
    found = joint_embedding(runs_of(_SMALL_PLAN, Path("out"), (), (), 1))
    assert {"simclr", "moco_v2", "byol", "barlow_twins", "swav", "dinov2", "intra_inter"} <= found
    assert not {"mae", "ijepa", "spark", "resenc_mae", "voco", "alice", "models_genesis", "uni4eye"} & found


def test_methods_of_a_family_have_one_budget():
    for images in _SMALL_PLAN.sets:
        for family in _SMALL_PLAN.families:
            runs = [_SMALL_PLAN.changes(m, images) for m in _SMALL_PLAN.methods if m.family == family.name]
            assert len({(run["train"]["steps"], run["train"]["batch_size"]) for run in runs}) <= 1
            assert len({str(run["encoder"]) for run in runs}) <= 1
