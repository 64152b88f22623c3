"""Decoders of pretraining that read the coarsest map of a pyramid alone: nothing gets past the encoder."""

import math
from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.models.encoder import Encoder
from medssl.models.layers import ConvBlock, conv
from medssl.models.positions import unpatchify


class LinearDecoder(nn.Module):
    """One linear layer from each position of the coarsest map to the voxels it stands for.

    Of SimMIM (Xie et al., CVPR 2022, https://arxiv.org/abs/2111.09886): a 1x1 convolution, then a shuffle of channels
    to voxels.

    Args:
        encoder: Any encoder.
        out_channels: Channels of the map.
    """

    def __init__(self, encoder: Encoder, out_channels: int) -> None:
        super().__init__()
        self.stride = tuple(encoder.strides[-1])
        self.head = nn.Linear(encoder.feature_channels[-1], math.prod(self.stride) * out_channels)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K, *S); the image itself is not used."""
        last = pyramid[-1]
        return unpatchify(self.head(last.flatten(2).transpose(1, 2)), last.shape[2:], self.stride)


class BottleneckDecoder(nn.Module):
    """Convolution, instance norm, leaky ReLU and linear enlargement by 2, until the image's size is reached.

    Of Swin UNETR's pretraining (Tang et al., CVPR 2022, https://arxiv.org/abs/2111.14791): the width halves with each
    step down to a 16th of the first, 768 to 48 there. The last layer comes before the last enlargement, not after it:
    being linear both, the numbers are the same, and fewer channels are enlarged.

    Args:
        encoder: Any encoder.
        out_channels: Channels of the map.
    """

    def __init__(self, encoder: Encoder, out_channels: int) -> None:
        super().__init__()
        dims, width = encoder.spatial_dims, encoder.feature_channels[-1]
        least = max(width // 16, 8)
        self.steps = _steps(encoder.strides[-1])
        self.mode = "trilinear" if dims == 3 else "bilinear"
        self.blocks = nn.ModuleList()
        for _ in self.steps:
            self.blocks.append(ConvBlock(dims, width, max(width // 2, least)))
            width = max(width // 2, least)
        self.head = conv(dims)(width, out_channels, 1)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K, *S); the image itself is not used."""
        out = pyramid[-1]
        for number, block in enumerate(self.blocks):
            out = block(self._enlarged(out, self.steps[number - 1]) if number else out)
        out = self.head(out)
        return self._enlarged(out, self.steps[-1]) if self.steps else out

    def _enlarged(self, image: Tensor, step: tuple[int, ...]) -> Tensor:
        return F.interpolate(image, scale_factor=[float(s) for s in step], mode=self.mode)


def _steps(stride: Sequence[int]) -> list[tuple[int, ...]]:
    """Enlargements an axis, by 2 as long as that divides, that make up for a stride."""
    rest, steps = tuple(stride), []
    while any(side > 1 for side in rest):
        steps.append(tuple(2 if side % 2 == 0 else side for side in rest))
        rest = tuple(side // step for side, step in zip(rest, steps[-1], strict=True))
    return steps
