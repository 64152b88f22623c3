"""Trains the toy network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toys import Blobs, Toy

from medssl.training.loop import FitResult, fit, launch
from medssl.training.options import TrainOptions
from medssl.training.run_folder import RunFolder


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., tuple[Toy, FitResult, Path]]:
    def run(name: str = "run", make: Callable[[], Toy] = Toy, **given: Any) -> tuple[Toy, FitResult, Path]:
        hooks, bad, resume = given.pop("hooks", None), given.pop("bad", -1), given.pop("resume", False)
        options = TrainOptions(accelerator="cpu", **{"steps": 6, "batch_size": 4, **given})
        fabric = launch(options)
        folder = RunFolder(tmp_path / name)
        module = make()
        config = {"train": options.to_json()}
        folder.start({"verb": "test", "config": config}, {"train.steps", "train.workers"}, resume)
        result = fit(fabric, module, Blobs(options, bad=bad), options, folder, hooks=hooks, resume=resume)
        return module, result, folder.path

    return run
