"""What a study warns of beside its results, and that these are there whatever comes of its features."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_cache import small_cache

from medssl.commands import study_results
from medssl.commands.study_results import _versions, _warnings, write_study
from medssl.commands.study_runs import Encoders
from medssl.commands.study_tuned import Done, Tuned, cache_of
from medssl.evaluation.study_plan import ArmPlan, Metric, StudyPlan
from medssl.evaluation.study_scores import NetworkScores
from medssl.models.component import Overrides


@pytest.mark.parametrize(("metric", "kind"), [("dice", "label map"), ("auroc", "class")])
def test_test_cases_without_an_answer_are_told(tmp_path: Path, metric: Metric, kind: str):
    """Twelve test cases of which one has no label map, and one no class."""
    classes = ["ill" if n % 2 else "well" for n in range(11)] + [""]
    splits = ["test"] * 12 + ["train"]
    cache = small_cache(
        tmp_path, [(12, 12)] * 13, splits=splits, classes=[*classes, "ill"], labelled=[True] * 11 + [False] * 2
    )
    plan = StudyPlan("app", [ArmPlan("a"), ArmPlan("b")], "a", [1], metric)
    found = _warnings(plan, cache, {f"p{n}" for n in range(11)})
    assert found[-1].startswith(f"1 of 12 cases of split test have no {kind} and are in no number (c11)")
    assert len(found) == (1 if metric == "dice" else 2)


def test_results_are_there_before_features_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def tested(run: Tuned, split: str) -> NetworkScores:
        cases, patients = ("c1", "c2"), ("p1", "p2")
        return NetworkScores(run.arm.name, run.labels, run.seed, cases, patients, np.array([0.5, 0.6]))

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "prepare.py").touch()
    (tmp_path / "app.yaml").write_text(yaml.safe_dump({"name": "tiny", "prepare": {}}))
    arms = [ArmPlan("a"), ArmPlan("b")]
    plan, out = StudyPlan(str(tmp_path), arms, "a", [1], "dice"), tmp_path / "out"
    small_cache(cache_of(plan, out), [(8, 8)] * 3, splits=("train", "test", "test"), labelled=[True] * 3)
    finished = [Done(Tuned(out, plan, arm, 1, seed), 0.5, 0.1) for arm in arms for seed in range(2)]
    monkeypatch.setattr(study_results, "read_tested", tested)
    monkeypatch.setattr(study_results, "transferability", killed)
    with pytest.raises(KeyboardInterrupt):
        write_study(plan, out, finished, [], Encoders({"a": (), "b": ()}), [])
    found = json.loads((out / "results.json").read_text())
    assert (found["points"][0]["labels"], found["transferability"]) == (1, None)


def test_runs_of_several_states_of_the_package_are_told(tmp_path: Path):
    (tmp_path / "prepare.py").touch()
    (tmp_path / "app.yaml").write_text(yaml.safe_dump({"name": "tiny", "prepare": {}}))
    plan = StudyPlan(str(tmp_path), [ArmPlan("a"), ArmPlan("b")], "a", [1], "dice")
    finished = [Done(Tuned(tmp_path, plan, arm, 1, 0), 0.5, 0.1) for arm in plan.arms]
    for done, commit in zip(finished, ("aaa", "bbb"), strict=True):
        done.run.folder.mkdir(parents=True)
        session = {"versions": {"medssl": "0.1.0"}, "commit": commit}
        (done.run.folder / "run.json").write_text(json.dumps({"sessions": [session]}))
    (told,) = _versions(finished, Encoders({"a": (), "b": ()}))
    assert "(medssl 0.1.0, commit aaa: a; medssl 0.1.0, commit bbb: b)" in told
    assert _versions(finished[:1], Encoders({"a": ()})) == []


def test_options_chosen_on_the_patients_that_are_measured_are_told(tmp_path: Path):
    cache = small_cache(tmp_path, [(12, 12)] * 3, splits=["train", "val", "val"], labelled=[True] * 3)
    plan = StudyPlan("app", [ArmPlan("a"), ArmPlan("b")], "a", [1], "dice", split="val", trials=[Overrides({})])
    assert any(
        text.startswith("Options were chosen on the patients of split val") for text in _warnings(plan, cache, ())
    )
