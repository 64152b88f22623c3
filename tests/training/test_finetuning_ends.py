"""How fine-tuning ends: folds that belong together, a time limit, a validation that fails, notes that are kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from phantoms import phantom_cache, texture_cache
from safetensors.torch import load_file
from smallest_encoders import UNET

from medssl.data.cache import Cache
from medssl.models.component import Component
from medssl.tasks.model_file import load_model, model_folders

Finetune = Callable[..., int]


def test_folds_make_one_model_each_and_go_on_where_they_stopped(
    finetune: Finetune, flat: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert finetune(flat, run, folds=3, fold=1) == 0
    assert [p.name for p in model_folders(run)] == ["fold_1"]
    assert finetune(flat, run, folds=3) == 2
    assert "already holds a run" in capsys.readouterr().err
    before = (run / "fold_1" / "model.safetensors").stat().st_mtime_ns
    assert finetune(flat, run, folds=3, resume=True) == 0
    assert [p.name for p in model_folders(run)] == ["fold_0", "fold_1", "fold_2"]
    assert (run / "fold_1" / "model.safetensors").stat().st_mtime_ns == before
    patients = [json.loads((p / "run.json").read_text())["patients"]["validation"] for p in model_folders(run)]
    assert sorted(name for fold in patients for name in fold) == [f"p{n}" for n in range(6)]


@pytest.mark.parametrize("other", [{"seed": 5}, {"train__lr": 0.5}, {"labels": 5}])
@pytest.mark.parametrize("resume", [{"resume": True}, {"fold": 1}])
def test_folds_of_one_folder_have_the_same_options(
    finetune: Finetune,
    flat: Cache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    other: dict[str, Any],
    resume: dict[str, Any],
) -> None:
    """Another seed deals the patients out anew: one would be held out twice and another never."""
    run = tmp_path / "run"
    assert finetune(flat, run, folds=3, fold=0) == 0
    assert finetune(flat, run, folds=3, **resume, **other) == 2
    assert "fold_0 is no fold of this run" in capsys.readouterr().err
    assert not (run / "fold_1").exists()


def test_finished_folds_are_prolonged_or_that_nothing_is_due_is_said(
    finetune: Finetune, flat: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert finetune(flat, run, folds=2) == 0
    capsys.readouterr()
    assert finetune(flat, run, folds=2, resume=True) == 0
    assert "nothing to do: fold_0, fold_1" in capsys.readouterr().err
    assert finetune(flat, run, folds=2, train__steps=5, resume=True) == 0
    assert [json.loads((run / f"fold_{n}" / "run.json").read_text())["step"] for n in (0, 1)] == [5, 5]


def test_a_run_of_before_cases_could_be_drawn_evenly_over_patients_goes_on_and_not_otherwise(
    finetune: Finetune, flat: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert finetune(flat, run) == 0
    told = json.loads((run / "run.json").read_text())
    assert told["config"]["crops"].pop("evenly") == "cases"
    (run / "run.json").write_text(json.dumps(told))
    assert finetune(flat, run, train__steps=4, resume=True, crops__evenly="patients") == 2
    assert "crops.evenly: the run has 'cases', now 'patients'" in capsys.readouterr().err
    assert finetune(flat, run, train__steps=4, resume=True) == 0


@pytest.mark.parametrize("kind", ["unet", "unet_class"])
def test_an_unreadable_validation_case_is_named_and_costs_no_step(
    finetune: Finetune, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    made = texture_cache if kind.endswith("class") else phantom_cache
    cache = made(tmp_path / "cache", 2, 8)
    given = {"train__steps": 6, "train__validate_every": 4, "crops__foreground": 0}
    assert finetune(cache, tmp_path / "whole", kind, **given) == 0
    case = cache.select("val")[0].case
    file = cache.path / "cases" / case / "image.b2nd"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    assert finetune(Cache.open(cache.path), tmp_path / "run", kind, **given) == 2
    told = capsys.readouterr().err
    assert f"validation case(s) {case} of the cache cannot be read" in told
    assert "checkpoint of step 4 is written" in told
    file.write_bytes(content)
    assert finetune(Cache.open(cache.path), tmp_path / "run", kind, **given, resume=True) == 0
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_model_of_a_run_whose_time_was_up_says_so(finetune: Finetune, flat: Cache, tmp_path: Path) -> None:
    assert finetune(flat, tmp_path / "run", train__steps=400, train__time_limit_min=1e-9) == 0
    told = load_model(tmp_path / "run")[1].provenance
    assert (told["steps"], told["planned_steps"], told["finished"]) == (1, 400, False)


def test_a_time_limit_ends_the_folds(
    finetune: Finetune, flat: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert finetune(flat, run, folds=3, train__time_limit_min=1e-9) == 0
    assert [path.name for path in run.iterdir()] == ["fold_0"]
    assert "fold_1, fold_2 not begun or not gone on with, go on with --resume" in capsys.readouterr().err
    assert finetune(flat, run, folds=3, resume=True) == 0
    assert [json.loads((run / f"fold_{n}" / "run.json").read_text())["step"] for n in range(3)] == [3, 3, 3]


@pytest.mark.parametrize(
    ("kind", "accumulate", "compares"),
    [("unet", 2, "the Dice of the loss"), ("unet", 1, ""), ("batch", 2, "the Dice of the loss, batch norm")],
)
def test_parts_of_a_batch_that_are_not_the_whole_are_told(
    finetune: Finetune,
    flat: Cache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    accumulate: int,
    compares: str,
) -> None:
    norm = {"norm": "batch"} if kind == "batch" else {}
    encoder = Component("medssl.models.unet.ResidualUNetEncoder", {**UNET, **norm}).to_json()
    given = {"train__accumulate": accumulate, "train__steps": 1, "network__encoder": encoder}
    assert finetune(flat, tmp_path / "run", **given) == 0
    told, kept = capsys.readouterr().err, json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert bool(kept) is bool(compares)
    for note in kept:
        assert f"note: {note}" in told
        assert note.startswith("a step is computed in 2 parts of 2 crops (train.accumulate 2")
        assert f"not of the whole batch: {compares};" in note
