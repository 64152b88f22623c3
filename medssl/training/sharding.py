"""Weights and optimiser state as one whole, also where strategy fsdp splits them over devices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.fsdp import FSDPStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel


def is_sharded(fabric: Fabric) -> bool:
    """Whether each device holds only a part of the weights."""
    return isinstance(fabric.strategy, FSDPStrategy)


def whole_state(fabric: Fabric, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`module` and `optimizer` state; in a sharded run every process must call it, and the first gets the whole."""
    if not is_sharded(fabric):
        return {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
    weights, moments = get_state_dict(module, optimizer, options=_options(fabric))
    return {"module": weights, "optimizer": moments}


def load_whole_state(
    fabric: Fabric, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Inverse of `whole_state`."""
    if not is_sharded(fabric):
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        return
    set_state_dict(
        module,
        optimizer,
        model_state_dict=state["module"],
        optim_state_dict=state["optimizer"],
        options=_options(fabric),
    )


@contextmanager
def whole_weights(fabric: Fabric, module: nn.Module) -> Iterator[None]:
    """Every device holds all weights inside the block, so that parts of the module can be called on their own."""
    if not is_sharded(fabric):
        yield
        return
    with FullyShardedDataParallel.summon_full_params(module, writeback=False):
        yield


def make_whole(fabric: Fabric, module: nn.Module) -> None:
    """Give every device all weights for good, once training is over; every process must call it.

    Without it a parameter is, outside forward and `whole_weights`, a slice of it or nothing.
    """
    if not is_sharded(fabric):
        return
    with whole_weights(fabric, module):
        whole = [parameter.detach().clone() for parameter in module.parameters()]
    for parameter, weights in zip(module.parameters(), whole, strict=True):
        parameter.data = weights


def _options(fabric: Fabric) -> StateDictOptions:
    """The first process gets it all, on its CPU; in a run on CPUs every process, since torch has nothing to move there
    and would free the weights while they are copied.
    """
    return StateDictOptions(full_state_dict=True, cpu_offload=fabric.device.type != "cpu")
