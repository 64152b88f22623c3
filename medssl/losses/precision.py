"""Losses are computed in float32, also where the network is not."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(loss: Callable[P, R]) -> Callable[P, R]:
    """A loss whose matrix products are not made in bf16 by the autocast around it; it converts its inputs itself."""

    @wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        devices = [value.device.type for value in args if isinstance(value, Tensor)]
        with torch.autocast(devices[0], enabled=False):
            return loss(*args, **kwargs)

    return wrapped
