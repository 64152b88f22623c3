"""Moving voxels of a batch: one resampling for rotation, scale and shift, and exact flips."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medssl.data.cache import OUTSIDE


def affine_matrices(angles_deg: Tensor, zoom: Tensor, spacing_mm: Tensor) -> Tensor:
    """Matrices from output to input voxel offsets about the centre.

    The rotation is one of the body in mm, so that anisotropic voxels are not sheared.

    Args:
        angles_deg: (B, 3) rotations about the axes in 3D, (B, 1) in 2D, float64.
        zoom: (B, D) enlargement along each axis: 2 shows everything twice as large.
        spacing_mm: (B, D) voxel size of each sample along each spatial axis, float64.

    Returns:
        (B, D, D) float64.
    """
    dims = spacing_mm.shape[1]
    radians = angles_deg * (math.pi / 180)
    planes = ((1, 2), (0, 2), (0, 1)) if dims == 3 else ((0, 1),)
    rotation = torch.eye(dims, dtype=torch.float64).repeat(len(zoom), 1, 1)
    for column, (a, b) in enumerate(planes):
        cos, sin = radians[:, column].cos(), radians[:, column].sin()
        turn = torch.eye(dims, dtype=torch.float64).repeat(len(zoom), 1, 1)
        turn[:, a, a], turn[:, b, b], turn[:, a, b], turn[:, b, a] = cos, cos, -sin, sin
        rotation = rotation @ turn
    return rotation * (spacing_mm[:, None, :] / spacing_mm[:, :, None]) / zoom[:, None, :]


def sampling_grid(
    matrix: Tensor,
    shift: Tensor,
    shape: Sequence[int],
    elastic: Tensor | None = None,
    source: Sequence[int] | None = None,
) -> Tensor:
    """Where each output voxel is read, in the coordinates of `grid_sample` with `align_corners=True`.

    Built from one broadcast sum over the axes: no (voxels x 4) matrix product.

    Args:
        matrix: (B, D, D), from output to input voxel offsets about the centre.
        shift: (B, D) voxels added to the input position.
        shape: Spatial shape of the output.
        elastic: (B, D, n, ..., n) voxels added to the input position at control points, interpolated linearly.
        source: Spatial shape of the input; by default that of the output.

    Returns:
        (B, *S, D) float32, last axis first as `grid_sample` wants it.
    """
    dims, device = len(shape), matrix.device
    half = torch.tensor([max(n - 1, 1) / 2 for n in source or shape], dtype=torch.float32, device=device)
    scaled = matrix.float() / half[:, None]  # (B, D, D), rows in units of half the input extent
    offset = shift.float() / half
    grid = torch.empty((len(matrix), *shape, dims), dtype=torch.float32, device=device)
    for row in range(dims):
        total = offset[:, row].view(-1, *[1] * dims)
        for axis, n in enumerate(shape):
            line = torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2
            view = [-1 if a == axis else 1 for a in range(dims)]
            total = total + scaled[:, row, axis].view(-1, *[1] * dims) * line.view(1, *view)
        grid[..., dims - 1 - row] = total
    if elastic is not None:
        mode = "trilinear" if dims == 3 else "bilinear"
        moved = functional.interpolate(elastic.float(), size=tuple(shape), mode=mode, align_corners=True)
        grid += (moved / half.view(-1, *[1] * dims)).flip(1).movedim(1, -1)
    return grid


def resample_image(image: Tensor, grid: Tensor) -> Tensor:
    """Linear interpolation of (B, C, *S) float at `grid` (B, *S, D); outside, the edge is repeated."""
    return functional.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def resample_label(label: Tensor, grid: Tensor) -> Tensor:
    """The class with the most weight under linear interpolation of (B, *S) integers at `grid` (B, *S, D).

    Nearest neighbours would leave steps in every border that no annotator drew. What lies outside, more than half a
    voxel beyond the last one, is `OUTSIDE`: there the image repeats its edge, and nobody knows its class. The lower
    class wins a tie.
    """

    def share(mask: Tensor) -> Tensor:
        moved = functional.grid_sample(
            mask[:, None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        return moved[:, 0]

    best = 1 - share(label != 0)
    moved = torch.zeros_like(label)
    for value in torch.unique(label[label != 0]):
        weight = share(label == value)
        moved = torch.where(weight > best, value, moved)
        best = torch.maximum(best, weight)
    ends = [1 + 1 / (n - 1) if n > 1 else float("inf") for n in reversed(label.shape[1:])]  # -1 and 1: voxel centres
    outside = (grid.abs() > torch.tensor(ends, dtype=grid.dtype, device=grid.device)).any(-1)
    return moved.masked_fill(outside, OUTSIDE)


def flip(tensor: Tensor, axes: Tensor, leading: int) -> Tensor:
    """Mirror each sample of a batch along its own axes, exactly.

    Args:
        tensor: (B, ..., *S).
        axes: (B, D) bool on the CPU.
        leading: Axes before the spatial ones, the batch included.
    """
    if not bool(axes.any()):
        return tensor
    samples = []
    for sample, chosen in zip(tensor, axes.tolist(), strict=True):
        dims = [leading - 1 + axis for axis, on in enumerate(chosen) if on]
        samples.append(sample.flip(dims) if dims else sample)
    return torch.stack(samples)


def quarter_turned(image: Tensor, turns: Tensor, plane: tuple[int, int]) -> Tensor:
    """Turn each sample of (B, C, *S) by so many quarters (B,), exactly, from the first to the second of two axes.

    Args:
        image: Of one length along both axes.
        turns: On the CPU.
        plane: The two axes of a sample (C, *S).
    """
    return torch.stack([sample.rot90(turn, plane) for sample, turn in zip(image, turns.tolist(), strict=True)])
