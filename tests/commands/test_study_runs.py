"""Runs of a study that are resumed: what is not whole is not taken for finished."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cohort import ENCODER, FINETUNE, PRETRAIN, make_cache
from small_cache import small_cache

from medssl.commands import study_runs
from medssl.commands.comparison import with_config
from medssl.commands.keys import files_named, key_of
from medssl.commands.study_choices import Choice, _longer, choose, fewer_trials, hours_of, told_of, trials_of
from medssl.commands.study_runs import Encoders, done_runs, is_done, pretrain_arms
from medssl.commands.study_tested import read_tested
from medssl.commands.study_tuned import Done, Tuned, cache_of
from medssl.data.cache import Cache
from medssl.evaluation.benchmark_plan import merged
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.errors import MedsslError
from medssl.models.component import Overrides

_STOPPED = {"train": {"steps": 2, "batch_size": 2, "time_limit_min": 1e-6}}


def _plan(root: Path) -> StudyPlan:
    """A plan and its cache, with trainings whose time is up after a step."""
    (root / "app").mkdir()
    (root / "app" / "prepare.py").touch()
    (root / "app" / "app.yaml").write_text(yaml.safe_dump({"name": "tiny", "prepare": {"workers": 1}}))
    arms = [
        ArmPlan("scratch"),
        ArmPlan("spark", Overrides({**PRETRAIN, **_STOPPED})),
        ArmPlan("longer", longer_as="spark"),
    ]
    plan = StudyPlan(str(root / "app"), arms, "scratch", [2], "dice", Overrides({**FINETUNE, **_STOPPED}))
    made = make_cache(root / "scans")
    shutil.copytree(made.path, cache_of(plan, root / "out"))
    return plan


@pytest.mark.integration
def test_a_training_whose_time_was_up_goes_on_and_is_not_tested_before_its_end(tmp_path: Path):
    plan, out = _plan(tmp_path), tmp_path / "out"
    _with_validation(cache_of(plan, out))
    run = Tuned(out, plan, plan.arms[0], 2, 0)
    (stopped,) = done_runs([run], 2)
    assert "time_limit_min was over before its last step" in stopped.failed
    assert (run.folder / "model.safetensors").is_file()
    assert not (run.folder / "evaluation_test").exists()
    old = {"arms": "of the weights after one step", "split": "test"}
    old["data_sha256"] = Cache.open(cache_of(plan, out)).data_sha256
    (run.folder / "evaluation_test").mkdir()
    (run.folder / "evaluation_test" / "results.json").write_text(json.dumps(old))
    (done,) = done_runs([run], 1)
    record = run.folder.with_name(f"{run.folder.name}-jobs.json")
    assert json.loads(record.read_text()) == {"jobs": 2}, "the most that ran beside it, also while it was stopped"
    assert (done.failed, json.loads((run.folder / "run.json").read_text())["step"]) == ("", 2)
    assert isinstance(_told(run)["arms"], dict)

    developed = replace(run, plan=replace(plan, split="val"))
    assert developed.folder == run.folder, "it is trained once"
    (done,) = done_runs([developed], 1)
    assert not set(read_tested(developed, "val").cases) & set(read_tested(run, "test").cases)
    for other in ({"split": "val"}, {"data_sha256": "0" * 64}):
        (run.folder / "evaluation_test" / "results.json").write_text(json.dumps({**_told(run), **other}))
        (done,) = done_runs([run], 1)
        assert not done.failed
        assert (_told(run)["split"], _told(run)["data_sha256"]) == ("test", old["data_sha256"])

    why = pretrain_arms(plan, plan.arms[1:], tmp_path, out, 1).failed["spark"]
    assert why.startswith("its pretraining failed: pretraining of spark: train.time_limit_min was over")
    (encoder,) = pretrain_arms(plan, plan.arms[1:], tmp_path, out, 1).files["spark"]
    assert json.loads(encoder.with_suffix(".json").read_text())["provenance"]["steps"] == 2


def _with_validation(cache: Path) -> None:
    """Make a labelled patient one to choose by."""
    for side in "LR":
        file = cache / "cases" / f"2{side}" / "case.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "split": "val"}))


def _told(run: Tuned) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.folder / "evaluation_test" / "results.json").read_text())
    return content


def test_another_file_under_the_same_path_is_another_run(tmp_path: Path):
    _app(tmp_path)
    arms = [ArmPlan("scratch"), ArmPlan("given", init="encoder.safetensors")]
    plan = StudyPlan(str(tmp_path), arms, "scratch", [2], "dice", Overrides({"network": {"encoder": ENCODER}}))
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(b"first")
    before = Tuned(tmp_path / "out", plan, arms[1], 2, 0, init=file).folder
    assert Tuned(tmp_path / "out", plan, arms[1], 2, 0, init=file).folder == before
    file.write_bytes(b"other")
    os.utime(file, ns=(0, 0))
    assert Tuned(tmp_path / "out", plan, arms[1], 2, 0, init=file).folder != before


def test_the_first_of_several_pretrainings_is_the_one_that_there_was_alone(tmp_path: Path):
    """Finished ones are taken by the key of their options: the first's are the plan's own, the second's have a seed."""
    _app(tmp_path)
    arm = ArmPlan("spark", Overrides(PRETRAIN))
    plan = StudyPlan(str(tmp_path), [ArmPlan("scratch"), arm], "scratch", [2], "dice", Overrides({}))
    wanted, options = [], with_config(PRETRAIN)
    for own in (options, merged(options, {"train": {"seed": 1}})):
        folder = tmp_path / "out" / "pretrain" / f"spark-{key_of([own, cache_of(plan, tmp_path / 'out').name])}"
        folder.mkdir(parents=True)
        wanted.append(folder / "encoder.safetensors")
        wanted[-1].touch()
        wanted[-1].with_suffix(".json").write_text(json.dumps({"provenance": {"finished": True}}))
    for number in (1, 2):
        made = pretrain_arms(plan, [arm], tmp_path, tmp_path / "out", number)
        assert made.files["spark"] == tuple(wanted[:number])


