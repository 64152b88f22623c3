"""Seeing only the visible part of an image with dense layers: hidden blocks, and statistics over visible voxels.

A convolution that never sees a hidden region is emulated (Tian et al., ICLR 2023, arXiv 2301.03580): hidden positions
are 0 before each layer and set to 0 after it, and normalisation takes its statistics from visible positions. Weights
are those of the dense network. The mask is an argument, never state of a layer or of the module.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.batch_norm import over_processes, several_processes

NormKind = Literal["instance", "batch", "group"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_GROUPS = 8
_MOMENTUM = 0.1


class HiddenBlocks:
    """Which blocks of each image are hidden.

    Args:
        hidden: (B, *grid) bool, True = hidden.
        block: Side of a block in voxels, one an axis.
    """

    def __init__(self, hidden: Tensor, block: Sequence[int]) -> None:
        self.hidden, self.block = hidden, tuple(block)
        self._visible: dict[tuple[int, ...], Tensor] = {}

    def visible(self, stride: Sequence[int]) -> Tensor | None:
        """(B, 1, *S / stride) float32, 1 = visible, at a level of a pyramid.

        None where the level is coarser than the blocks: its cells would hold both kinds, so it is computed densely, as
        Wald et al. do in 3D (CVPR 2025, arXiv 2410.23132).
        """
        stride = tuple(stride)
        if any(b % s for b, s in zip(self.block, stride, strict=True)):
            return None
        if stride not in self._visible:
            mask = enlarged(~self.hidden, [side // step for side, step in zip(self.block, stride, strict=True)])
            self._visible[stride] = mask[:, None].float()
        return self._visible[stride]


def enlarged(mask: Tensor, factors: Sequence[int]) -> Tensor:
    """Each cell of a mask (B, *grid) becomes as many along each axis as its factor says."""
    for axis, factor in enumerate(factors, start=1):
        mask = mask.repeat_interleave(factor, dim=axis)
    return mask


class Norm(nn.Module):
    """Instance, batch or group normalisation with affine parameters; over visible voxels only where a mask is given.

    Batch statistics are those of the batch of all processes.

    Args:
        channels: Channels normalised.
        kind: `instance`, `batch`, or `group` (8 groups, or as many as divide the channels).
        eps: Added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, kind: NormKind = "instance", eps: float = 1e-5) -> None:
        super().__init__()
        if kind not in ("instance", "batch", "group"):
            raise ConfigError([f"norm must be instance, batch or group, got {kind!r}"])
        self.kind, self.eps, self.groups = kind, eps, math.gcd(channels, _GROUPS)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if kind == "batch":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """Normalise (B, C, *S); `visible` (B, 1, *S) is 1 or 0, and hidden positions come out 0."""
        if visible is None and self.kind == "batch" and self.training and several_processes():
            visible = torch.ones_like(image[:, :1], dtype=torch.float32)
        if visible is not None:
            return self._masked(image, visible)
        if self.kind == "instance":
            return F.instance_norm(image, weight=self.weight, bias=self.bias, eps=self.eps)
        if self.kind == "group":
            return F.group_norm(image, self.groups, self.weight, self.bias, self.eps)
        return F.batch_norm(
            image, self.running_mean, self.running_var, self.weight, self.bias, self.training, _MOMENTUM, self.eps
        )

    def _masked(self, image: Tensor, visible: Tensor) -> Tensor:
        """Two passes, in float32: a difference of large sums would lose the variance of bf16 features."""
        values = image.float()
        if self.kind == "batch" and not self.training:
            mean, variance = (self._per_channel(s, image.ndim) for s in (self.running_mean, self.running_var))
            centred = (values - mean) * visible
        else:
            count = self._count(visible, image.shape[1])
            mean = self._sum(values * visible) / count
            centred = (values - mean) * visible
            variance = self._sum(centred.square()) / count
            if self.kind == "batch":
                self._update(mean, variance, count)
        scale = torch.rsqrt(variance + self.eps) * self._per_channel(self.weight, image.ndim)
        return torch.addcmul(self._per_channel(self.bias, image.ndim) * visible, centred, scale).to(image.dtype)

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over what shares one mean, in a shape that broadcasts: (B, C, 1...), or (1, C, 1...) for batch norm."""
        axes = tuple(range(2, values.ndim))
        if self.kind == "batch":
            return over_processes(values.sum((0, *axes), keepdim=True))
        sums = values.sum(axes, keepdim=True)
        if self.kind == "group":
            grouped = sums.reshape(sums.shape[0], self.groups, -1).sum(2, keepdim=True)
            sums = grouped.expand(-1, -1, values.shape[1] // self.groups).reshape(sums.shape)
        return sums

    def _count(self, visible: Tensor, channels: int) -> Tensor:
        """How many values `_sum` adds up where they are visible; 1 where there are none."""
        axes = tuple(range(0 if self.kind == "batch" else 1, visible.ndim))
        each = channels // self.groups if self.kind == "group" else 1
        count = visible.sum(axes, keepdim=True) * each
        return (over_processes(count) if self.kind == "batch" else count).clamp(min=1)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean.flatten(), _MOMENTUM)
        self.running_var.lerp_(unbiased.flatten(), _MOMENTUM)

    @staticmethod
    def _per_channel(values: Tensor, ndim: int) -> Tensor:
        return values.view(1, -1, *[1] * (ndim - 2))


def has_batch_norm(module: nn.Module) -> bool:
    """Whether any layer normalises over the samples of a batch."""
    return any(
        part.kind == "batch" if isinstance(part, Norm) else isinstance(part, _BATCH_NORMS) for part in module.modules()
    )


class Densify(nn.Module):
    """Fill hidden positions of a pyramid with a learned vector a level.

    Args:
        widths: Channels of each level, fine to coarse.
        holes: Whether a level has hidden positions; the others get no vector.
        norm: Normalise over visible positions first, as SparK does before its light decoder.
    """

    def __init__(self, widths: Sequence[int], holes: Sequence[bool], norm: NormKind | None = None) -> None:
        super().__init__()
        self.fills = nn.ParameterDict(
            {
                str(level): nn.Parameter(nn.init.trunc_normal_(torch.zeros(width), std=0.02, a=-0.02, b=0.02))
                for level, (width, hole) in enumerate(zip(widths, holes, strict=True))
                if hole
            }
        )
        self.norms = nn.ModuleList([] if norm is None else [Norm(width, norm) for width in widths])

    def forward(self, pyramid: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        """Maps (B, F, *S) without holes; `masks` holds None for the levels that have none."""
        filled = []
        for level, (out, mask) in enumerate(zip(pyramid, masks, strict=True)):
            dense = self.norms[level](out, mask) if self.norms else out
            if mask is not None:
                vector = self.fills[str(level)].view(1, -1, *[1] * (out.ndim - 2)).to(out.dtype)
                dense = dense + vector * (1 - mask).to(out.dtype)
            filled.append(dense)
        return filled
