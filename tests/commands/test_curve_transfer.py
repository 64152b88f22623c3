"""Scores of a study's encoders: what has none is listed, and the others keep theirs."""

import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml
from cohort import ENCODER
from small_cache import small_cache
from small_encoder import small_encoder

from medssl.commands.curve_transfer import transferability
from medssl.commands.study_tuned import Done, Tuned
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.models.component import Overrides


def test_what_cannot_be_scored_is_listed_and_the_study_keeps_its_report(tmp_path: Path) -> None:
    cache = small_cache(tmp_path / "cache", [(12, 12)] * 4, labelled=[True] * 4)
    (tmp_path / "app.yaml").write_text(yaml.safe_dump({"name": "tiny", "prepare": {"workers": 1}}))
    (tmp_path / "prepare.py").touch()
    arms = [
        ArmPlan("scratch"),
        ArmPlan("flat", init="flat"),
        ArmPlan("good", init="good"),
        ArmPlan("lost", init="lost"),
    ]
    options = {"network": {"encoder": ENCODER}, "crops": {"size": [8, 8]}}
    plan = StudyPlan(str(tmp_path), arms, "scratch", [4], "dice", Overrides(options))
    files = {
        "scratch": None,
        "flat": small_encoder(tmp_path / "flat", factor=0.0) / "encoder.safetensors",
        "good": small_encoder(tmp_path / "good") / "encoder.safetensors",
        "lost": small_encoder(tmp_path / "lost") / "encoder.safetensors",
    }
    finished = [Done(Tuned(tmp_path / "out", plan, arm, 4, 0, init=files[arm.name]), 0.5, 0.1) for arm in arms]
    for done in finished:
        done.run.folder.mkdir(parents=True)
        (done.run.folder / "run.json").write_text(json.dumps({"patients": {"train": ["p0", "p1", "p2", "p3"]}}))
    (finished[-1].run.folder / "run.json").write_text("{")
    results = {arm: {"mean": {"estimate": n / 10}} for n, arm in enumerate(files)}
    found = transferability(finished, list(files), cache, [{"labels": 4, "arms": results}])
    assert found["missing"].pop("lost").startswith("JSONDecodeError: "), "whatever it is, the others are scored"
    assert found["missing"] == {
        "flat": "features do not vary over the cases: the encoder collapsed, or there is one case"
    }
    text = resources.files("medssl.evaluation.report").joinpath("results.schema.json").read_text(encoding="utf-8")
    part = {"$defs": json.loads(text)["$defs"], "$ref": "#/$defs/curve/properties/transferability"}
    jsonschema.Draft202012Validator(part).validate(found)
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.Draft202012Validator(part).validate({**found, "surprise": 1})
    assert list(found["points"][0]["arms"]) == ["scratch", "good"]
    assert all(number is not None for own in found["points"][0]["arms"].values() for number in own.values())