def _app(root: Path) -> None:
    (root / "prepare.py").touch()
    (root / "app.yaml").write_text(yaml.safe_dump({"name": "tiny", "prepare": {}}))


def _finished(root: Path, failures: list[dict[str, str]], jobs: int = 0) -> Tuned:
    """A run with the files that a finished fine-tuning and its test leave."""
    _app(root)
    arms = [ArmPlan("scratch"), ArmPlan("spark", Overrides(PRETRAIN)), ArmPlan("longer", longer_as="spark")]
    plan = StudyPlan(str(root), arms, "scratch", [2], "dice", Overrides({"network": {"encoder": ENCODER}}))
    run = Tuned(root / "out", plan, arms[2], 2, 0)
    cache = small_cache(cache_of(plan, root / "out"), [(12, 12)])
    evaluated = {"split": "test", "data_sha256": cache.data_sha256, "failures": failures}
    (run.folder / "evaluation_test").mkdir(parents=True)
    (run.folder / "evaluation_test" / "results.json").write_text(json.dumps(evaluated))
    (run.folder / "run.json").write_text(json.dumps({"validation": {"dice": 0.5}}))
    (run.folder / "metrics.jsonl").write_text('{"steps_per_s": 2.0}\n{"steps_per_s": 4.0}\n')
    (run.folder / "model.safetensors").touch()
    (run.folder / "model.json").write_text(json.dumps({"provenance": {"finished": True}}))
    if jobs:
        run.folder.with_name(f"{run.folder.name}-jobs.json").write_text(json.dumps({"jobs": jobs}))
    return run


def test_a_network_without_an_answer_to_a_case_stays_failed_when_the_study_goes_on(tmp_path: Path):
    run = _finished(tmp_path, [{"case": "3L", "reason": "truncated", "message": "it ends early"}])
    (done,) = done_runs([run], 1)
    assert done.failed == "1 case(s) could not be evaluated: 3L: it ends early (truncated)"


def test_the_time_of_a_step_counts_the_jobs_that_ran_beside_it(tmp_path: Path):
    run = _finished(tmp_path, [], jobs=3)
    (done,) = done_runs([run], 1)  # of a call with one job, long after the trial
    assert (done.failed, done.seconds_a_step, done.jobs) == ("", 0.25, 3)
    encoder = tmp_path / "pretrained" / "encoder.safetensors"
    encoder.parent.mkdir()
    encoder.with_suffix(".json").write_text(json.dumps({"provenance": {"device_hours": 0.01}}))
    assert _longer(done, [encoder]) == 1000 + round(36 * 3 / 0.25), (
        "1000 steps, as finetune has it where none are given"
    )
    other = tmp_path / "again" / "encoder.safetensors"
    other.parent.mkdir()
    other.with_suffix(".json").write_text(json.dumps({"provenance": {"device_hours": 0.03}}))
    assert _longer(done, [encoder, other]) == 1000 + round(72 * 3 / 0.25), "the mean time of the pretrainings"


