"""Exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averages a module's parameters over optimiser steps; buffers are taken as they are.

    The decay warms up as `min(decay, (1 + step) / (10 + step))`, so that the average forgets the initial weights.

    Args:
        module: Module that is trained.
        decay: Share of the average that stays at each step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = dict(module.named_parameters())
        self._average = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step`, counted from 1."""
        weight = 1.0 - min(self._decay, (1 + step) / (10 + step))
        average, live = list(self._average.values()), [p.detach() for p in self._live.values()]
        torch._foreach_lerp_(average, live, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights inside the block, and its own again after it."""
        own = {name: p.detach().clone() for name, p in self._live.items()}
        self.install()
        try:
            yield
        finally:
            _copy(own, self._live)

    def install(self) -> None:
        """Give the module the averaged weights for good."""
        _copy(self._average, self._live)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by parameter name."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over saved averages; names and shapes are the module's."""
        _copy(state, self._average)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor] | dict[str, nn.Parameter]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
