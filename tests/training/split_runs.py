"""Runs on two processes that hold a part of the weights each; started by test_sharding.py."""

import json
import os
from pathlib import Path
from typing import Any

import tiny_methods
import torch
from gloo import as_torchrun
from lightning.fabric.strategies import STRATEGY_REGISTRY, FSDPStrategy
from smallest_encoders import UNET
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from medssl.__main__ import main

OPTIMIZERS = ("adamw", "sgd")
ALONE = {"accelerator": "cpu", "accumulate": 2}
_SPLIT = {"accelerator": "cpu", "devices": 2, "strategy": "fsdp_on_cpu"}


class _OnCPU(FSDPStrategy):
    """Strategy fsdp where there is no GPU: torch must be told so, and Lightning does not tell it."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(module, device_id=torch.device("cpu"), **self._fsdp_kwargs)


STRATEGY_REGISTRY.register("fsdp_on_cpu", _OnCPU)


def pretrain(cache: Path, out: Path, optimizer: str, shared: dict[str, Any]) -> None:
    """Stopped and resumed once."""
    for steps in (2, 4):
        given = {"steps": steps, "health_every": 3, "optimizer": optimizer, **shared}
        tiny_methods.run(cache, out, "mae.MAE", resume=steps > 2, **given)


def finetune(cache: Path, out: Path, shared: dict[str, Any]) -> None:
    """The best of two validations is kept."""
    options = {
        "network.encoder": {"class_path": "medssl.models.unet.ResidualUNetEncoder", "init_args": UNET},
        "crops.size": [16, 16],
        **{f"train.{name}": value for name, value in {"steps": 4, "validate_every": 2, **shared}.items()},
    }
    argv = [f"--{name}={json.dumps(value)}" for name, value in options.items()]
    if main(["finetune", f"--data={cache}", f"--out={out}", *argv]):
        raise RuntimeError("the fine-tuning failed")


def all_runs(folder: Path, out: Path, shared: dict[str, Any]) -> None:
    """Each kind of run, from the caches in a folder."""
    for optimizer in OPTIMIZERS:
        pretrain(folder / "images", out / optimizer, optimizer, shared)
    finetune(folder / "labelled", out / "model", shared)


def part(folder: Path, rank: int) -> dict[str, Any]:
    """What one of two processes does."""
    os.environ.update(as_torchrun(rank))
    all_runs(folder, folder / "split", _SPLIT)
    return {}