def test_trials_are_judged_by_the_metric_of_the_study(tmp_path: Path):
    """A perfect order whose answers are all one class: AUROC 1, balanced accuracy 1/2."""
    run = replace(_finished(tmp_path, []), trial=0, tested=False)
    plan = replace(run.plan, metric="balanced_accuracy", trials=[Overrides({}), Overrides({})])
    run = replace(run, plan=plan)
    assert math.isnan(next(done_runs([run], 1)).score), "no validation cases"
    shutil.rmtree(cache_of(plan, run.out))
    cache = small_cache(cache_of(plan, run.out), [(12, 12)] * 4, splits=["val"] * 4, classes=["ill", "well"])
    (run.folder / "evaluation_val").mkdir()
    evaluated = {"split": "val", "data_sha256": cache.data_sha256}
    (run.folder / "evaluation_val" / "results.json").write_text(json.dumps(evaluated))
    shares = {"c0": 0.9, "c1": 0.6, "c2": 0.8, "c3": 0.55}
    lines = [f"{case},p,{('ill', 'well')[n % 2]},{share},{1 - share}" for n, (case, share) in enumerate(shares.items())]
    header = "case,patient,class,probability_ill,probability_well"
    (run.folder / "evaluation_val" / "cases.csv").write_text("\n".join([header, *lines]))
    (done,) = done_runs([run], 1)
    assert (done.failed, done.score) == ("", 0.5)
    (done,) = done_runs([replace(run, plan=replace(plan, metric="auroc"))], 1)
    assert (done.failed, done.score) == ("", 1.0)


def test_an_arm_whose_trials_all_failed_is_not_trained_with_options_that_nobody_chose(tmp_path: Path):
    run = _finished(tmp_path, [])
    lost = Done(run, float("nan"), float("nan"), "no room on the disk")
    encoders = Encoders({"longer": (), "scratch": ()})
    assert choose(run.arm, [lost, lost], encoders).failed == (
        "none of its 2 trial(s) could be trained, the first: no room on the disk"
    )
    scratch = run.plan.arms[0]
    assert choose(scratch, [lost], encoders) == Choice(), "it made no choice"
    tried = [replace(lost, run=replace(run, arm=scratch, trial=0)), Done(replace(run, arm=scratch, trial=1), 0.5, 0.1)]
    assert choose(scratch, tried, encoders) == Choice(trial=1)


def _refusing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    """Verbs that are run and fail."""
    asked: list[str] = []

    def refuse(verb: str, arguments: list[str]) -> None:
        asked.append(verb)
        raise error

    monkeypatch.setattr(study_runs, "run_verb", refuse)
    return asked


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (MedsslError("the crops are too large", reason="crop"), "the crops are too large"),
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
        (OSError(28, "No space left"), "OSError: [Errno 28] No space left"),
        (MemoryError("much too large"), "MemoryError: much too large"),
    ],
)
def test_a_training_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
):
    run = _finished(tmp_path, [])
    plan, out = run.plan, tmp_path / "out"
    asked = _refusing(monkeypatch, error)
    for _ in range(2):  # it is tried again: the machine may have more room then
        encoders = pretrain_arms(plan, plan.arms, tmp_path, out, 1)
        assert encoders.files == {"scratch": ()}
        assert encoders.failed == {
            "spark": f"its pretraining failed: {why}",
            "longer": f"the pretraining of spark, whose time it spends, failed: {why}",
        }
    assert asked == ["pretrain"] * 2
    chosen = replace(plan, trials=[Overrides({"train": {"lr": lr}}) for lr in (0.1, 0.2)])
    assert {trial.arm.name for trial in trials_of(chosen, plan.arms, encoders, out)} == {"scratch"}
    assert choose(plan.arms[1], [], encoders).failed == encoders.failed["spark"]
    (done,) = done_runs([replace(run, seed=1)], 1)
    assert done.failed == why


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_whoever_stops_a_study_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException):
    run = _finished(tmp_path, [])
    _refusing(monkeypatch, stop)
    with pytest.raises(type(stop)):
        pretrain_arms(run.plan, run.plan.arms, tmp_path, tmp_path / "out", 1)
    with pytest.raises(type(stop)):
        next(done_runs([replace(run, seed=1)], 1))


