"""Light heads for dense tasks on any pyramid: what frozen features hold, with little or no decoder on top."""

from collections.abc import Sequence
from typing import Any, final

import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.models.layers import ConvBlock, conv

_SMOOTH = {2: "bilinear", 3: "trilinear"}


@final
class LinearDecoder(nn.Module):
    """A linear classifier of every position (Oquab et al., "DINOv2", 2023, https://arxiv.org/abs/2304.07193).

    Each level has a 1x1 convolution; their maps are enlarged to the image and added, which is one linear layer on all
    levels' features at a position. Nothing else is learned, so the result is the encoder's.

    Args:
        encoder: Any encoder with a pyramid.
        out_channels: Channels of the map.
        levels: How many of the coarsest levels are read; 0 = all.
    """

    def __init__(self, encoder: nn.Module, out_channels: int, levels: int = 0) -> None:
        super().__init__()
        facts: Any = encoder
        self.head = nn.ModuleList(
            conv(facts.spatial_dims)(width, out_channels, 1) for width in facts.feature_channels[-levels:]
        )

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K, *S) from the pyramid; the image itself is not used."""
        maps = [head(level) for head, level in zip(self.head, pyramid[-len(self.head) :], strict=True)]
        return sum_enlarged(maps, image.shape[2:])


@final
class FPNDecoder(nn.Module):
    """Feature pyramid with a sum of its levels (Kirillov et al., CVPR 2019, https://arxiv.org/abs/1901.02446).

    Deviations: one convolution a level; instance norm; levels of one size, as of a ViT, are just added.

    Args:
        encoder: Any encoder with a pyramid.
        out_channels: Channels of the map.
        width: Channels of the pyramid.
    """

    def __init__(self, encoder: nn.Module, out_channels: int, width: int = 64) -> None:
        super().__init__()
        facts: Any = encoder
        dims = int(facts.spatial_dims)
        self.sides = nn.ModuleList(conv(dims)(features, width, 1) for features in facts.feature_channels)
        self.stages = nn.ModuleList(ConvBlock(dims, width, width) for _ in facts.feature_channels)
        self.head = conv(dims)(width, out_channels, 1)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K, *S) from the pyramid; the image itself is not used."""
        sides = [side(level) for side, level in zip(self.sides, pyramid, strict=True)]
        for n in range(len(sides) - 2, -1, -1):
            sides[n] = sides[n] + enlarged(sides[n + 1], sides[n].shape[2:])
        maps = [stage(side) for stage, side in zip(self.stages, sides, strict=True)]
        logits: Tensor = self.head(sum_enlarged(maps, maps[0].shape[2:]))
        return enlarged(logits, image.shape[2:])


def enlarged(level: Tensor, size: Sequence[int]) -> Tensor:
    """(B, F, *S) to (B, F, *size), linearly between the centres of voxels."""
    if tuple(level.shape[2:]) == tuple(size):
        return level
    return F.interpolate(level, list(size), mode=_SMOOTH[level.ndim - 2], align_corners=False)


def sum_enlarged(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Sum of maps of several sizes, each enlarged to `size`."""
    out = enlarged(maps[0], size)
    for level in maps[1:]:
        out = out + enlarged(level, size)
    return out
