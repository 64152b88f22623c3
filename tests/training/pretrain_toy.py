"""Runs the verb `pretrain` with the toy method, in a process of its own: `pretrain_toy.py CACHE OUT '{options}'`."""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch

from medssl.commands.pretrain import pretrain
from medssl.data.augment_options import ViewAugment
from medssl.imaging.errors import MedsslError
from medssl.models.component import Component
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions


def run(data: Path, out: Path, **given: Any) -> None:
    """Options of `train` by name; others: size, explode_at, init, resume, dry_run, encoder, method."""
    size = tuple(given.pop("size", (8, 8)))
    method = Component("toys.ToyMethod", given.pop("method", {}))
    encoder = Component("toys.ToyEncoder", given.pop("encoder", {}))
    flags = {name: given.pop(name, False) for name in ("resume", "dry_run")} | {"init": given.pop("init", None)}
    augment = ViewAugment(noise_p=0.5, affine_p=0.5, flip_axes=(0,))
    train = TrainOptions(**{"accelerator": "cpu", "steps": 8, "batch_size": 4, "log_every": 4, **given})
    pretrain(data, out, method, encoder, ViewOptions(size, augment=augment), train, **flags)


def start(data: Path, out: Path, environment: dict[str, str], options: dict[str, Any]) -> None:
    """As `run`, in a process that was started with some environment."""
    multiprocessing.set_start_method("fork", force=True)  # readers as a command has them: they end when it is killed
    os.environ.update(environment)
    torch.set_num_threads(1)
    run(data, out, **options)


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))
    except MedsslError as error:
        sys.exit(f"{error.reason}: {error.message}")
