"""What each of two gloo processes computes of one batch of two views; started by test_processes.py."""

from typing import Any

import torch
from small_networks import small_encoder
from small_view_methods import SMALL
from token_views import part_of, view_batch
from torch import Tensor

from medssl.losses.gather import sum_over_processes, world_size


def found(kind: Any, rows: slice) -> dict[str, Tensor]:
    """Loss, gradients and buffers after two steps of these samples, averaged as DDP averages them."""
    torch.manual_seed(0)
    method = kind(small_encoder("vit", 2), **SMALL[kind])
    batch = part_of(view_batch(size=8), rows)
    for name in () if method.local_views else ("local_views",):
        del batch[name]
    for step in (1, 2):  # the second one has the first one's keys in its queue
        method.zero_grad()
        loss = method({**batch, "progress": torch.tensor(0.5)})["loss"]
        loss.backward()
        method.after_step(step)
    values = {"loss": loss} | {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    means = {name: sum_over_processes(value) / world_size() for name, value in values.items()}
    return means | {f"buffer.{name}": tensor for name, tensor in method.named_buffers()}


def half(rank: int) -> dict[str, dict[str, Tensor]]:
    """What this process computes of its half."""
    return {kind.__name__: found(kind, slice(4 * rank, 4 * rank + 4)) for kind in SMALL}
