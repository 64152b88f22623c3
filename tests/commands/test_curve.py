"""`medssl curve`: a study from an application to a report, resumed, changed, with a run that fails."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from browser import Browser
from cohort import ENCODER, FINETUNE, PRETRAIN, write_scans
from report_checks import check_page, check_results

from medssl.__main__ import main
from medssl.commands import study_runs
from medssl.commands.parsing import run_verb
from medssl.commands.study_checks import claim
from medssl.data.cache import Cache
from medssl.evaluation.report.study_markdown import study_markdown
from medssl.imaging.errors import MedsslError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.training.options import TrainOptions

_UNUSABLE = """from cohort import write_scans


def make_manifest(data, out):
    write_scans(out.parent).write(out)
    (out.parent / "images" / "5L.nii.gz").write_bytes(b"")
"""
_PREPARE = (
    "from cohort import write_scans\n\n\ndef make_manifest(data, out):\n    write_scans(out.parent{}).write(out)\n"
)


def _plan(folder: Path, **given: Any) -> Path:
    app = folder / "app"
    app.mkdir(exist_ok=True)
    (app / "prepare.py").write_text(_PREPARE.format(""))
    (app / "app.yaml").write_text(yaml.safe_dump({"name": "tiny", "prepare": {"workers": 1}}))
    content = {
        "app": str(app), "metric": "dice", "labels": [1, 2], "seeds": 2, "reference": "from scratch",
        "finetune": {**FINETUNE, "inference": {"choose": "last"}},
        "trials": [{"train": {"lr": 0.001}}, {"train": {"lr": 0.01}}],
        "arms": [
            {"name": "from scratch"}, {"name": "longer", "longer_as": "spark"}, {"name": "spark", "pretrain": PRETRAIN}
        ],
    }  # fmt: skip
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**content, **given}))
    return path


def _run(plan: Path, out: Path, *more: str) -> int:
    return main(["curve", str(plan), "--data", str(plan.parent), "--out", str(out), *more])


def _models(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("model.safetensors")}


def _learned_from_the_same(results: dict[str, Any], out: Path) -> None:
    """All arms of a seed and number of patients, and fewer patients lie within more."""
    patients: dict[tuple[int, int], set[tuple[str, ...]]] = {}
    for run in results["runs"]:
        told = json.loads((out / run["folder"] / "run.json").read_text())
        patients.setdefault((run["labels"], run["seed"]), set()).add(tuple(told["patients"]["train"]))
        assert told["transfer"] is None or run["arm"] == "spark"
    assert all(len(found) == 1 for found in patients.values())
    assert set(next(iter(patients[1, 0]))) < set(next(iter(patients[2, 0])))


def _started_in_turn(results: dict[str, Any], out: Path) -> None:
    """Each seed from a pretraining with another seed; the trials from the first."""
    seeds = {
        file: json.loads((out / "pretrain" / file.parent.name / "run.json").read_text())["seed"]
        for file in (out / "pretrain").glob("*/encoder.safetensors")
    }
    assert sorted(seeds.values()) == [0, 1]
    seen = {"crop": [16, 16, 8], "source": None, "views": 1, "local_views": 0, "batch_size": 2, "steps": 2}
    assert results["pretraining"]["spark"].items() >= {**seen, "pretrainings": 2}.items()
    for run in results["runs"]:
        if run["arm"] == "spark":
            assert (
                seeds[Path(json.loads((out / run["folder"] / "run.json").read_text())["config"]["init"])] == run["seed"]
            )


def _paired_and_scored(results: dict[str, Any]) -> None:
    """The pair of the plan at every number of labels, and its slopes; then the scores."""
    (pair,) = results["pairs"]
    assert (pair["arm"], pair["against"], pair["slope"]["labels"]) == ("spark", "longer", [1, 2])
    assert ([found["labels"] for found in pair["points"]], results["comparisons"]) == ([1, 2], 4 + 2 + 1)
    _scored(results)


def _scored(results: dict[str, Any]) -> None:
    """The scores' correlation with the results is that of two arms: the same order, or the other one."""
    for point, scored in zip(results["points"], results["transferability"]["points"], strict=True):
        assert list(scored["arms"]) == ["from scratch", "spark"], "longer starts as the one from scratch"
        assert scored["labels"] == point["labels"]
        for name, found in scored["correlation"].items():
            ours, theirs = ([c[a] for a in ("from scratch", "spark")] for c in (
                {a: own[name] for a, own in scored["arms"].items()},
                {a: own["mean"]["estimate"] for a, own in point["arms"].items()},
            ))  # fmt: skip
            same = float(np.sign(np.diff(ours)[0] * np.diff(theirs)[0]))
            assert found["kendall"] == (pytest.approx(same) if same else None)
            assert (found["arms"], found["few"]) == (2, True)


