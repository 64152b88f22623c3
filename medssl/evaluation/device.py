"""Where frozen features and predictions are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from medssl.evaluation.options import Device
from medssl.imaging.errors import ConfigError, MedsslError


def chosen_device(wanted: Device, option: str) -> str:
    """What torch calls the device that is meant.

    Args:
        wanted: `auto` takes a GPU where there is one.
        option: What the user calls it.

    Raises:
        ConfigError: There is no such device here.
    """
    if problems := missing_device(wanted, option):
        raise ConfigError(problems)
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def missing_device(wanted: Device, option: str) -> list[str]:
    """Why a device cannot be used here, and what to do; nothing where it can."""
    if wanted != "cuda" or torch.cuda.is_available():
        return []
    return [f"{option} is cuda, but torch finds no GPU here: use cpu or auto"]


def device_of(network: nn.Module) -> torch.device:
    """Where a network has its weights; the processor where it has none."""
    first = next(network.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def gpu_memory_told() -> Iterator[None]:
    """Tell in words that the memory of a GPU did not suffice for the block.

    Raises:
        MedsslError: It did not.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MedsslError(
            f"the GPU has too little memory for the images that it gets at once ({str(error).splitlines()[0]}): take "
            "a smaller size or fewer images at once, where the command has such an option, or device cpu",
            reason="out-of-memory",
        ) from error
