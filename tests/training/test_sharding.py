"""Weights that are split over processes: what is computed and written is what one process computes and writes."""

import json
from functools import partial
from pathlib import Path

import pytest
import split_runs
import torch
from gloo import in_two_processes
from phantoms import phantom_cache
from safetensors.torch import load_file
from small_cache import small_cache

from medssl.training.checkpoints import read_checkpoint


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `split` and `alone` of the same runs, by two processes and by one."""
    folder = tmp_path_factory.mktemp("runs")
    small_cache(folder / "images", [(20, 24), (24, 20), (18, 18)])
    phantom_cache(folder / "labelled", 2, 6)
    in_two_processes(partial(split_runs.part, folder), folder)
    split_runs.all_runs(folder, folder / "alone", split_runs.ALONE)
    return folder


def _same(runs: Path, name: str) -> None:
    split, alone = (load_file(runs / kind / name) for kind in ("split", "alone"))
    assert split.keys() == alone.keys()
    for key, tensor in alone.items():
        torch.testing.assert_close(split[key], tensor, atol=1e-5, rtol=1e-4, msg=lambda told, key=key: f"{key}: {told}")


@pytest.mark.integration
@pytest.mark.parametrize("optimizer", split_runs.OPTIMIZERS)
def test_the_encoder_file_holds_whole_weights_after_a_resumed_run(runs: Path, optimizer: str) -> None:
    _same(runs, f"{optimizer}/encoder.safetensors")
    saved = read_checkpoint(runs / "split" / optimizer / "checkpoints" / "last.ckpt")
    alone = read_checkpoint(runs / "alone" / optimizer / "checkpoints" / "last.ckpt")
    assert {name: tensor.shape for name, tensor in saved["module"].items()} == {
        name: tensor.shape for name, tensor in alone["module"].items()
    }
    assert len(saved["optimizer"]["state"]) == len(alone["optimizer"]["state"])


@pytest.mark.integration
def test_a_fine_tuned_model_is_scored_and_written_whole(runs: Path) -> None:
    _same(runs, "model/model.safetensors")
    split, alone = (json.loads((runs / kind / "model" / "run.json").read_text()) for kind in ("split", "alone"))
    assert split["kept_step"] == alone["kept_step"]
    assert split["validation"] == pytest.approx(alone["validation"], abs=1e-4)
