"""A loss that is no number stops the run, with what is needed to find out why."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from medssl.imaging.errors import MedsslError
from medssl.models.weights import write_weights
from medssl.training.run_folder import RunFolder


class DivergedError(MedsslError):
    """The loss or the gradient is not finite."""


def first_bad(rows: Sequence[Mapping[str, float]]) -> tuple[int, str, float] | None:
    """Position, name and value of the first loss or gradient norm that is not finite; None when all are."""
    for position, row in enumerate(rows):
        for name in ("loss", "grad_norm"):
            if not math.isfinite(row[name]):
                return position, name, row[name]
    return None


def save_batch(run: RunFolder, step: int, parts: list[dict[str, Tensor]], rank: int) -> str:
    """Write a step's batch, as the network got it, to `diverged/`; returns the path, or why there is none."""
    target = run.path / "diverged" / f"step-{step:07d}-rank-{rank}.safetensors"
    tensors = {
        (name if len(parts) == 1 else f"part_{number}.{name}"): tensor
        for number, part in enumerate(parts)
        for name, tensor in part.items()
    }
    try:
        write_weights(target, tensors, metadata={"step": str(step)})
    except MedsslError as error:
        return f"no file ({error.message})"
    return str(target)


def diverged(run: RunFolder, step: int, name: str, value: float, batch: str, checkpoint_step: int) -> DivergedError:
    """The error that ends the run, with what to do."""
    whole = f"the checkpoint of step {checkpoint_step} is whole" if checkpoint_step else "no checkpoint was written yet"
    return DivergedError(
        f"{name} became {value} at step {step} of {run.path}; the batch is in {batch}, {whole}. Look at the batch for "
        "wrong intensities; otherwise start a new run with a lower --train.lr, more --train.warmup_steps, "
        "--train.clip_norm 1, or --train.precision fp32",
        reason="diverged",
    )
