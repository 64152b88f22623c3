"""What each of two gloo processes computes of one batch of two views; started by test_processes.py."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from small_networks import small_encoder
from token_views import part_of, view_batch
from torch import Tensor

from medssl.losses.gather import sum_over_processes, world_size
from medssl.methods.barlow_twins import BarlowTwins
from medssl.methods.byol import BYOL
from medssl.methods.dino import DINO
from medssl.methods.moco_v2 import MoCoV2
from medssl.methods.moco_v3 import MoCoV3
from medssl.methods.simclr import SimCLR
from medssl.methods.simsiam import SimSiam
from medssl.methods.swav import SwAV
from medssl.methods.vicreg import VICReg

METHODS: dict[Any, dict[str, Any]] = {
    SimCLR: {"hidden": 16, "width": 8},
    MoCoV2: {"batch_size": 4, "queue": 8, "hidden": 16, "width": 8},
    MoCoV3: {"steps": 100, "hidden": 16, "width": 8},
    BYOL: {"steps": 100, "hidden": 16, "width": 8},
    SimSiam: {"hidden": 16, "bottleneck": 8},
    BarlowTwins: {"width": 16},
    VICReg: {"width": 16},
    SwAV: {"steps": 100, "batch_size": 4, "head": (16, 8, 12), "queue": 8, "shares": (0.0, 0.0)},
    DINO: {"steps": 100, "head": (16, 8, 12)},
}


def found(kind: Any, rows: slice) -> dict[str, Tensor]:
    """Loss, gradients and buffers after two steps of these samples, averaged as DDP averages them."""
    torch.manual_seed(0)
    method = kind(small_encoder("vit", 2), **METHODS[kind])
    batch = part_of(view_batch(), rows)
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


def run(rank: int, folder: str) -> None:
    """Compute this process's half."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own = slice(2 * rank, 2 * rank + 2)
    torch.save({kind.__name__: found(kind, own) for kind in METHODS}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
