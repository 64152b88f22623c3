"""Every method goes on after a crash as if there had been none."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_cache import small_cache
from tiny_methods import METHODS, run

from medssl.commands.methods import methods
from medssl.training import loop
from medssl.training.checkpoints import read_checkpoint

_TRAIN = {"checkpoint_every": 3, "health_every": 4, "accumulate": 2}


def test_no_method_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    methods()
    named = re.findall(r"class_path: medssl\.methods\.(\S+)", capsys.readouterr().out)
    mixed = {"uni4eye.Uni4Eye", "intra_inter.IntraInter"}  # test_mixed.py
    assert sorted(set(named) - mixed) == sorted(METHODS)
    assert mixed < set(named)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_crash_changes_nothing(name: str, dims: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(20, 24, 18), (24, 20, 18), (18, 18, 20)]
    data = small_cache(tmp_path / "cache", [shape[:dims] for shape in shapes]).path
    run(data, tmp_path / "whole", name, dims=dims, **_TRAIN)

    def crash(state: loop.TrainState, *given: Any) -> dict[str, torch.Tensor]:
        if state.step == 5:
            raise RuntimeError("the power failed")
        return train_step(state, *given)

    train_step = loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", crash)
        with pytest.raises(RuntimeError, match="power"):
            run(data, tmp_path / "broken", name, dims=dims, **_TRAIN)
    run(data, tmp_path / "broken", name, dims=dims, resume=True, **_TRAIN)
    states = [read_checkpoint(tmp_path / out / "checkpoints" / "last.ckpt")["module"] for out in ("whole", "broken")]
    assert states[0].keys() == states[1].keys()
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key
    kept = [load_file(tmp_path / out / "encoder.safetensors") for out in ("whole", "broken")]
    assert all(torch.equal(tensor, kept[1][key]) for key, tensor in kept[0].items())
