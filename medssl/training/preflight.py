"""Before a run starts: how long it will take, what memory it needs, and which batch would still fit.

A few steps are done on a copy of the module, so that the run that follows is what it would have been.
"""

import copy
import math
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil
import torch
from lightning.fabric import Fabric
from torch import nn

from medssl.imaging.errors import ConfigError
from medssl.training.batches import StepBatches, StepSource
from medssl.training.loop import Hooks, duration, train_step
from medssl.training.memory import TooLittleMemoryError
from medssl.training.options import TrainOptions
from medssl.training.state import build

_STEPS = 3  # of the full batch; the last one is timed
_SPARE = 0.9  # share of the memory that is to be used at most
_SLACK = 2**24  # bytes; a smaller difference between two batches says nothing of a third


@dataclass(frozen=True)
class Estimate:
    """What a run will need.

    Args:
        loss: Of the last measured step.
        step_s: Seconds a step.
        peak_bytes: Largest memory of this process (CPU) or device (CUDA) so far.
        fitting_batch: Largest batch that should fit, over all devices; None where the measurements do not tell.
    """

    loss: float
    step_s: float
    peak_bytes: int
    fitting_batch: int | None

    def told(self, steps: int, devices: int, kind: str) -> str:
        """For the person at the console."""
        left = self.step_s * steps
        batch = "" if self.fitting_batch is None else f"; a batch of about {self.fitting_batch} should still fit"
        where = "GPU" if kind == "cuda" else "host"
        return (
            f"loss {self.loss:.4g}, {self.step_s:.3g} s a step, {duration(left)} for {steps} steps = "
            f"{left * devices / 3600:.2g} {'GPU' if kind == 'cuda' else 'device'}-hours on {devices}; "
            f"{where} memory up to {self.peak_bytes / 2**30:.1f} GiB{batch}"
        )


def measure(
    fabric: Fabric, module: nn.Module, source_of: Callable[[int], StepSource], train: TrainOptions, hooks: Hooks
) -> Estimate:
    """Do a step of half the batch and a few of the whole one, on a copy.

    Args:
        fabric: Devices.
        module: What will be trained; it is not touched.
        source_of: Batches of the size given, over all parts.
        train: The run's options.
        hooks: How batches are varied.

    Raises:
        ConfigError: The whole batch does not fit into memory; says which one does.
    """
    parts = fabric.world_size * train.accumulate
    half = train.batch_size // 2 // parts * parts
    if fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(fabric.device)
    peaks: dict[int, int] = {}
    loss = seconds = 0.0
    for size in (half, train.batch_size):
        if size < 2 * parts and size != train.batch_size:
            continue
        count = min(_STEPS, train.steps) if size == train.batch_size else 1
        try:
            loss, seconds = _steps(fabric, module, source_of, replace(train, batch_size=size), hooks, count)
        except TooLittleMemoryError as error:
            fits = max(peaks, default=None) or _smaller(fabric, module, source_of, train, hooks)
            told = f"a batch of {fits} does fit" if fits else f"not even one of {parts} fits"
            raise ConfigError([f"train.batch_size: {error.message}; {told}"]) from error
        peaks[size] = _peak(fabric)
    return Estimate(loss, seconds, peaks[train.batch_size], _fitting(peaks, train.batch_size, parts, _limit(fabric)))


def _smaller(
    fabric: Fabric, module: nn.Module, source_of: Callable[[int], StepSource], train: TrainOptions, hooks: Hooks
) -> int | None:
    """A batch that fits where half of the run's does not: a half of that, and so on; None where none does."""
    parts = fabric.world_size * train.accumulate
    size = train.batch_size // 4 // parts * parts
    while size:
        with suppress(TooLittleMemoryError):
            _steps(fabric, module, source_of, replace(train, batch_size=size), hooks, 1)
            return size
        size = size // 2 // parts * parts
    return None


def _steps(
    fabric: Fabric,
    module: nn.Module,
    source_of: Callable[[int], StepSource],
    options: TrainOptions,
    hooks: Hooks,
    count: int,
) -> tuple[float, float]:
    """Loss and seconds of the last of some steps, on a copy."""
    state = build(fabric, copy.deepcopy(module), options)
    loss = seconds = 0.0
    with StepBatches(fabric, source_of(options.batch_size), replace(options, workers=0), 0) as batches:
        state.step = options.steps - count  # the end of a run: queues and late stages are in use
        for _ in range(count):
            began = time.monotonic()
            loss = float(train_step(state, batches.next_step(), options, hooks)["loss"])
            seconds = time.monotonic() - began
    return loss, seconds


def _fitting(peaks: dict[int, int], whole: int, parts: int, limit: int) -> int | None:
    """Batch at which memory, which grows along a line, reaches the limit; a whole number of parts."""
    other = next((size for size in peaks if size != whole), None)
    if other is None or peaks[whole] - peaks[other] < _SLACK:
        return None
    each = (peaks[whole] - peaks[other]) / (whole - other)
    room = (_SPARE * limit - peaks[whole]) / each
    return max(math.floor((whole + room) / parts) * parts, parts)


def _peak(fabric: Fabric) -> int:
    if fabric.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(fabric.device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit(fabric: Fabric) -> int:
    """What this process may use at most."""
    if fabric.device.type == "cuda":
        return int(torch.cuda.get_device_properties(fabric.device).total_memory)
    return int(psutil.virtual_memory().available) + int(psutil.Process().memory_info().rss)
