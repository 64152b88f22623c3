"""The one training loop, for pretraining and fine-tuning."""

import io
import logging
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TextIO

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from medssl.imaging.errors import CacheError, ConfigError
from medssl.imaging.progress import Progress
from medssl.training.arithmetic import has_bf16
from medssl.training.batches import Batch, StepBatches, StepSource, draws_of, seed_globally, to_network
from medssl.training.checkpoints import read_checkpoint
from medssl.training.damaged_cases import DamagedCases
from medssl.training.divergence import diverged, first_bad, save_batch
from medssl.training.journal import Journal, names_at
from medssl.training.memory import out_of_memory
from medssl.training.optimizers import ParameterGroup, clip_each, set_rates
from medssl.training.options import TrainOptions
from medssl.training.run_folder import RunFolder
from medssl.training.signals import Interrupted, StopSignals
from medssl.training.state import TrainState, build, evaluating, finish, restore, save, save_best, settle_best

_TIME_LIMIT = -1
_ESTIMATE_AFTER = 3


@dataclass(frozen=True)
class Hooks:
    """What a task adds to the loop; all optional.

    Args:
        damaged: Takes note of cases that could not be read, and tells of them where processes meet.
        augment: Pure function of a batch on the device, randomness keyed by `batch["step"]`.
        validate: `validate(module, step)`, called every `validate_every` steps and at the end, with the averaged
            weights when there are any, in eval mode, without gradient, under the run's precision; its numbers are
            logged as `val/NAME`. In a distributed run every process calls it and must get the same numbers, or the same
            CacheError, after which the run has a checkpoint of that step.
        monitor: Key of `validate`'s answer; the weights of the step with the highest value are kept as
            `checkpoints/best-STEP.safetensors` (the first one on a tie).
        health: `health(module, step)`, called before the first step, every `health_every` steps and at the end, as
            `validate`; logged as `health/NAME`.
        before: Called before each step with the number of steps done: sets which layers are in training mode. It must
            depend on this number alone, so that a resumed run does the same.
    """

    damaged: DamagedCases | None = None
    augment: Callable[[Batch], Batch] | None = None
    validate: Callable[[nn.Module, int], Mapping[str, float]] | None = None
    monitor: str = ""
    health: Callable[[nn.Module, int], Mapping[str, float]] | None = None
    before: Callable[[int], None] | None = None


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Args:
        step: Optimiser steps done.
        finished: All steps done; False when the time limit stopped the run, which can then be resumed.
        best_step: Step of `checkpoints/best-STEP.safetensors`, 0 without `Hooks.monitor`.
        best_value: Value of the monitored number there.
        seconds: Time of all sessions; what a killed one did after its last checkpoint is not in it.
    """

    step: int
    finished: bool
    best_step: int
    best_value: float
    seconds: float


@dataclass
class _Window:
    """Numbers of the steps since the last logged line; on the device until they are looked at."""

    began: float = field(default_factory=time.monotonic)
    pending: list[dict[str, Tensor]] = field(default_factory=list)
    seen: list[dict[str, float]] = field(default_factory=list)


def launch(options: TrainOptions) -> Fabric:
    """Start the devices and seed the weights; in a distributed run every process comes out of here.

    A processor that cannot compute in bf16 computes in fp32 instead, see `arithmetic`.

    Raises:
        ConfigError: The devices that are asked for are not there, or cannot work together so.
    """
    for library in ("lightning.fabric", "lightning.pytorch"):  # what they announce is in our own plan
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        fabric = _fabric(options)
        if not has_bf16(fabric.device):
            fabric = _fabric(replace(options, precision="fp32"))
    except (ValueError, MisconfigurationException) as error:
        asked = ", ".join(
            f"{name} {getattr(options, name)}" for name in ("accelerator", "devices", "nodes", "strategy")
        )
        raise ConfigError([f"train.devices: this machine cannot do {asked}: {error}"]) from error
    fabric.launch()
    torch.manual_seed(options.seed)
    return fabric


def _fabric(options: TrainOptions) -> Fabric:
    return Fabric(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=options.strategy,
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
    )


def parts_of(fabric: Fabric, options: TrainOptions) -> int:
    """Parts in which a step's batch is computed: over devices, and one after the other on each."""
    return fabric.world_size * options.accumulate


