"""The one training loop, for pretraining and fine-tuning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lightning.fabric import Fabric
from torch import Tensor, nn

from medssl.imaging.errors import MedsslError
from medssl.training.optimizers import ParameterGroup
from medssl.training.options import TrainOptions
from medssl.training.run_folder import RunFolder

Batch = dict[str, Tensor]


class StepSource(Protocol):
    """Batches as a pure function of their number: `medssl.data.dataset.StepDataset`, or anything with this method."""

    def __getitem__(self, draw: int) -> Batch:
        """Batch number `draw`; the same number gives the same batch, whenever and wherever it is asked for."""


@dataclass(frozen=True)
class Hooks:
    """What a task adds to the loop; all optional.

    Args:
        augment: Pure function of a batch on the device, randomness keyed by `batch["step"]`.
        validate: `validate(module, step)`, called every `validate_every` steps and at the end with the averaged
            weights when there are any, in eval mode and without gradient; its numbers are logged as `val/NAME`.
        monitor: Key of `validate`'s answer; the weights of the step with the highest value are kept as
            `checkpoints/best.safetensors` (first one wins on a tie).
        health: `health(module, step)`, called every `health_every` steps and at the end, as `validate`; logged as
            `health/NAME`.
    """

    augment: Callable[[Batch], Batch] | None = None
    validate: Callable[[nn.Module, int], Mapping[str, float]] | None = None
    monitor: str = ""
    health: Callable[[nn.Module, int], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Args:
        step: Optimiser steps done.
        finished: All steps done; False when the time limit stopped the run, which can then be resumed.
        best_step: Step of `checkpoints/best.safetensors`, 0 without `Hooks.monitor`.
        best_value: Value of the monitored number there.
        seconds: Time of this session.
    """

    step: int
    finished: bool
    best_step: int
    best_value: float
    seconds: float


def launch(options: TrainOptions) -> Fabric:
    """Start the devices; in a distributed run every process comes out of here."""
    raise MedsslError("being built")


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
    """Train `module` for `options.steps` steps, from the run's checkpoint when `resume`.

    `module(batch)` returns `loss` () and detached scalars to log; `module.after_step(step)` is called after each
    optimiser step when the module has it. A batch has `image` floating on the device, after `hooks.augment`.
    The data source must have `parts == fabric.world_size * options.accumulate`.

    Raises:
        TrainingError: The loss is not finite; the batch is saved and the message says where and what to do.
        CheckpointError: The checkpoint cannot be used.
        Interrupted: A signal stopped the run; the checkpoint is written.
    """
    raise MedsslError("being built")
