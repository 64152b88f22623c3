"""Inputs of the golden numbers, which an independent float64 implementation computed from the formulas."""

import torch
from torch import Tensor


def sines(rows: int, columns: int, offset: float) -> Tensor:
    """Entry (i, j) is `sin(offset + i * columns + j)`, float64."""
    return (offset + torch.arange(rows * columns, dtype=torch.float64).view(rows, columns)).sin()


X, Y = sines(4, 3, 1.0), sines(4, 3, 1.5)
