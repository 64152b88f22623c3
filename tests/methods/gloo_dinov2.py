"""What each of two gloo processes computes of one batch of DINOv2; started by test_dinov2.py."""

from typing import Any

import torch
from token_views import part_of, small_vit, view_batch
from torch import Tensor

from medssl.data.mask_ratios import HiddenTokens
from medssl.losses.gather import sum_over_processes, world_size
from medssl.methods.dinov2 import DINOv2

BALANCES = ("sinkhorn", 0.9)
_HIDDEN = (3, 0, 5, 0, 0, 2, 0, 7)  # patches of each view of each sample: the processes have unlike numbers of them


def found(rows: slice, balance: Any) -> dict[str, Tensor]:
    """Loss, gradients and centres after a step of these samples, averaged as DDP averages them."""
    torch.manual_seed(0)
    method: Any = DINOv2(small_vit(), steps=100, head=(16, 8, 12, 10), spread=(balance, 0.1))
    masks = torch.zeros(2, 4, 16, dtype=torch.bool)
    for mask, count in zip(masks.flatten(0, 1), _HIDDEN, strict=True):
        mask[:count] = True
    own = masks[:, rows].flatten(0, 1)
    method.draw = lambda images, step: HiddenTokens.of(own, images.device)
    loss = method(part_of(view_batch(), rows))["loss"]
    loss.backward()
    values = {"loss": loss} | {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    method.after_step(1)
    means = {name: sum_over_processes(value) / world_size() for name, value in values.items()}
    return means | {f"moved.{name}": tensor for name, tensor in method.named_buffers()}


def half(rank: int) -> dict[str, dict[str, Tensor]]:
    """What this process computes of its half."""
    return {str(balance): found(slice(2 * rank, 2 * rank + 2), balance) for balance in BALANCES}