def test_a_training_that_diverged_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = _finished(tmp_path, [])
    plan, out, again = run.plan, tmp_path / "out", replace(run, seed=1)
    asked = _refusing(monkeypatch, RuntimeError("tried again"))
    cache = cache_of(plan, out).name
    folder = out / "pretrain" / f"spark-{key_of([with_config(PRETRAIN), cache])}"
    for place in (folder, again.folder):
        place.mkdir(parents=True)
        diverged = {"status": "failed", "error": "DivergedError: loss became nan at step 7"}
        (place / "run.json").write_text(json.dumps(diverged))
    told = f"loss became nan at step 7. It is not tried again: change its options, or remove {folder}"
    assert pretrain_arms(plan, plan.arms, tmp_path, out, 1).failed["spark"] == f"its pretraining failed: {told}"
    (done,) = done_runs([again], 1)
    assert done.failed == told.replace(str(folder), str(again.folder))
    assert asked == []
    (folder / "run.json").write_text(json.dumps({**diverged, "error": "RuntimeError: out of memory"}))
    pretrain_arms(plan, plan.arms, tmp_path, out, 1)
    assert asked == ["pretrain"], "what the machine refused may do another time"


@pytest.mark.integration
def test_pretrainings_side_by_side_count_as_so_many_times_faster(tmp_path: Path):
    whole, out = _plan(tmp_path), tmp_path / "out"
    plan = replace(whole, arms=[whole.arms[0], ArmPlan("spark", Overrides(PRETRAIN))])
    first, second = pretrain_arms(plan, plan.arms, tmp_path, out, 2, jobs=2).files["spark"]
    for file in (first, second):
        assert hours_of(file) == told_of(file)["provenance"]["device_hours"] / 2
        assert "pretrain: done" in file.parent.with_name(f"{file.parent.name}.log").read_text()
    assert pretrain_arms(plan, plan.arms, tmp_path, out, 2, jobs=1).files["spark"] == (first, second)
    assert hours_of(first) == told_of(first)["provenance"]["device_hours"] / 2, "as it ran"


def test_an_encoder_of_another_library_tells_nothing_of_itself(tmp_path: Path):
    assert told_of(tmp_path / "monai.pt") == {"provenance": {}}
    assert hours_of(tmp_path / "monai.pt") is None


def test_arms_chosen_from_fewer_trials_than_the_plan_has_are_told(tmp_path: Path):
    trials = [Overrides({"train": {"lr": lr}}) for lr in (1e-3, 1e-2)]
    arms = [ArmPlan("scratch"), ArmPlan("other")]
    plan = StudyPlan("app", arms, "scratch", [2], "dice", Overrides(FINETUNE), trials=trials)
    tried = [Done(Tuned(tmp_path, plan, arms[0], 2, 0, n, tested=False), 0.5, 1.0, "") for n in (0, 1)]
    tried += [Done(Tuned(tmp_path, plan, arms[1], 2, 0, 0, tested=False), 0.5, 1.0, "")]
    (told,) = fewer_trials(plan, tried, ["scratch", "other"])
    assert told.startswith("Arms that were chosen from fewer trials than the plan has: other (1 of 2)")
    assert fewer_trials(plan, tried, ["scratch"]) == []
    assert fewer_trials(replace(plan, trials=[]), [], ["scratch", "other"]) == []


def test_a_pretraining_that_begins_with_other_weights_is_another(tmp_path: Path):
    start = tmp_path / "start.safetensors"
    keys = []
    for content in (b"one", b"two!"):
        start.write_bytes(content)
        keys.append(key_of(files_named({"init": str(start), "method": {"init_args": {"depth": 2, "list": ["x"]}}})))
    assert keys[0] != keys[1]
    assert files_named({"init": "", "train": {"lr": 1e-3}}) == []


def test_a_run_that_only_tells_the_time_of_a_step_is_done_when_it_is_trained(tmp_path: Path):
    _app(tmp_path)
    plan = StudyPlan(str(tmp_path), [ArmPlan("scratch"), ArmPlan("other")], "scratch", [2], "dice", Overrides(FINETUNE))
    run = Tuned(tmp_path, plan, plan.arms[0], 2, 0, None, tested=False)
    assert not is_done(run)
    run.folder.mkdir(parents=True)
    (run.folder / "model.safetensors").touch()
    (run.folder / "model.json").write_text(json.dumps({"provenance": {"finished": True}}))
    assert is_done(run)
