"""From the data source to the device: reading ahead, moving, and how long the step waited."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from medssl.training.options import TrainOptions
from medssl.training.signals import ignore_in_worker

Batch = dict[str, Tensor]

_PREFETCH = 4
_DRAWN_FROM = ("step", "index", "spacing_mm", "partner_spacing_mm")


class StepSource(Protocol):
    """Batches as a pure function of their number: `medssl.data.dataset.StepDataset`, or anything with this method."""

    def __getitem__(self, draw: int) -> Batch:
        """Batch number `draw`; the same number gives the same batch, whenever and wherever it is asked for."""


class StepBatches:
    """Iterates over the parts that this process computes, step by step, and measures the waiting; a context manager.

    On leaving the context the reading processes are ended: they ignore signals, so nothing else would end them.

    Args:
        fabric: Devices.
        source: Where batches come from.
        options: Steps, accumulation, workers.
        start: Steps already done.
    """

    def __init__(self, fabric: Fabric, source: StepSource, options: TrainOptions, start: int) -> None:
        self.wait_s = 0.0
        self._parts = options.accumulate
        draws = [d for step in range(start, options.steps) for d in draws_of(fabric, options, step)]
        reading: dict[str, Any] = {}
        if options.workers:
            reading = {"prefetch_factor": _PREFETCH, "worker_init_fn": ignore_in_worker}
        self._loader: Iterator[Batch] = iter(
            DataLoader(
                source,  # type: ignore[arg-type]  # a map-style data set by what it can do
                batch_size=None,
                sampler=draws,
                num_workers=options.workers,
                pin_memory=fabric.device.type == "cuda",
                **reading,
            )
        )

    def __enter__(self) -> "StepBatches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loader = iter(())

    def next_step(self) -> list[Batch]:
        """The parts of the next step, on the CPU."""
        began = time.monotonic()
        parts = [next(self._loader) for _ in range(self._parts)]
        self.wait_s += time.monotonic() - began
        return parts


def draws_of(fabric: Fabric, options: TrainOptions, step: int) -> range:
    """Numbers of the parts of a step, counted from 0, that this process computes."""
    first = (step * fabric.world_size + fabric.global_rank) * options.accumulate
    return range(first, first + options.accumulate)


def to_network(fabric: Fabric, batch: Batch, channels_last: bool, augment: Callable[[Batch], Batch] | None) -> Batch:
    """Move a batch to the device, its image as float32, and augment it there.

    What variations are drawn from stays on the CPU, where they are drawn: reading it back would wait for the device.
    """
    numbers: Batch = {name: batch[name] for name in _DRAWN_FROM if name in batch}
    moved: Batch = fabric.to_device({name: tensor for name, tensor in batch.items() if name not in numbers})
    moved |= numbers
    moved |= {name: moved[name].float() for name in ("image", "partner") if name in moved}
    if augment is not None:
        with torch.no_grad():
            moved = augment(moved)
    if channels_last and moved["image"].dim() in (4, 5):
        layout = torch.channels_last if moved["image"].dim() == 4 else torch.channels_last_3d
        moved["image"] = moved["image"].contiguous(memory_format=layout)
    return moved


def seed_globally(seed: int, draw: int) -> None:
    """Seed torch's global generators for one forward, so that dropout is a function of the step too."""
    torch.manual_seed(int(np.random.SeedSequence((seed, draw)).generate_state(1, np.uint64)[0]))
