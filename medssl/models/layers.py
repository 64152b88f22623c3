"""Convolution blocks that can look at visible voxels alone; 2D and 3D from one code path.

`visible` is a (B, 1, *S) float mask at the output's resolution, 1 where a voxel may be seen, or None for the ordinary
dense network. Hidden positions are 0 before and after each block (`medssl.models.masked`).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.models.masked import Norm, NormKind

ShortcutKind = Literal["strided", "pooled"]

_SLOPE = 0.01


def conv(spatial_dims: int) -> Callable[..., nn.Module]:
    """Convolution class of the dimension."""
    return _Conv3d if spatial_dims == 3 else _Conv2d


def _bf16_is_wrong(image: Tensor, kernel: Sequence[int]) -> bool:
    """Whether the gradient of the weights would be garbage: bf16 on a CPU, an axis shorter than the kernel.

    There oneDNN's kernels read memory that was never written (torch 2.13, CPUs with avx512_bf16 or AMX;
    `tests/models/test_small_maps.py`), so training ended in NaN at random, or went on with wrong gradients.
    """
    small = any(n < k for n, k in zip(image.shape[2:], kernel, strict=True))
    return small and image.device.type == "cpu" and torch.is_autocast_enabled("cpu")


class _Conv2d(nn.Conv2d):
    def forward(self, image: Tensor) -> Tensor:
        if _bf16_is_wrong(image, self.kernel_size):
            with torch.autocast("cpu", enabled=False):
                return super().forward(image.float())
        return super().forward(image)


class _Conv3d(nn.Conv3d):
    def forward(self, image: Tensor) -> Tensor:
        if _bf16_is_wrong(image, self.kernel_size):
            with torch.autocast("cpu", enabled=False):
                return super().forward(image.float())
        return super().forward(image)


def transposed(spatial_dims: int) -> Callable[..., nn.Module]:
    """Transposed convolution class of the dimension."""
    return nn.ConvTranspose3d if spatial_dims == 3 else nn.ConvTranspose2d


class ConvBlock(nn.Module):
    """Convolution 3, normalisation, leaky ReLU: (B, C, *S) to (B, D, *S / stride)."""

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        outputs: int,
        stride: int | Sequence[int] = 1,
        norm: NormKind = "instance",
    ) -> None:
        super().__init__()
        strides = stride if isinstance(stride, int) else tuple(stride)
        self.conv = conv(spatial_dims)(inputs, outputs, 3, stride=strides, padding=1, bias=False)
        self.norm = Norm(outputs, norm)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """`visible` at the output's resolution."""
        return F.leaky_relu(self.norm(self.conv(image), visible), _SLOPE)


class ResidualBlock(nn.Module):
    """Two convolutions with a residual path (He et al., 2016, arXiv 1512.03385), as in nnU-Net's residual encoder.

    The shortcut is a strided 1x1 convolution, or `pooled`, nnU-Net's: an average over each step, then a 1x1 convolution
    and a norm where the channels change. A step never reaches over the border of a hidden block, so neither mixes
    visible and hidden voxels.
    """

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        outputs: int,
        stride: int | Sequence[int] = 1,
        norm: NormKind = "instance",
        shortcut: ShortcutKind = "strided",
    ) -> None:
        super().__init__()
        strides = stride if isinstance(stride, int) else tuple(stride)
        self.first = ConvBlock(spatial_dims, inputs, outputs, strides, norm)
        self.conv = conv(spatial_dims)(outputs, outputs, 3, padding=1, bias=False)
        self.norm = Norm(outputs, norm)
        plain = inputs == outputs and all(s == 1 for s in ([strides] if isinstance(strides, int) else strides))
        self.shortcut: nn.Module = nn.Identity()
        if not plain and shortcut == "pooled":
            pool = _step_means(spatial_dims, strides)
            self.shortcut = pool if inputs == outputs else _PooledShortcut(spatial_dims, inputs, outputs, pool, norm)
        elif not plain:
            self.shortcut = conv(spatial_dims)(inputs, outputs, 1, stride=strides, bias=False)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """`visible` at the output's resolution."""
        out = self.norm(self.conv(self.first(image, visible)), visible)
        pooled = isinstance(self.shortcut, _PooledShortcut)
        beside = self.shortcut(image, visible) if pooled else self.shortcut(image)
        return F.leaky_relu(out + beside, _SLOPE)  # mean of zeros, 1x1 without bias: hidden positions stay 0


def _step_means(spatial_dims: int, strides: int | tuple[int, ...]) -> nn.Module:
    """Mean over each step."""
    pool: Callable[..., nn.Module] = nn.AvgPool3d if spatial_dims == 3 else nn.AvgPool2d
    strided = strides > 1 if isinstance(strides, int) else max(strides) > 1
    return pool(strides, strides) if strided else nn.Identity()


class _PooledShortcut(nn.Module):
    """Mean over each step, 1x1 convolution, norm."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, pool: nn.Module, norm: NormKind) -> None:
        super().__init__()
        self.pool = pool
        self.conv, self.norm = conv(spatial_dims)(inputs, outputs, 1, bias=False), Norm(outputs, norm)

    def forward(self, image: Tensor, visible: Tensor | None) -> Tensor:
        """`visible` at the output's resolution."""
        out: Tensor = self.norm(self.conv(self.pool(image)), visible)
        return out


class BlockSequence(nn.ModuleList):
    """Blocks one after the other, each with the same mask."""

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """Apply all blocks."""
        for block in self:
            image = block(image, visible)
        return image
