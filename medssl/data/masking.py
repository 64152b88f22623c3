"""Masks over a grid of patches or blocks: True = hidden. Pure functions of a CPU generator."""

from collections.abc import Sequence

import torch
from torch import Tensor


def hidden_count(cells: int, ratio: float) -> int:
    """How many of the cells are hidden: `cells - int(cells * (1 - ratio))`, as in MAE."""
    return cells - int(cells * (1 - ratio))


def random_mask(grid: Sequence[int], batch: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Hide the same number of cells in each sample, drawn uniformly.

    Args:
        grid: Cells an axis.
        batch: Number of samples B.
        ratio: Share hidden, in (0, 1).
        generator: CPU generator, so that CPU and GPU give one result.

    Returns:
        (B, *grid) bool, True = hidden.
    """
    cells = int(torch.tensor(list(grid)).prod())
    order = torch.rand(batch, cells, generator=generator).argsort(1)
    hidden = torch.zeros(batch, cells, dtype=torch.bool)
    hidden.scatter_(1, order[:, : hidden_count(cells, ratio)], True)
    return hidden.reshape(batch, *grid)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Generator keyed by the run's seed and the step, so that a resumed run draws what it would have drawn."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
