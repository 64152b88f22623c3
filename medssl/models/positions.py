"""Patches and where they lie: patchify in N dimensions, fixed sine-cosine positions."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor


def patchify(image: Tensor, patch_size: Sequence[int]) -> Tensor:
    """(B, C, *S) to (B, N, P * C): tokens in row-major order over the grid, in a token voxels row-major, channel last."""
    sizes = dict(zip(("p", "q", "r"), patch_size, strict=False))
    if len(patch_size) == 2:
        return rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", **sizes)
    return rearrange(image, "b c (h p) (w q) (d r) -> b (h w d) (p q r c)", **sizes)


def unpatchify(tokens: Tensor, grid: Sequence[int], patch_size: Sequence[int]) -> Tensor:
    """Inverse of `patchify`: (B, N, P * C) to (B, C, *S)."""
    sizes = dict(zip(("p", "q", "r"), patch_size, strict=False)) | dict(zip(("h", "w", "d"), grid, strict=False))
    if len(patch_size) == 2:
        return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", **sizes)
    return rearrange(tokens, "b (h w d) (p q r c) -> b c (h p) (w q) (d r)", **sizes)


def sincos_positions(grid: Sequence[int], width: int) -> Tensor:
    """Fixed positions (N, width): the width is split over the axes; what does not divide stays 0 at the end.

    MAE (He et al., CVPR 2022, arXiv 2111.06377) in N dimensions; frequencies 10000^(-k / (width of an axis / 2)).
    """
    dims = len(grid)
    half = width // (2 * dims)
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    parts = []
    for axis in axes:
        angle = axis.reshape(-1, 1) * frequencies
        parts += [angle.sin(), angle.cos()]
    table = torch.cat(parts, dim=1)
    return torch.nn.functional.pad(table, (0, width - table.shape[1])).float()
