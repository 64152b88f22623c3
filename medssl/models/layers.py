"""Convolution blocks that can look at visible voxels alone; 2D and 3D from one code path.

`visible` is a (B, 1, *S) float mask, 1 where a voxel may be seen, or None for the ordinary dense network. It is passed
down explicitly. Hidden positions are 0 before and after each block, and normalisation takes its statistics from visible
voxels only, so no convolution sees a hidden region (SparK's sparse convolution, emulated by masked statistics).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

_SLOPE = 0.01


def conv(spatial_dims: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    """Convolution class of the dimension."""
    return nn.Conv3d if spatial_dims == 3 else nn.Conv2d


def transposed(spatial_dims: int) -> type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]:
    """Transposed convolution class of the dimension."""
    return nn.ConvTranspose3d if spatial_dims == 3 else nn.ConvTranspose2d


class InstanceNorm(nn.Module):
    """Instance normalisation with affine parameters; over visible voxels only where a mask is given."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """Normalise (B, C, *S); hidden positions come out 0."""
        if visible is None:
            return F.instance_norm(image, weight=self.weight, bias=self.bias, eps=self.eps)
        axes = tuple(range(2, image.ndim))
        values = image.float()
        count = visible.sum(axes, keepdim=True).clamp(min=1)
        mean = (values * visible).sum(axes, keepdim=True) / count
        centred = (values - mean) * visible
        variance = centred.square().sum(axes, keepdim=True) / count
        shape = (1, -1, *([1] * len(axes)))
        scaled = centred * torch.rsqrt(variance + self.eps) * self.weight.view(shape) + self.bias.view(shape)
        return (scaled * visible).to(image.dtype)


class ConvBlock(nn.Module):
    """Convolution 3, instance norm, leaky ReLU: (B, C, *S) to (B, D, *S / stride)."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, stride: int | Sequence[int] = 1) -> None:
        super().__init__()
        strides = stride if isinstance(stride, int) else tuple(stride)
        self.conv = conv(spatial_dims)(inputs, outputs, 3, stride=strides, padding=1, bias=False)
        self.norm = InstanceNorm(outputs)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """`visible` at the output's resolution."""
        return F.leaky_relu(self.norm(self.conv(image), visible), _SLOPE)


class ResidualBlock(nn.Module):
    """Two convolutions with a residual path (He et al., 2016, arXiv 1512.03385), as in nnU-Net's residual encoder.

    Deviation: the shortcut of a strided block is a strided 1x1 convolution without average pooling, because pooling
    would mix visible and hidden voxels.
    """

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, stride: int | Sequence[int] = 1) -> None:
        super().__init__()
        strides = stride if isinstance(stride, int) else tuple(stride)
        self.first = ConvBlock(spatial_dims, inputs, outputs, strides)
        self.conv = conv(spatial_dims)(outputs, outputs, 3, padding=1, bias=False)
        self.norm = InstanceNorm(outputs)
        plain = inputs == outputs and all(s == 1 for s in ([strides] if isinstance(strides, int) else strides))
        self.shortcut = nn.Identity() if plain else conv(spatial_dims)(inputs, outputs, 1, stride=strides, bias=False)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """`visible` at the output's resolution."""
        out = self.norm(self.conv(self.first(image, visible)), visible)
        side = self.shortcut(image)
        return F.leaky_relu(out + (side if visible is None else side * visible), _SLOPE)


class BlockSequence(nn.ModuleList):
    """Blocks one after the other, each with the same mask."""

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """Apply all blocks."""
        for block in self:
            image = block(image, visible)
        return image
