"""Boxes in the images of a batch: drawn on the CPU, measured, and cut out on the device; no loop over samples.

A box is its lowest corner `start` and its `size`, both in whole voxels, one number an axis.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_DRAWN = 64  # covering boxes drawn at a time


def draw_boxes(
    shape: Sequence[int],
    counts: tuple[int, int],
    sides: tuple[Sequence[int], Sequence[int]],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw boxes that lie within an image of spatial shape `shape`.

    Args:
        shape: Voxels an axis.
        counts: Samples B, and boxes M in each.
        sides: Shortest and longest side in voxels, an axis each; every axis of a box is drawn on its own, uniformly.
        generator: CPU generator.

    Returns:
        Start and size, both (B, M, D) int64.
    """
    uniform = torch.rand(2, *counts, len(shape), generator=generator, dtype=torch.float64)
    low, high = (torch.tensor(list(side)) for side in sides)
    size = low + (uniform[0] * (high - low + 1)).long()
    return place(size, shape, uniform[1]), size


def sides_of(shape: Sequence[int], shares: tuple[float, float]) -> tuple[list[int], list[int]]:
    """Shortest and longest side in voxels, at least 1, from sides relative to the image's."""
    low, high = ([max(int(n * share + 1e-6), 1) for n in shape] for share in shares)
    return low, high


def covering_boxes(
    shape: Sequence[int], share: float, sides: tuple[Sequence[int], Sequence[int]], generator: torch.Generator
) -> Tensor:
    """Draw boxes until at least a share of an image's voxels is in one: (*S) bool on the CPU.

    Args:
        shape: Voxels an axis.
        share: Share to cover.
        sides: Shortest and longest side, an axis each; every axis of a box is drawn on its own, uniformly.
        generator: CPU generator.
    """
    inside_any = np.zeros(tuple(shape), dtype=np.bool_)
    low, high = (np.array(list(side)) for side in sides)
    covered, wanted = 0, share * inside_any.size
    while covered < wanted:
        draws = torch.rand(_DRAWN, 2, len(shape), generator=generator, dtype=torch.float64).numpy()
        lengths = low + (draws[:, 0] * (high - low + 1)).astype(int)
        begins = (draws[:, 1] * (np.array(shape) - lengths + 1)).astype(int)
        for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
            box = inside_any[tuple(slice(b, b + n) for b, n in zip(begin, length, strict=True))]
            covered += box.size - int(np.count_nonzero(box))
            box[...] = True
            if covered >= wanted:
                break
    return torch.from_numpy(inside_any)


def place(size: Tensor, shape: Sequence[int], uniform: Tensor) -> Tensor:
    """Lowest corners (..., D) of boxes of `size` voxels inside `shape`, from uniform numbers (..., D) in [0, 1)."""
    return (uniform * (torch.tensor(list(shape)) - size + 1)).long()


def inside(start: Tensor, size: Tensor, shape: Sequence[int]) -> Tensor:
    """Which voxels (B, *S) lie in the box (B, D) of their sample, on the boxes' device."""
    found = torch.ones((), dtype=torch.bool, device=start.device)
    for axis, n in enumerate(shape):
        line, begin = torch.arange(n, device=start.device), start[:, axis, None]
        within = (line >= begin) & (line < begin + size[:, axis, None])  # (B, n)
        found = found & within.view(-1, *[n if other == axis else 1 for other in range(len(shape))])
    return found


def cell_corners(shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Lowest corners (K, D) of the cells that divide an image into `grid` parts an axis, row-major."""
    steps = [range(0, n, n // cells) for n, cells in zip(shape, grid, strict=True)]
    return torch.tensor(list(itertools.product(*steps)))


def overlap_shares(start: Tensor, other: Tensor, size: Sequence[int]) -> Tensor:
    """Share of each box that lies in each of the others, all of one size: (..., N, D) and (K, D) to (..., N, K)."""
    sides = torch.tensor(list(size))
    apart = (start[..., None, :] - other).abs()  # (..., N, K, D)
    return ((sides - apart).clamp(min=0) / sides).prod(-1).float()


def cut_boxes(image: Tensor, start: Tensor, size: Sequence[int], flips: Tensor) -> Tensor:
    """Cut boxes of one size out of each sample, and mirror them, by one gather.

    Args:
        image: (B, C, *S).
        start: (B, V, D) int64, lowest corners.
        size: Voxels an axis.
        flips: (B, V, D) bool: axes along which a box is mirrored.

    Returns:
        (B, V, C, *size).
    """
    (batch, count, dims), device = start.shape, image.device
    index = torch.zeros((), dtype=torch.long, device=device)
    for axis, n in enumerate(size):
        line = torch.arange(n)
        places = start[..., axis, None] + torch.where(flips[..., axis, None], n - 1 - line, line)  # (B, V, n)
        step = math.prod(image.shape[3 + axis :])
        shape = [n if other == axis else 1 for other in range(dims)]
        index = index + (places * step).to(device).view(batch, count, *shape)
    flat = index.view(batch, 1, -1).expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, flat).view(batch, -1, count, *size).transpose(1, 2)
