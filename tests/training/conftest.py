"""Trains the toy network, and fine-tunes small ones from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from phantoms import phantom_cache
from smallest_encoders import UNET, VIT
from toys import Blobs, Toy

from medssl.__main__ import main
from medssl.data.cache import Cache
from medssl.models.component import Component
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


@pytest.fixture(scope="module", params=[2, 3])
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return phantom_cache(tmp_path_factory.mktemp("cache"), request.param, 8)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return phantom_cache(tmp_path_factory.mktemp("flat"), 2, 8)


@pytest.fixture
def finetune() -> Callable[..., int]:
    """`finetune(cache, out, kind, **options)` through the command line; names with __ for a dot."""

    def run(cache: Cache, out: Path, kind: str = "unet", **options: Any) -> int:
        encoder = {
            "unet": Component("medssl.models.unet.ResidualUNetEncoder", UNET),
            "vit": Component("medssl.models.vit.ViT", VIT),
        }[kind.removesuffix("_class")]
        given = {
            "network__encoder": encoder.to_json(),
            **({"network__decoder": {"class_path": "medssl.models.decoders.UNETRDecoder"}} if kind == "vit" else {}),
            "crops__size": [16] * cache.spatial_dims,
            "train__steps": 3,
            "train__accelerator": "cpu",
            **({"task": "classification", "loss": "ce"} if kind.endswith("class") else {}),
            **options,
        }
        argv = [f"--{name.replace('__', '.')}={json.dumps(value, default=str)}" for name, value in given.items()]
        return main(["finetune", f"--data={cache.path}", f"--out={out}", *argv])

    return run
