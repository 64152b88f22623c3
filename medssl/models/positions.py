"""Patches and where they lie: patchify in N dimensions, fixed sine-cosine positions."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor


def patchify(image: Tensor, patch_size: Sequence[int]) -> Tensor:
    """(B, C, *S) to (B, N, P * C): tokens row-major over the grid, voxels row-major in a token, channel last."""
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


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, P) at `index` (B, n): (B, n, P). Whole rows are copied, three times as fast as `gather`."""
    first = torch.arange(tokens.shape[0], device=tokens.device)[:, None] * tokens.shape[1]
    return tokens.flatten(0, 1)[index + first]


def with_hidden(
    image: Tensor, hidden: Tensor, predicted: Tensor, grid: Sequence[int], patch_size: Sequence[int]
) -> dict[str, Tensor]:
    """What the health panel shows of a masked image: `input`, `masked` (hidden patches at 0) and `reconstructed`.

    Args:
        image: (B, C, *S).
        hidden: (B, m) numbers of the hidden patches.
        predicted: (B, m, P * C) what they are taken to be.
        grid: Patches an axis.
        patch_size: Side of a patch, an axis each.
    """
    patches, index = patchify(image.float(), patch_size), hidden[..., None].expand_as(predicted)
    parts = patches.scatter(1, index, 0.0), patches.scatter(1, index, predicted.float())
    masked, filled = (unpatchify(part, grid, patch_size) for part in parts)
    return {"input": image.float(), "masked": masked, "reconstructed": filled}


def sincos_positions(grid: Sequence[int], width: int) -> Tensor:
    """Fixed positions (N, width): the width is split over the axes; what does not divide stays 0 at the end.

    MAE (He et al., CVPR 2022, arXiv 2111.06377) in N dimensions; frequencies 10000^(-k / (width of an axis / 2)). A
    patch's position is its number along each axis of this grid: another grid has others of the same sequence.
    """
    return torch.from_numpy(_position_table(tuple(grid), width).copy())


def are_sincos(table: Tensor, dims: int) -> bool:
    """Whether positions (N, E) are the fixed ones of a grid of `dims` axes, whichever it is.

    Rows of zeros are none: what some add to tokens that have no place.
    """
    table = table[table.any(1)]
    part = 2 * (table.shape[1] // (2 * dims))
    parts = table[:, : dims * part].reshape(len(table), dims, part)  # (N, D, E / D)
    repeats = (parts == parts[:1]).all(-1).sum(0)  # patches that lie at the start of an axis
    grid = [len(table) // max(int(count), 1) for count in repeats]
    rounding = 1e-4 if table.element_size() >= 4 else 1e-2
    return math.prod(grid) == len(table) > 0 and torch.allclose(
        table.float(), sincos_positions(grid, table.shape[1]), rtol=0, atol=rounding
    )


@lru_cache(maxsize=64)
def _position_table(grid: tuple[int, ...], width: int) -> npt.NDArray[np.float32]:
    """Kept between steps as numpy: a tensor made while a graph is traced for export must not outlive the trace."""
    half = width // (2 * len(grid))
    frequencies = np.exp(-math.log(10000.0) * np.arange(half) / half)
    table = np.zeros((math.prod(grid), width), dtype=np.float32)
    for number, axis in enumerate(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")):
        angle = axis.reshape(-1, 1) * frequencies
        begin = 2 * half * number
        table[:, begin : begin + half], table[:, begin + half : begin + 2 * half] = np.sin(angle), np.cos(angle)
    return table
