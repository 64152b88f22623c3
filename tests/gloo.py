"""Two gloo processes with something to compute each."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing


def in_two_processes(compute: Callable[[int], Any], folder: Path) -> list[Any]:
    """What each process computes, given its rank; a function of a module, and tensors in plain containers."""
    multiprocessing.spawn(_run, args=(compute, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def as_torchrun(rank: int) -> dict[str, str]:
    """The environment in which torchrun starts one of two processes; another port a call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {name: str(value) for name, value in (ranks | place).items()}


def _run(rank: int, compute: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(compute(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
