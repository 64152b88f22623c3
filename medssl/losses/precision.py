"""Losses are computed in float32, also where the network is not; float64 stays what it is."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full(values: Tensor) -> Tensor:
    """The values in float32, or as they are in float64."""
    return values if values.dtype == torch.float64 else values.float()


def without_autocast(loss: Callable[P, R]) -> Callable[P, R]:
    """A loss whose matrix products are not made in bf16 by the autocast around it; it converts its inputs itself."""

    @wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        devices = [value.device.type for value in args if isinstance(value, Tensor)]
        with torch.autocast(devices[0], enabled=False):
            return loss(*args, **kwargs)

    return wrapped
