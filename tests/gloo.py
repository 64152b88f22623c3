"""Two gloo processes with something to compute each."""

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


def _run(rank: int, compute: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(compute(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