def _found(out: Path) -> dict[str, Any]:
    """Results without when and how they were made."""
    return {name: value for name, value in check_results(out / "results.json").items() if name != "environment"}


def _finds_the_same_again(plan: Path, out: Path) -> None:
    """Also what is not asked for, so that p-values stay as they are."""
    before, found = _models(out), _found(out)
    for more in ([], ["--arms", "[from scratch]"]):
        assert _run(plan, out, *more) == 0
        assert _models(out) == before
        assert _found(out) == found


def _told(page: Path) -> None:
    text = page.read_text()
    assert "data:image/png;base64," in text
    for sentence in (
        "Learning curves with 1 labelled patient",
        "medssl pretrain --config",
        "Split test has 2 patient(s) only: the numbers say next to nothing.",
        "Only 2 arm(s) are ranked",
        "gain per doubling of the labels",
        "With 1 labelled patient spark reaches a mean Dice",
        "spark against longer: with 1 labelled patient",
    ):
        assert sentence in text


@pytest.mark.integration
def test_a_study_pairs_its_arms_and_resumes(tmp_path: Path, browser: Browser, capsys: pytest.CaptureFixture[str]):
    plan, out = _plan(tmp_path, pretrainings=2, pairs=[["spark", "longer"]]), tmp_path / "out"
    assert _run(plan, out) == 0
    results = check_results(out / "results.json")
    assert [point["labels"] for point in results["points"]] == [1, 2]
    for point in results["points"]:
        assert list(point["arms"]) == ["from scratch", "longer", "spark"]
        assert list(point["differences"]) == ["longer", "spark"]
        for arm, found in point["differences"].items():
            seeds = [point["arms"][name]["seeds"] for name in (arm, "from scratch")]
            assert found["seed_differences"] == pytest.approx([seeds[0][s] - seeds[1][s] for s in ("0", "1")])
            assert found["verdict"] in ("better", "worse", "no difference shown")
    assert (results["cases"], results["patients"], results["split"]) == (4, 2, "test")
    assert (len(results["trials"]), len(results["runs"])) == (6, 12)
    _started_in_turn(results, out)
    assert results["validation"] == {"cases": 0, "patients": 0, "chosen": []}
    assert (results["ranking"]["blocks"], results["ranking"]["blocks_are"]) == (2, "patients")
    steps = {run["arm"]: run["steps"] for run in results["runs"]}
    record = json.loads(next((out / "runs" / "longer").glob("*-longer-*.json")).read_text())
    extra = 3600 * record["pretraining_hours"] * record["jobs"] / record["seconds_a_step"]
    assert steps["longer"] == record["steps"] == 2 + round(extra)
    assert extra > 0
    assert steps["spark"] == 2
    _learned_from_the_same(results, out)
    _paired_and_scored(results)
    _told(out / "report.html")
    check_page(browser, out / "report.html")
    with (out / "results.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 12
    assert (out / "table.md").read_text(encoding="utf-8") == study_markdown(results)

    before = _models(out)
    _finds_the_same_again(plan, out)
    other = tmp_path / "other"
    other.mkdir()
    assert main(["curve", str(plan), "--data", str(other), "--out", str(out)]) == 2
    assert f"was made from the data in {tmp_path.resolve()}, not from {other.resolve()}" in capsys.readouterr().err
    assert _run(_plan(tmp_path, labels=[2, 3]), out, "--arms", "[spark]", "--jobs", "2") == 0
    assert "curve: 8 of 8" in capsys.readouterr().out
    again = json.loads((out / "results.json").read_text())
    assert list(again["points"][1]["arms"]) == ["from scratch", "spark"]
    assert any("not here, or not whole: longer (0 of 4 runs). p-values" in text for text in again["warnings"])
    kept = {path: time for path, time in _models(out).items() if path in before}
    assert kept == before


@pytest.mark.integration
def test_classes_are_compared_by_their_probabilities(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    head = {"class_path": "medssl.models.decoders.ClassificationHead"}
    finetune = {"task": "classification", "loss": "ce", "network": {"encoder": ENCODER, "decoder": head}}
    finetune |= {"crops": {"size": [16, 16], "foreground": 0}, "train": {"steps": 2, "batch_size": 2}}
    arms = [{"name": "from scratch"}, {"name": "wide", "finetune": {"train": {"weight_decay": 0.1, "steps": 3}}}]
    changes = {"metric": "quadratic_kappa", "class_order": ["well", "ill"], "labels": [2], "arms": arms}
    changes |= {"unit": "patients"}
    prepared = {"preprocess": {"spatial_dims": 2}}
    plan = _plan(tmp_path, finetune=finetune, prepare=prepared, **{**changes, "class_order": ["well", "sick"]})
    (tmp_path / "app" / "prepare.py").write_text(_PREPARE.format(", dims=2, classes=('ill', 'well')"))
    assert _run(plan, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "class_order ['well', 'sick'] must name each class once: ill, well" in told
    assert "split val has cases of well alone, so no trial can be chosen there" in told
    assert not (tmp_path / "out" / "runs").exists()
    (tmp_path / "out").rename(tmp_path / "before")
    plan = _plan(tmp_path, finetune=finetune, prepare=prepared, **changes)
    prepare = _PREPARE.format(", dims=2, classes=('ill', 'well'), patients=7, validation=2")
    (tmp_path / "app" / "prepare.py").write_text(prepare)
    assert _run(plan, tmp_path / "out") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["metric"] == "quadratic_kappa"
    assert results["validation"] == {"cases": 4, "patients": 2, "chosen": ["options", "weights"]}
    assert len(results["trials"]) == len(list((tmp_path / "out" / "runs").glob("*/*/evaluation_val/cases.csv"))) == 4
    assert [found["steps"] for found in results["budgets"].values()] == [2, 3]
    assert "Arms learned with unlike budgets" in (tmp_path / "out" / "report.html").read_text()
    assert "quadratic kappa on validation patients" in (tmp_path / "out" / "report.html").read_text()
    assert results["points"][0]["differences"]["wide"]["over_seeds_and_patients"]["clusters"] == 2
    assert (results["unit"], results["cases"], results["patients"]) == ("patients", 4, 2)
    assert (
        "on 2 patients, each by the mean probabilities of its cases (4 in all)"
        in (tmp_path / "out" / "table.md").read_text()
    )
    assert any("fewer than 6 patients in split test: ill 1, well 1." in text for text in results["warnings"])
    scored = results["transferability"]["points"][0]["arms"]
    assert scored["from scratch"] == scored["wide"], "the same random weights"
    assert results["transferability"]["points"][0]["correlation"]["logme"]["kendall"] is None


@pytest.mark.integration
def test_a_run_that_fails_is_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(verb: str, arguments: list[str]) -> None:
        if arguments[arguments.index("--labels") + 1] == "1":
            raise MedsslError("no room")
        run_verb(verb, arguments)

    monkeypatch.setattr(study_runs, "run_verb", refuse)
    plan = _plan(tmp_path, labels=[2, 1], trials=[])
    (tmp_path / "app" / "prepare.py").write_text(_UNUSABLE)
    assert _run(plan, tmp_path / "out", "--arms", "[from scratch]") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [point["labels"] for point in results["points"]] == [2]
    failed = [run for run in results["runs"] if run["failed"]]
    assert [(run["labels"], run["seed"], run["failed"]) for run in failed] == [(1, 0, "no room"), (1, 1, "no room")]
    for _ in range(2):  # when it is made, and when the study goes on
        report, told = (tmp_path / "out" / "report.html").read_text(), capsys.readouterr().out
        for sentence in ("2 of 4 runs failed and are in no number", "Some cases could not be prepared"):
            assert sentence in report
            assert sentence in told
        assert "Cases of the study that could not be prepared" in report
        assert "5L.nii.gz is empty" in report
        assert _run(plan, tmp_path / "out", "--arms", "[from scratch]") == 0
    plan = _plan(tmp_path, labels=[1], trials=[])
    capsys.readouterr()
    assert _run(plan, tmp_path / "none", "--arms", "[from scratch]") == 2
    assert "no network could be tested" in capsys.readouterr().err
    plan = _plan(tmp_path, labels=[2, 99], trials=[])
    assert _run(plan, tmp_path / "many") == 2
    assert "99 labelled patients, seed 0: labels 99: there are" in capsys.readouterr().err
    assert not (tmp_path / "many" / "pretrain").exists(), "before anything is pretrained"


@pytest.mark.integration
def test_a_pretraining_that_fails_leaves_the_other_arms_their_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plan, out, run = _plan(tmp_path, labels=[1], trials=[], pairs=[["spark", "longer"]]), tmp_path / "out", run_verb

    def refuse(verb: str, arguments: list[str]) -> None:
        if verb == "pretrain":
            raise RuntimeError("CUDA out of memory")
        run(verb, arguments)

    monkeypatch.setattr(study_runs, "run_verb", refuse)
    assert _run(plan, out) == 0
    results = check_results(out / "results.json")
    assert list(results["pretraining_failed"]) == ["spark", "longer"]
    assert (list(results["points"][0]["arms"]), results["pairs"]) == (["from scratch"], [])
    assert {r["arm"]: "RuntimeError: CUDA out of memory" in r["failed"] for r in results["runs"]} == {
        "from scratch": False, "longer": True, "spark": True,
    }  # fmt: skip
    for told in ((out / "report.html").read_text(), capsys.readouterr().out):
        assert "Not trained, because a pretraining failed: spark, longer; see Failures." in told
        assert "its pretraining failed: RuntimeError: CUDA out of memory" in told
    monkeypatch.setattr(study_runs, "run_verb", run)
    assert _run(plan, out) == 0, "with more room it goes on"
    results = check_results(out / "results.json")
    assert (results["pretraining_failed"], len(results["pairs"])) == ({}, 1)


def test_a_study_says_all_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arms = [
        {"name": "a/b"}, {"name": "c", "longer_as": "nobody"}, {"name": "c", "trials": [{}]},
        {"name": "d", "init": "x", "pretrain": {"config": "mae_vit3d"}},
    ]  # fmt: skip
    plan = _plan(tmp_path, arms=arms, reference="none", labels=[0], seeds=1, metric="quadratic_kappa", pretrainings=4,
                 pairs=[["a/b", "nobody"]])  # fmt: skip
    assert _run(plan, tmp_path / "out") == 2
    told = capsys.readouterr().err
    for part in ("c is there twice", "reference 'none'", "labels 0", "seeds must be 2", "needs class_order",
                 "also a folder's name", "must name an arm with pretrain", "has 1 trials, the others 2",
                 "has init and pretrain", "pretrainings must be 1", "'nobody' is none of the arms"):  # fmt: skip
        assert part in told
    peeking = {"config": "mae_vit3d", "views": {"splits": ["train", "val"]}}
    arms = [
        {"name": "from scratch"}, {"name": "x", "init": "nothing.safetensors", "finetune": {"config": "nowhere"}},
        {"name": "peeks", "pretrain": peeking},
    ]  # fmt: skip
    plan = _plan(tmp_path, arms=arms, app="apps/none")
    assert _run(plan, tmp_path / "out", "--arms", "[y]", "--seeds", "1", "--jobs", "0") == 2
    told = capsys.readouterr().err
    for part in ("'y' is not in the plan", "seeds must be 0", "jobs must be 1", "apps/none does not exist"):
        assert part in told
    assert _run(plan, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "nothing.safetensors does not exist" in told
    assert "nowhere does not exist" in told
    assert "arms: peeks: pretrain: views.splits has val, by whose patients the study chooses or measures" in told
    assert not (tmp_path / "out").exists()


def test_runs_that_would_share_a_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arms = [{"name": "from scratch"}, {"name": "from_scratch"}]
    assert _run(_plan(tmp_path, arms=arms, labels=[2, 1, 2]), tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "labels: 2 is there twice" in told
    assert "arms: from scratch and from_scratch would have one folder: rename one" in told
    (tmp_path / "given.yaml").write_text(yaml.safe_dump({"train": {"lr": 0.01}}))
    arms = [
        {"name": "from scratch"},
        {"name": "own", "trials": [{"train": {"lr": 0.1}}, {"train": {"lr": 0.2}}], "finetune": {"seed": 1}},
        {"name": "fixed", "trials": [{}, {"train": {"lr": TrainOptions.lr}}]},
        {"name": "named", "trials": [{"config": str(tmp_path / "given.yaml")}, {"train": {"lr": 0.01}}]},
    ]
    assert _run(_plan(tmp_path, arms=arms), tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "arms: own: finetune: seed is decided by the study" in told
    same = "two of its trials come to the same options: each needs its own"
    assert [line.strip() for line in told.splitlines() if same in line] == [
        f"- arms: fixed: {same}",
        f"- arms: named: {same}",
    ]
    assert not (tmp_path / "out").exists()


def test_a_study_says_what_is_wrong_with_the_options_of_its_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arms = [
        {"name": "from scratch", "finetune": {"labels": 3}},
        {"name": "spark", "pretrain": {**PRETRAIN, "encoder": {"class_path": "medssl.models.unet.Nothing"}}},
        {"name": "lost", "finetune": {"crops": {"sizes": [8]}}},
        {"name": "classes", "finetune": {"task": "classification", "loss": "ce"}},
        {"name": "damaged", "finetune": {"config": str(tmp_path / "damaged.yaml")}},
        {"name": "head", "finetune": {"network": {"decoder": {"class_path": "medssl.models.decoders.Nobody"}}}},
    ]
    (tmp_path / "damaged.yaml").write_text("train: [")
    trials = [{"train": {"lr": "much"}}]
    plan = _plan(tmp_path, arms=arms, trials=trials, prepare={"split": 3, "spacing": 1}, app=str(tmp_path / "app"))
    assert _run(plan, tmp_path / "out") == 2
    told = capsys.readouterr().err
    for part in (
        "app: option spacing is unknown",
        "arms: from scratch: finetune: labels is decided by the study",
        "arms: from scratch: finetune: option train.lr = 'much'",
        "arms: spark: pretrain: encoder: ",
        "arms: lost: finetune: option crops.sizes is unknown",
        "arms: damaged: finetune: --config",
    ):
        assert part in told
    assert _run(_plan(tmp_path, arms=[arms[3], arms[-1]], reference="head"), tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "arms: classes: finetune: task classification is not what metric dice measures" in told
    assert "arms: head: finetune: network.decoder: " in told
    plan = _plan(tmp_path, arms=[{"name": "from scratch"}, {"name": "b"}], metric="auroc")
    assert _run(plan, tmp_path / "out") == 2
    assert "task segmentation is not what metric auroc measures" in capsys.readouterr().err
    assert _run(_plan(tmp_path, class_order=["a", "b"]), tmp_path / "out") == 2
    assert "class_order is for classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_arms_learn_from_other_images_too_and_never_from_those_that_are_tested(tmp_path: Path):
    volumes = np.random.default_rng(0).integers(0, 200, (2, 20, 18, 6)).astype(np.uint8)
    for number, volume in enumerate(volumes):
        volume[..., 3] = volume[..., 2]  # the copy that curation leaves out
        write_nifti(Volume(volume[None], Geometry(np.eye(4), volume.shape)), tmp_path / "more" / f"v{number}.nii.gz")
    head = {"class_path": "medssl.models.decoders.ClassificationHead"}
    pretrain = {**PRETRAIN, "views": {"size": [16, 16]}}
    write_scans(tmp_path / "scans", 2, classes=("ill", "healthy"))
    for case, copy in (
        ("0L", "ill/a.png"),
        ("5R", "well/b.png"),
    ):  # of splits train and test
        (tmp_path / "pictures" / copy).parent.mkdir(parents=True)
        shutil.copy(tmp_path / "scans" / "images" / f"{case}.png", tmp_path / "pictures" / copy)
    more = {"images": "more", "curate": {"slices": 2, "likeness": {"rule": "dhash", "threshold": 0}}}
    plan = _plan(
        tmp_path, metric="auroc", labels=[2], trials=[], transferability=False,
        finetune={
            "task": "classification", "loss": "ce", "network": {"encoder": ENCODER, "decoder": head},
            "crops": {"size": [16, 16], "foreground": 0}, "train": {"steps": 2, "batch_size": 2},
            "inference": {"choose": "last"},
        },
        image_sets=[
            {"name": "both", **more},
            {"name": "other", "own": False, **more},
            {"name": "pictures", "own": False, "images": "pictures"},
        ],
        arms=[
            {"name": "from scratch"},
            *({"name": name, "images": name, "pretrain": pretrain} for name in ("both", "other", "pictures")),
        ],
    )  # fmt: skip
    (tmp_path / "app" / "prepare.py").write_text(_PREPARE.format(", 2, classes=('ill', 'healthy')"))
    prepared = {"spatial_dims": 2, "intensity": {"kind": "percentile", "low": [1], "high": [99]}}
    content = {"name": "tiny", "prepare": {"workers": 1, "preprocess": prepared}}
    (tmp_path / "app" / "app.yaml").write_text(yaml.safe_dump(content))
    out = tmp_path / "out"
    assert _run(plan, out) == 0
    study = Cache.open(next(out.glob("cache-*/cache.json")).parent)
    training = {case.case for case in study.cases if case.split == "train"}
    for name, own, new in (("both", training, 10), ("other", set(), 10), ("pictures", set(), 1)):
        cases = Cache.open(next((out / "images").glob(f"{name}-*")) / "cache").cases
        others = {case.case for case in cases} - training
        assert {case.case for case in cases} - others == own
        assert len(others) == new, "a slice of each volume is the copy of another, and a picture is tested"
        assert not any(case.class_name or case.has_label for case in cases)
    assert set(_run_arms(out)) == {"from scratch", "both", "other", "pictures"}


def _run_arms(out: Path) -> list[str]:
    return [run["arm"] for run in check_results(out / "results.json")["runs"]]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_record_of_the_data_is_told(tmp_path: Path, content: str):
    claim(tmp_path, tmp_path)
    claim(tmp_path, tmp_path)
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(MedsslError, match="does not say which data"):
        claim(tmp_path, tmp_path)


def test_wrong_sets_of_images_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sets = [{"name": "a", "images": "nowhere"}, {"name": "a/b", "images": "nowhere"}, {"name": "a", "images": "x"}]
    arms = [{"name": "from scratch", "images": "a"}, {"name": "spark", "pretrain": PRETRAIN, "images": "c"}]
    assert _run(_plan(tmp_path, image_sets=sets, arms=arms), tmp_path / "out") == 2
    told = capsys.readouterr().err
    for words in ("a is there twice", "a/b is also a folder's name", "'c' must name one", "from scratch images 'a'"):
        assert words in told
    arms = [{"name": "from scratch"}, {"name": "spark", "pretrain": PRETRAIN, "images": "a"}]
    assert _run(_plan(tmp_path, image_sets=sets[:1], arms=arms), tmp_path / "out") == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    sets = [{"name": "a", "images": ".", "curate": {"likeness": {"rule": "x"}}, "prepare": {"spacing": 1}}]
    assert _run(_plan(tmp_path, image_sets=sets, arms=arms), tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "image_sets: a: curate: option likeness" in told
    assert "image_sets: a: prepare: option spacing is unknown" in told
    assert not (tmp_path / "out").exists()