def fit(
    fabric: Fabric,
    module: nn.Module,
    source: StepSource,
    options: TrainOptions,
    run: RunFolder,
    *,
    hooks: Hooks | None = None,
    groups: Sequence[ParameterGroup] | None = None,
    resume: bool = False,
) -> FitResult:
    """Train `module` for `options.steps` steps, from the run's checkpoint when `resume` and there is one.

    `module(batch)` returns `loss` () and detached scalars to log; the batch also holds `progress` (), the share of the
    steps done. When the module has them, `module.before_step(step)` is called with the gradients of each optimiser
    step, counted from 0, and `module.after_step(step)` after it, counted from 1. After `fit` the module has the
    averaged weights when there are any, whole on each device. Before each forward the global random generators are
    seeded from the run's seed and the batch's number, so that dropout too repeats itself in a resumed run.

    Args:
        fabric: From `launch`.
        module: What is trained.
        source: Batches; must have `parts_of(fabric, options)` parts a step. `image` becomes float32 on the device.
        options: Length, optimiser, house-keeping.
        run: Started run folder.
        hooks: What the task adds.
        groups: Parameters with their rates; by default those of `parameter_groups` with the options' rates.
        resume: Go on from the run's checkpoint.

    Raises:
        DivergedError: The loss or gradient is not finite; the batch is saved and the message says what to do.
        CheckpointError: The checkpoint cannot be used.
        Interrupted: A signal stopped the run; the checkpoint is written.
    """
    hooks = hooks or Hooks()
    state = build(fabric, module, options, groups)
    if resume and run.checkpoint.exists():
        restore(state, read_checkpoint(run.checkpoint))
    first, stop, window = state.step, 0, _Window()
    bar = sys.stderr if fabric.is_global_zero else io.StringIO()
    with (
        StopSignals() as signals,
        Journal(run, state.step) as journal,
        StepBatches(fabric, source, options, state.step) as batches,
        Progress("train", options.steps, "step", state.step, bar) as progress,
    ):
        _first_look(state, hooks, journal)
        _catch_up(state, options, run, hooks, journal)
        begun = window.began = time.monotonic()
        while state.step < options.steps and not stop:
            window.pending.append(train_step(state, _read(batches, hooks), options, hooks))
            if state.step - first == _ESTIMATE_AFTER:
                _say_estimate(bar, (time.monotonic() - begun) / _ESTIMATE_AFTER, options.steps - state.step)
            if _look_due(state, options):
                _look(state, window, source, options, run, hooks)
                stop = _agreed_stop(state, options, signals)
            saving = stop or _every(options.checkpoint_every, state, options)
            if saving or _every(options.log_every, state, options):
                _log(state, window, batches, journal)
            progress.advance(note=f"loss {window.seen[-1]['loss']:.4g}" if window.seen else "")
            if saving:  # before the validation, which may take long, or find a case that cannot be read
                save(state, run)
            if stop <= 0:  # a signal gives little time; the next session looks first
                looked = time.monotonic()
                _evaluate(state, options, run, hooks, journal)
                window.began += time.monotonic() - looked  # no part of a step
    if stop > 0:
        raise Interrupted(stop)
    finish(state)
    return FitResult(state.step, state.step >= options.steps, state.best_step, state.best_value, state.seconds)


def _read(batches: StepBatches, hooks: Hooks) -> list[Batch]:
    parts = batches.next_step()
    if hooks.damaged is not None:
        hooks.damaged.take(parts)
    return parts


def train_step(state: TrainState, parts: list[Batch], options: TrainOptions, hooks: Hooks) -> dict[str, Tensor]:
    """One optimiser step; returns its numbers, still on the device, so that the step waits for nothing."""
    set_rates(state.optimizer, state.groups, state.step, options)
    if hooks.before is not None:
        hooks.before(state.step)
    logs: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        seed_globally(options.seed, int(part["step"]))
        batch = to_network(state.fabric, part, options.channels_last, hooks.augment)
        batch["progress"] = torch.tensor(state.step / options.steps)
        last = number == len(parts) - 1
        with out_of_memory(options.batch_size), state.fabric.no_backward_sync(state.wrapped, enabled=not last):
            outputs = state.wrapped(batch)
            state.fabric.backward(outputs["loss"] / len(parts))
        for name, value in outputs.items():
            logs[name] = logs.get(name, 0.0) + value.detach().float() / len(parts)
    before_step = getattr(state.module, "before_step", None)
    if before_step is not None:
        before_step(state.step)
    if options.clip_each:
        clip_each(state.module, options.clip_each)
    norm = state.fabric.clip_gradients(
        state.wrapped, state.stepper, max_norm=options.clip_norm or float("inf"), error_if_nonfinite=False
    )
    logs["grad_norm"] = torch.zeros(()) if norm is None else norm.detach()
    state.stepper.step()
    state.stepper.zero_grad(set_to_none=True)
    state.step += 1
    after_step = getattr(state.module, "after_step", None)
    if after_step is not None:
        after_step(state.step)
    if state.average is not None:
        state.average.update(state.step)
    return logs


def _every(interval: int, state: TrainState, options: TrainOptions) -> bool:
    return state.step % interval == 0 or state.step == options.steps


def _look_due(state: TrainState, options: TrainOptions) -> bool:
    """Reading a number waits for a GPU and for the other processes, so it is done only where it is needed anyway."""
    if state.fabric.device.type == "cpu" and state.fabric.world_size == 1:
        return True
    intervals = (options.log_every, options.checkpoint_every, options.validate_every, options.health_every)
    return any(_every(interval, state, options) for interval in intervals)


