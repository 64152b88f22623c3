"""Files of the cache that are cut or damaged while a run goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pretrain_toy
import pytest
import torch
from safetensors.torch import load_file
from small_cache import small_cache

from medssl.commands.pretrain import pretrain
from medssl.data.cache import Cache
from medssl.data.dataset import CropPlan, StepDataset
from medssl.data.view_groups import Partner
from medssl.imaging.errors import CacheError
from medssl.models.component import Component
from medssl.training.health_check import HealthCheck
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions

_METHOD = Component("medssl.methods.spark.SparK", {"block": 4})
_ENCODER = Component("medssl.models.unet.ResidualUNetEncoder", {"features": [4, 8], "blocks": [0, 1]})


def _damage(cache: Cache, case: str, kind: str = "image", cut: bool = False) -> None:
    path = cache.path / "cases" / case / f"{kind}.b2nd"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(b ^ 0xFF for b in content[middle : middle + 200])
    path.write_bytes(content[:middle] if cut else content)


def _cache(path: Path, cases: int = 4) -> Cache:
    return small_cache(path, [(40, 40)] * cases, splits=["train"] * cases)


def _run(cache: Cache, out: Path, resume: bool = False, **given: int) -> None:
    options = {"steps": 8, "batch_size": 2, "checkpoint_every": 4, "workers": 0, **given}
    train = TrainOptions(accelerator="cpu", lr=0.01, **options)
    pretrain(cache.path, out, _METHOD, _ENCODER, ViewOptions((16, 16), min_std=0), train, resume=resume)


@pytest.mark.parametrize("cut", [True, False])
def test_another_case_stands_in_and_the_number_is_told(tmp_path: Path, cut: bool):
    cache = _cache(tmp_path)
    source = StepDataset(cache, cache.cases, CropPlan((16, 16), 4))
    whole = source[0]
    assert "damaged" not in whole
    _damage(cache, "c2", cut=cut)  # while the file is open
    parts = [StepDataset(Cache.open(tmp_path), cache.cases, CropPlan((16, 16), 4))[0], source[0]]
    for part in parts:
        assert part["damaged"].tolist() == [2]
        assert 2 not in part["patient"]
        same = [bool(torch.equal(a, b)) for a, b in zip(part["image"], whole["image"], strict=True)]
        assert sorted(same) == [False, True, True, True]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_names_them_once_and_goes_on_bit_for_bit(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
):
    cache = _cache(tmp_path / "cache")
    _damage(cache, "c1")
    _run(cache, tmp_path / "whole", workers=workers)
    assert capsys.readouterr().err.count("case(s) c1 of the cache cannot be read") == 1
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["damaged_cases"] == ["c1"]
    _run(cache, tmp_path / "cut", steps=8, time_limit_min=1e-9)
    _run(cache, tmp_path / "cut", resume=True)
    whole, again = (load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_too_many_end_the_run_with_their_names(tmp_path: Path):
    cache = _cache(tmp_path / "cache")
    for case in ("c0", "c3"):
        _damage(cache, case, cut=True)
    with pytest.raises(CacheError, match="2 cases of the cache cannot be read: c0, c3"):
        _run(cache, tmp_path / "run", damaged_cases=1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["damaged_cases"] == ["c0", "c3"]
    for case in ("c1", "c2"):
        _damage(cache, case)
    with pytest.raises(CacheError, match=r"no case of splits \['train'\] can be read"):
        _run(cache, tmp_path / "other")


def test_cases_that_are_only_looked_at_are_named_and_count_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    splits = ["train"] * 3 + ["val"] * 3
    cache = small_cache(tmp_path / "cache", [(40, 40)] * 6, splits=splits)
    _damage(cache, "c4")
    _run(cache, tmp_path / "run")
    assert capsys.readouterr().err.count("case(s) c4 of the cache cannot be read") == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["damaged_cases"] == ["c4"]
    _damage(cache, "c5")
    with pytest.raises(CacheError, match="2 cases of the cache cannot be read: c4, c5"):
        _run(cache, tmp_path / "other", damaged_cases=1)
    told = json.loads((tmp_path / "other" / "run.json").read_text())
    assert (told["status"], told["damaged_cases"]) == ("failed", ["c4", "c5"])
    _damage(cache, "c3")
    with pytest.raises(CacheError, match=r"no case of splits \['val'\] can be read"):
        _run(cache, tmp_path / "third")


@pytest.mark.parametrize("partner", ["same", "patient"])
def test_the_health_check_has_as_many_crops_of_the_cases_that_can_be_read(tmp_path: Path, partner: Partner):
    cache = small_cache(tmp_path, [(30, 30)] * 4, splits=["val"] * 4, patients=["a", "a", "b", "b"])
    plan = CropPlan((16, 16), 2, partner=partner)
    for damaged in ([], ["c1"], ["c1", "c3"]):
        for case in damaged[-1:]:
            _damage(cache, case)
        check = HealthCheck(Cache.open(tmp_path), cache.cases, plan, None, torch.device("cpu"))
        assert list(check.damaged) == damaged
        assert len(check._crops) == 16
        shown = {float(crop["image"].min()) // 1000 for crop in check._crops}
        assert shown == {0, 1, 2, 3} - {int(case[1]) for case in damaged}
        assert [crop["image"].min() // 2000 for crop in check._crops] == ["ab".index(p) for p in check._patients]


def test_a_resumed_run_counts_those_of_its_earlier_sessions(tmp_path: Path):
    cache = _cache(tmp_path / "cache")
    _damage(cache, "c1")
    _run(cache, tmp_path / "run")
    _damage(cache, "c1")  # turned back: the second session does not meet it
    _damage(cache, "c3")
    with pytest.raises(CacheError, match="2 cases of the cache cannot be read: c1, c3"):
        _run(cache, tmp_path / "run", steps=16, resume=True, damaged_cases=1)


def test_two_processes_count_together_and_end_together(tmp_path: Path):
    cache = _cache(tmp_path / "cache", cases=8)
    for case in ("c2", "c5"):
        _damage(cache, case)
    options = json.dumps({"devices": 2, "strategy": "ddp", "damaged_cases": 1, "steps": 400, "log_every": 1})
    command = [sys.executable, pretrain_toy.__file__, str(cache.path), str(tmp_path / "run"), options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "bad-cache: 2 cases of the cache cannot be read: c2, c5" in done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["damaged_cases"] == ["c2", "c5"]


def test_damaged_foreground_and_label_are_named(tmp_path: Path):
    cache = small_cache(tmp_path, [(40, 40)] * 2, labelled=[True, True])
    _damage(cache, "c0", "label", cut=True)
    with pytest.raises(CacheError, match=r"c0/label\.b2nd is missing or damaged"):
        cache.label(cache.cases[0])
    (tmp_path / "cases" / "c1" / "foreground.npz").write_bytes(b"PK")
    with pytest.raises(CacheError, match=r"c1/foreground\.npz is missing or damaged"):
        cache.foreground(cache.cases[1])
