"""What changes during a run: weights, optimiser, average, counters; built, saved, restored."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from safetensors import SafetensorError, safe_open
from torch import nn

from medssl.imaging.errors import CheckpointError
from medssl.models.weights import write_weights
from medssl.training.checkpoints import write_checkpoint
from medssl.training.ema import WeightAverage
from medssl.training.optimizers import ParameterGroup, build_optimizer, parameter_groups, start_momentum
from medssl.training.options import TrainOptions
from medssl.training.run_folder import RunFolder
from medssl.training.sharding import load_whole_state, make_whole, whole_state, whole_weights


@dataclass
class TrainState:
    """The parts of a run that change.

    Args:
        fabric: Devices.
        module: What is trained.
        wrapped: The module as the strategy wants it called.
        optimizer: The optimiser.
        stepper: The optimiser as the strategy wants it stepped.
        groups: Parameters with their rates.
        average: Averaged weights, when asked for.
        step: Optimiser steps done.
        saved_step: Step of the latest checkpoint.
        saved_best: Best step that it names.
        best_step: Step of the best validation.
        best_value: Its monitored value.
        earlier_s: Time of earlier sessions, up to the checkpoint that this one went on from.
        began: When this session began, on the monotonic clock.
    """

    fabric: Fabric
    module: nn.Module
    wrapped: Any
    optimizer: torch.optim.Optimizer
    stepper: Any
    groups: Sequence[ParameterGroup]
    average: WeightAverage | None
    step: int = 0
    saved_step: int = 0
    saved_best: int = 0
    best_step: int = 0
    best_value: float = -math.inf
    earlier_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, over all its sessions."""
        return self.earlier_s + time.monotonic() - self.began


def build(
    fabric: Fabric, module: nn.Module, options: TrainOptions, groups: Sequence[ParameterGroup] | None = None
) -> TrainState:
    """Put the module on its device, with optimiser and average; the module stays the same object."""
    module.to(fabric.device)
    if options.channels_last:
        _to_channels_last(module)
    if options.compile:
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs eagerly instead of ending the run
        module.compile()
    if groups is None:
        groups = parameter_groups(module, options.layer_decay, undecayed_scale=options.undecayed_scale)
    optimizer = build_optimizer(groups, options)
    wrapped, stepper = fabric.setup(module, optimizer)
    start_momentum(optimizer)
    module.train()
    average = WeightAverage(module, options.ema_decay) if options.ema_decay else None
    return TrainState(fabric, module, wrapped, optimizer, stepper, groups, average)


def save(state: TrainState, run: RunFolder) -> None:
    """Write the run's checkpoint; every process must call it."""
    whole = whole_state(state.fabric, _inner(state), state.optimizer)
    if run.writes:
        counters = {name: getattr(state, name) for name in ("step", "best_step", "best_value", "seconds")}
        average = state.average.state_dict() if state.average else {}
        write_checkpoint(run.checkpoint, {**counters, **whole, "average": average})
        for step, file in run.best_files().items():
            if step != state.best_step:
                file.unlink()
    state.saved_step, state.saved_best = state.step, state.best_step
    state.fabric.barrier()


def restore(state: TrainState, content: dict[str, Any]) -> None:
    """Continue from a checkpoint's content.

    Raises:
        CheckpointError: The checkpoint is of another network or optimiser.
    """
    try:
        load_whole_state(state.fabric, _inner(state), state.optimizer, content)
        if state.average is not None:
            state.average.load_state_dict(content["average"])
        state.step, state.best_step = int(content["step"]), int(content["best_step"])
        state.best_value, state.earlier_s = float(content["best_value"]), float(content["seconds"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(
            f"the checkpoint does not fit the network that the options describe ({first}): resume with the run's own "
            "options and the version of medssl that began it",
            reason="checkpoint-mismatch",
        ) from error
    state.saved_step, state.saved_best = state.step, state.best_step


def save_best(state: TrainState, run: RunFolder) -> None:
    """Write the module's present weights as the best ones.

    Of earlier ones those stay that a session which goes on from the checkpoint may want: what the checkpoint names, and
    what was found at its own step.

    Raises:
        MedsslError: No room, or no right to write.
    """
    if run.writes:
        told = {"step": str(state.step), "value": repr(state.best_value)}
        write_weights(run.best(state.best_step), state.module.state_dict(), told)
        for step, file in run.best_files().items():
            if step not in (state.best_step, state.saved_best, state.saved_step):
                file.unlink()


def settle_best(state: TrainState, run: RunFolder) -> None:
    """Bring counters and files of the best weights in line with the checkpoint that was restored, or with a new start.

    The validation at the checkpoint's own step comes after it was written: its weights count. Those of later steps are
    of a session that was killed, which this one need not repeat to the bit when it has other `steps`; they are removed.

    Raises:
        CheckpointError: The weights that the checkpoint names are not there, or damaged.
    """
    if run.writes:
        for step, file in run.best_files().items():
            if step > state.step:
                file.unlink()
    own = run.best(state.step)
    if own.is_file():
        state.best_step, state.best_value = state.step, _value_of(own)
    named = run.best(state.best_step)
    if state.best_step and not named.is_file():
        raise CheckpointError(
            f"{named} is missing, the best weights that the checkpoint of step {state.step} names: put it back, or "
            "start a new run",
            reason="checkpoint-missing",
        )


def _value_of(best: Path) -> float:
    try:
        with safe_open(best, "pt") as file:
            return float(file.metadata()["value"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{best} is damaged ({error}): delete it, and --resume validates that step again",
            reason="checkpoint-damaged",
        ) from error


@contextmanager
def evaluating(state: TrainState) -> Iterator[nn.Module]:
    """The module with averaged weights, whole, in eval mode, without gradient, under the run's precision."""
    modes = {module: module.training for module in state.module.modules()}
    with whole_weights(state.fabric, _inner(state)), torch.no_grad(), state.fabric.autocast():
        state.module.eval()
        try:
            if state.average is None:
                yield state.module
            else:
                with state.average.applied():
                    yield state.module
        finally:
            for module, training in modes.items():
                module.training = training


def finish(state: TrainState) -> None:
    """Give the module the weights that the run ends with: averaged where there is an average, whole on each device."""
    if state.average is not None:
        state.average.install()
    make_whole(state.fabric, _inner(state))


def checkpoint_bytes(module: nn.Module, options: TrainOptions) -> int:
    """Size of a checkpoint: weights, moments, average, buffers."""
    weights: int = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    fixed: int = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    moments = 2 if options.optimizer == "adamw" else 1
    return fixed + weights * (moments + bool(options.ema_decay))


def _inner(state: TrainState) -> nn.Module:
    """The module that holds the weights: the strategy's own where they are split, else the plain one."""
    forward: nn.Module = state.wrapped._forward_module
    return forward if forward.__class__.__name__ == "FullyShardedDataParallel" else state.module


def _to_channels_last(module: nn.Module) -> None:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