def _look(
    state: TrainState, window: _Window, source: StepSource, options: TrainOptions, run: RunFolder, hooks: Hooks
) -> None:
    """Bring the pending numbers here; end the run when one is not finite, before it can reach a checkpoint.

    Damaged cases are told here as well, in all processes alike.
    """
    if hooks.damaged is not None:
        hooks.damaged.tell(state.fabric)
    values = torch.stack([value for logs in window.pending for value in logs.values()])
    found = iter(state.fabric.all_reduce(values, reduce_op="mean").tolist())  # type: ignore[union-attr]
    fresh = [{name: next(found) for name in logs} for logs in window.pending]
    if bad := first_bad(fresh):
        position, name, value = bad
        step = state.step - len(fresh) + position + 1
        parts = [  # the source is a function of the step: the batch need not have been kept
            to_network(state.fabric, source[draw], options.channels_last, hooks.augment)
            for draw in draws_of(state.fabric, options, step - 1)
        ]
        batch = save_batch(run, step, parts, state.fabric.global_rank)
        raise diverged(run, step, name, value, batch, state.saved_step)
    window.seen.extend(fresh)
    window.pending.clear()


def _agreed_stop(state: TrainState, options: TrainOptions, signals: StopSignals) -> int:
    """Number of the signal that ends the run, -1 for the time limit, 0 to go on; the same in every process."""
    late = options.time_limit_min > 0 and time.monotonic() - state.began >= 60 * options.time_limit_min
    own = signals.received or 0
    if state.fabric.world_size > 1:
        both = torch.tensor([own, int(late)], device=state.fabric.device)
        own, late = state.fabric.all_reduce(both, reduce_op="max").tolist()  # type: ignore[union-attr]
    return own or (_TIME_LIMIT if late else 0)


def _log(state: TrainState, window: _Window, batches: StepBatches, journal: Journal) -> None:
    count, elapsed = len(window.seen), time.monotonic() - window.began
    names = dict.fromkeys(name for row in window.seen for name in row)  # steps of another dimension may have others
    values = {name: [row[name] for row in window.seen if name in row] for name in names}
    means = {name: sum(found) / len(found) for name, found in values.items()}
    journal.write(
        state.step,
        {
            **means,
            "lr": max(
                float(now["lr"])
                for now, group in zip(state.optimizer.param_groups, state.groups, strict=True)
                if not group.steady
            ),
            "steps_per_s": count / max(elapsed, 1e-9),
            "data_wait": batches.wait_s / max(elapsed, 1e-9),
        },
    )
    window.seen, window.began, batches.wait_s = [], time.monotonic(), 0.0


def _evaluate(
    state: TrainState,
    options: TrainOptions,
    run: RunFolder,
    hooks: Hooks,
    journal: Journal,
    done: Collection[str] = (),
) -> None:
    """Look at the network where that is due and not done."""
    if "val" not in done and _every(options.validate_every, state, options):
        _validate(state, run, hooks, journal)
    if "health" not in done and _every(options.health_every, state, options):
        _check_health(state, hooks, journal)


def _validate(state: TrainState, run: RunFolder, hooks: Hooks, journal: Journal) -> None:
    if hooks.validate is None:
        return
    try:
        with evaluating(state) as module:
            values = hooks.validate(module, state.step)
            if hooks.monitor and values[hooks.monitor] > state.best_value:
                state.best_step, state.best_value = state.step, float(values[hooks.monitor])
                save_best(state, run)
        state.fabric.barrier()  # who reads the best weights finds them whole
    except CacheError:
        if state.saved_step < state.step:
            save(state, run)
        raise
    journal.write(state.step, {f"val/{name}": value for name, value in values.items()})


def _catch_up(state: TrainState, options: TrainOptions, run: RunFolder, hooks: Hooks, journal: Journal) -> None:
    """Look at the checkpoint's weights where its session ended between the checkpoint and the look."""
    settle_best(state, run)
    if state.step:
        done = {name.partition("/")[0] for name in names_at(run, state.step)}
        _evaluate(state, options, run, hooks, journal, state.fabric.broadcast(done))


def _first_look(state: TrainState, hooks: Hooks, journal: Journal) -> None:
    """At an untrained network: what later looks are measured by."""
    if not state.step:
        _check_health(state, hooks, journal)


def _check_health(state: TrainState, hooks: Hooks, journal: Journal) -> None:
    if hooks.health is not None:
        with evaluating(state) as module:
            values = hooks.health(module, state.step)
        journal.write(state.step, {f"health/{name}": value for name, value in values.items()})


def duration(seconds: float) -> str:
    """A stretch of time as people say it."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.1f} {unit}"
    return f"about {seconds:.0f} s"


def _say_estimate(bar: TextIO, each: float, left: int) -> None:
    bar.write(f"train: {each:.3g} s a step at first, so {duration(each * left)} for the {left} steps left\n")
