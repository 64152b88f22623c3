"""An encoder from elsewhere that has seen the patients whom a study measures on has no place in it."""

import json
from pathlib import Path

import pytest
import yaml
from small_cache import small_cache
from small_encoder import small_encoder

from medssl.commands.study_checks import check_seen, given_encoders
from medssl.commands.study_runs import cache_of
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.errors import ConfigError
from medssl.models.component import Overrides


def test_an_encoder_that_has_seen_val_or_test_patients_is_refused(tmp_path: Path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.yaml").write_text(yaml.safe_dump({"name": "tiny", "prepare": {"workers": 1}}))
    (tmp_path / "app" / "prepare.py").touch()
    arms = [ArmPlan("scratch"), ArmPlan("theirs", init="theirs/encoder.safetensors")]
    plan = StudyPlan(str(tmp_path / "app"), arms, "scratch", [2], "dice", Overrides({}))
    small_cache(cache_of(plan, tmp_path / "out"), [(8, 8)] * 5, splits=("train", "train", "val", "test", "test"))
    run = small_encoder(tmp_path / "theirs")
    files = given_encoders(arms, tmp_path)
    assert files == {"theirs": [tmp_path / "theirs" / "encoder.safetensors"]}
    (said,) = check_seen(plan, tmp_path / "out", files)
    assert said.startswith("Whether patients of split test were in the pretraining of theirs is not known")
    (run / "run.json").write_text(json.dumps({"patients": {"pretraining": ["p0", "p1", "stranger"]}}))
    assert check_seen(plan, tmp_path / "out", files) == []
    (run / "run.json").write_text(json.dumps({"patients": {"pretraining": ["p0", "p2", "p4"]}}))
    with pytest.raises(ConfigError) as caught:
        check_seen(plan, tmp_path / "out", files)
    assert [problem.partition(" were")[0] for problem in caught.value.problems] == [
        "arms: theirs: 1 of 1 val patients",
        "arms: theirs: 1 of 2 test patients",
    ]
    assert all("told apart by their names in the manifests" in problem for problem in caught.value.problems)
    assert given_encoders(arms[:1], tmp_path) == {}


def test_an_encoder_that_a_pretraining_begins_with_is_looked_at(tmp_path: Path):
    config = tmp_path / "on.yaml"
    config.write_text(yaml.safe_dump({"init": str(tmp_path / "theirs.safetensors")}))
    arms = [ArmPlan("on", pretrain=Overrides({"config": str(config)})), ArmPlan("new", pretrain=Overrides({"seed": 1}))]
    assert given_encoders(arms, tmp_path) == {"on": [tmp_path / "theirs.safetensors"]}
