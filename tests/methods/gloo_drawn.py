"""What each of two gloo processes computes where a method draws for its batch; started by test_processes.py.

A part of a batch draws for itself, so the draws are given: those of one process for the whole batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from small_networks import small_encoder
from token_views import part_of, small_vit, view_batch
from torch import Tensor

from medssl.data.corruption import Corruption
from medssl.data.mask_ratios import HiddenTokens
from medssl.losses.gather import sum_over_processes, world_size
from medssl.methods.dinov2 import DINOv2
from medssl.methods.ibot import IBOT
from medssl.methods.mae import MAE
from medssl.methods.simmim import SimMIM
from medssl.methods.sit import SiT
from medssl.methods.swin_unetr import SwinUNETRPretraining

_HIDDEN = (3, 0, 5, 0, 0, 2, 0, 7)  # patches of each view of each sample: the processes have unlike numbers of them


def _masked(method: Any, rows: slice) -> Any:
    masks = torch.zeros(2, 4, 16, dtype=torch.bool)
    for mask, count in zip(masks.flatten(0, 1), _HIDDEN, strict=True):
        mask[:count] = True
    own = masks[:, rows].flatten(0, 1)
    method.draw = lambda images, step: HiddenTokens.of(own, images.device)
    return method


def _sit(rows: slice) -> Any:
    method = SiT(small_vit(registers=1), steps=100, head=(16, 8), weights=(1.0, 0.5))
    clean, drawn, turns = method._draw(view_batch()["views"], 3)
    number = torch.arange(len(clean[0][rows]))
    own = [Corruption(d.mask[rows], number, d.shift[rows], d.seeds[rows]) for d in drawn]
    views, turned = [view[rows] for view in clean], turns.unflatten(0, (2, -1))[:, rows].flatten()
    method._draw = lambda *_: (views, own, turned)  # type: ignore[method-assign]
    return method


def _swin_unetr(rows: slice) -> Any:
    method = SwinUNETRPretraining(small_encoder("swin", 2), width=8)
    drawn = method._draw(view_batch()["image"], 3)
    own = tuple(one.unflatten(0, (2, -1))[:, rows].flatten(0, 1) for one in drawn)
    method._draw = lambda *_: own  # type: ignore[method-assign,assignment,return-value]
    return method


def _mae(rows: slice) -> Any:
    """Patches that do not count are another number in each half."""
    method = MAE(small_vit(), decoder=(12, 1, 2), min_patch_std=1.2)
    own = tuple(part[rows] for part in method._draw(view_batch()["image"], 3))
    method._draw = lambda *_: own  # type: ignore[method-assign,assignment,return-value]
    return method


def _simmim(rows: slice) -> Any:
    """The body is larger in one half."""
    method = SimMIM(small_encoder("swin", 2), block=4, foreground=2.2)
    own = method._draw(view_batch()["image"], 3)[rows]
    method._draw = lambda *_: own  # type: ignore[method-assign]
    return method


_TOKENS: dict[str, Any] = {"steps": 100, "head": (16, 8, 12, 10)}
KINDS: dict[str, Callable[[slice], Any]] = {
    "dinov2_sinkhorn": lambda rows: _masked(DINOv2(small_vit(), **_TOKENS, spread=("sinkhorn", 0.1)), rows),
    "dinov2_centred": lambda rows: _masked(DINOv2(small_vit(), **_TOKENS, spread=(0.9, 0.1)), rows),
    "ibot": lambda rows: _masked(IBOT(small_vit(), **_TOKENS), rows),
    "sit": _sit,
    "swin_unetr": _swin_unetr,
    "mae": _mae,
    "simmim": _simmim,
}


def found(kind: str, rows: slice) -> dict[str, Tensor]:
    """Loss, gradients and centres after a step of these samples, averaged as DDP averages them."""
    torch.manual_seed(0)
    method = KINDS[kind](rows)
    loss = method(part_of(view_batch(), rows))["loss"]
    loss.backward()
    values = {"loss": loss} | {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    method.after_step(1)
    means = {name: sum_over_processes(value) / world_size() for name, value in values.items()}
    return means | {f"moved.{name}": tensor for name, tensor in method.named_buffers()}


def half(rank: int) -> dict[str, dict[str, Tensor]]:
    """What this process computes of its half."""
    return {kind: found(kind, slice(2 * rank, 2 * rank + 2)) for kind in KINDS}
