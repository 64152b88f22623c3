"""Decoders that turn an encoder's pyramid into a map of the image's size."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.layers import BlockSequence, ConvBlock, conv, transposed


class UNetDecoder(nn.Module):
    """Decoder with skip connections (Ronneberger et al., MICCAI 2015, arXiv 1505.04597).

    Args:
        encoder: Encoder with `spatial_dims`, `feature_channels` and `steps`, such as `ResidualUNetEncoder`.
        out_channels: Channels of the map.
        convolutions: Convolutions after each concatenation.

    Raises:
        ConfigError: The encoder has no convolutional pyramid.
    """

    def __init__(self, encoder: nn.Module, out_channels: int, convolutions: int = 1) -> None:
        super().__init__()
        steps = getattr(encoder, "steps", None)
        if steps is None:
            raise ConfigError(
                [f"UNetDecoder needs a convolutional pyramid, {type(encoder).__name__} has none: use UNETRDecoder"]
            )
        dims, widths = int(encoder.spatial_dims), tuple(encoder.feature_channels)
        self.ups, self.stages = nn.ModuleList(), nn.ModuleList()
        for level in range(len(widths) - 1, 0, -1):
            fine, coarse = widths[level - 1], widths[level]
            self.ups.append(transposed(dims)(coarse, fine, steps[level], stride=steps[level]))
            self.stages.append(
                BlockSequence(ConvBlock(dims, 2 * fine if n == 0 else fine, fine) for n in range(convolutions))
            )
        self.head = conv(dims)(widths[0], out_channels, 1)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K, *S) from the pyramid; the image itself is not used."""
        out = pyramid[-1]
        for level, (up, stage) in enumerate(zip(self.ups, self.stages, strict=True)):
            out = stage(torch.cat([up(out), pyramid[-2 - level]], dim=1))
        logits: Tensor = self.head(out)
        return logits


class UNETRDecoder(nn.Module):
    """Decoder for a transformer's patch grid at several depths (UNETR, Hatamizadeh et al., WACV 2022, arXiv 2103.10504).

    Deviations: the levels are reached by one transposed convolution each instead of a chain of them, and the number
    of levels follows from the patch size.

    Args:
        encoder: Encoder with `spatial_dims`, `in_channels`, `feature_channels` and `patch_size`, such as `ViT`.
        out_channels: Channels of the map.
        features: Channels of the finest level; each coarser level has twice as many.

    Raises:
        ConfigError: The patch size is no power of two, or the encoder has no patches.
    """

    def __init__(self, encoder: nn.Module, out_channels: int, features: int = 16) -> None:
        super().__init__()
        patch = getattr(encoder, "patch_size", None)
        if patch is None or any(p & (p - 1) for p in patch):
            raise ConfigError([f"UNETRDecoder needs an encoder with patches of a power of two, got {patch}"])
        dims, width = int(encoder.spatial_dims), int(encoder.feature_channels[-1])
        self.scales = _scales(patch)
        self.widths = [features * 2**n for n in range(len(self.scales))]
        self.stem = ConvBlock(dims, int(encoder.in_channels), features)
        self.lifts, self.ups, self.stages = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in range(len(self.scales) - 1, 0, -1):
            above = width if level == len(self.scales) - 1 else self.widths[level + 1]
            target = self.scales[level]
            lift = tuple(p // t for p, t in zip(patch, target, strict=True))
            step = lift if level == len(self.scales) - 1 else _ratio(self.scales[level + 1], target)
            self.lifts.append(transposed(dims)(width, self.widths[level], lift, stride=lift))
            self.ups.append(transposed(dims)(above, self.widths[level], step, stride=step))
            self.stages.append(ConvBlock(dims, 2 * self.widths[level], self.widths[level]))
        last = _ratio(self.scales[1], self.scales[0])
        self.last = transposed(dims)(self.widths[1], features, last, stride=last)
        self.join = ConvBlock(dims, 2 * features, features)
        self.head = conv(dims)(features, out_channels, 1)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K, *S) from the image and the patch grids."""
        out = pyramid[-1]
        for level, (lift, up, stage) in enumerate(zip(self.lifts, self.ups, self.stages, strict=True)):
            side = pyramid[max(0, len(pyramid) - 2 - level)]
            out = stage(torch.cat([up(out), lift(side)], dim=1))
        out = self.join(torch.cat([self.last(out), self.stem(image)], dim=1))
        logits: Tensor = self.head(out)
        return logits


def _scales(patch: Sequence[int]) -> list[tuple[int, ...]]:
    """Strides from 1 up to half the patch size, in powers of two; axes with smaller patches stop earlier."""
    scales = [tuple(1 for _ in patch)]
    while any(2 * s < p for s, p in zip(scales[-1], patch, strict=True)):
        scales.append(tuple(min(2 * s, p) for s, p in zip(scales[-1], patch, strict=True)))
    if len(scales) == 1:
        scales.append(tuple(patch))
    return scales


def _ratio(coarse: Sequence[int], fine: Sequence[int]) -> tuple[int, ...]:
    return tuple(c // f for c, f in zip(coarse, fine, strict=True))


class ClassificationHead(nn.Module):
    """Linear classifier on pooled features, after dropout.

    Args:
        encoder: Encoder with `feature_channels`.
        out_channels: Number of classes.
        dropout: Share of features dropped in training.
    """

    def __init__(self, encoder: nn.Module, out_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(int(encoder.feature_channels[-1]))
        self.dropout = dropout
        self.linear = nn.Linear(int(encoder.feature_channels[-1]), out_channels)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K) from the mean of the coarsest map; the image itself is not used."""
        pooled = self.norm(pyramid[-1].flatten(2).mean(-1))
        logits: Tensor = self.linear(F.dropout(pooled, self.dropout, self.training))
        return logits
