"""Embeddings of all processes; the identity where there is one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """In this block each process computes as if it were the only one: all look at the same samples."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def world_size() -> int:
    """How many processes compute a batch together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _ALONE.get() else 1


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """(B, ...) of each process to (W * B, ...) in the order of ranks, without gradient: for keys and targets."""
    if world_size() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """As `gather`; the gradient of a slice is the sum of those that all processes have for it.

    Where each process takes the mean over its own anchors and gradients are then averaged over processes, as DDP does,
    the result is the gradient of the mean over all anchors.
    """
    return tensor if world_size() == 1 else cast(Tensor, _Gather.apply(tensor))  # type: ignore[no-untyped-call]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum of the processes' tensors, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def max_over_processes(tensor: Tensor) -> Tensor:
    """Largest of the processes' tensors, element by element, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    largest = tensor.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.count = len(tensor)
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = sum_over_processes(gradients[0].contiguous())
        return total[rank() * ctx.count : (rank() + 1) * ctx.count]
