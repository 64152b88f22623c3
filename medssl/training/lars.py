"""LARS: momentum SGD whose step is, in each tensor, a fixed share of the weights' own length."""

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor


@final
class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling, for large batches.

    You et al., "Large Batch Training of Convolutional Networks", 2017, https://arxiv.org/abs/1708.03888, in the form in
    which self-supervised methods use it (Barlow Twins, MoCo v3): the L2 weight decay is part of the gradient that is
    scaled, and momentum comes after the scaling. Deviation: tokens and position embeddings are spared like biases and
    norms, as with the other optimisers here.

    Args:
        groups: Parameter groups; each says with `adapt` whether weight decay and scaling apply to it.
        lr: Learning rate; far above that of other optimisers.
        momentum: Share of the last step that is kept.
        trust: Length of a step relative to that of the weights, at learning rate 1.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, momentum: float = 0.9, trust: float = 0.001
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all weights that have a gradient; nothing waits for the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if any(p.grad is not None for p in group["params"]):
                self._move(group)
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        updates = [p.grad for p in parameters if p.grad is not None]
        if group["adapt"]:
            updates = list(torch._foreach_add(updates, parameters, alpha=group["weight_decay"]))
            torch._foreach_mul_(updates, _rates(parameters, updates, group["trust"]))
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        moving = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_mul_(moving, group["momentum"])
        torch._foreach_add_(moving, updates)
        torch._foreach_add_(parameters, moving, alpha=-group["lr"])


def _rates(parameters: list[Tensor], updates: list[Tensor], trust: float) -> list[Tensor]:
    """`trust x |weights| / |update|` of each tensor; 1 where either is 0, so that weights can leave 0."""
    own, change = (torch.stack(list(torch._foreach_norm(tensors))) for tensors in (parameters, updates))
    scaled = torch.where((own > 0) & (change > 0), trust * own / change, 1.0)
    return list(scaled.unbind())
