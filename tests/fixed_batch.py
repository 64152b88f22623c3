"""Training a method on one batch, again and again."""

import torch
from torch import Tensor

from medssl.methods.base import Method


def learn(method: Method, batch: dict[str, Tensor], lr: float, steps: int = 40, follow: bool = True) -> list[float]:
    """The losses of `steps` Adam steps on one batch; `follow` calls `after_step`."""
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr)
    losses = []
    for step in range(1, steps + 1):
        loss = method(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        method.before_step(step - 1)
        optimizer.step()
        if follow:
            method.after_step(step)
        losses.append(loss.item())
    return losses
