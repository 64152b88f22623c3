"""An encoder from elsewhere that has seen the patients whom a study measures on has no place in it."""

import json
from pathlib import Path

import pytest
import yaml
from small_cache import small_cache
from small_encoder import small_encoder

from medssl.commands.study_checks import check_inits
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
    (said,) = check_inits(plan, tmp_path, tmp_path / "out", arms)
    assert said.startswith("Whether patients of split test were in the pretraining of theirs is not known")
    (run / "run.json").write_text(json.dumps({"patients": {"pretraining": ["p0", "p1", "stranger"]}}))
    assert check_inits(plan, tmp_path, tmp_path / "out", arms) == []
    (run / "run.json").write_text(json.dumps({"patients": {"pretraining": ["p0", "p2", "p4"]}}))
    with pytest.raises(ConfigError) as caught:
        check_inits(plan, tmp_path, tmp_path / "out", arms)
    assert [problem.partition(" were")[0] for problem in caught.value.problems] == [
        "arms: theirs: 1 of 1 val patients",
        "arms: theirs: 1 of 2 test patients",
    ]
    assert all("told apart by their names in the manifests" in problem for problem in caught.value.problems)
    assert check_inits(plan, tmp_path, tmp_path / "out", arms[:1]) == []
