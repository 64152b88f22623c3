"""Decoders that turn an encoder's pyramid into a map of the image's size."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.encoder import Encoder
from medssl.models.layers import BlockSequence, ConvBlock, conv, transposed
from medssl.models.masked import Norm, NormKind


class UNetDecoder(nn.Module):
    """Decoder with skip connections (Ronneberger et al., MICCAI 2015, arXiv 1505.04597).

    Where the encoder's finest level is coarser than the image, one transposed convolution makes up for it.

    Args:
        encoder: Encoder whose levels get coarser, such as `ResidualUNetEncoder` or `ResNet`.
        out_channels: Channels of the map.
        convolutions: Convolutions after each concatenation.
        norm: `instance`, `batch` or `group`.

    Raises:
        ConfigError: The encoder has no convolutional pyramid.
    """

    def __init__(
        self, encoder: nn.Module, out_channels: int, convolutions: int = 1, norm: NormKind = "instance"
    ) -> None:
        super().__init__()
        dims, widths, steps = _pyramid(self, encoder)
        self.ups, self.stages = nn.ModuleList(), nn.ModuleList()
        for level in range(len(widths) - 1, 0, -1):
            fine, coarse = widths[level - 1], widths[level]
            self.ups.append(transposed(dims)(coarse, fine, steps[level], stride=steps[level]))
            self.stages.append(
                BlockSequence(
                    ConvBlock(dims, 2 * fine if n == 0 else fine, fine, norm=norm) for n in range(convolutions)
                )
            )
        coarse = any(step > 1 for step in steps[0])
        self.whole = transposed(dims)(widths[0], widths[0], steps[0], stride=steps[0]) if coarse else nn.Identity()
        self.head = conv(dims)(widths[0], out_channels, 1)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K, *S) from the pyramid; the image itself is not used."""
        return self.finish(self.climb(pyramid)[-1])

    def climb(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """What each stage makes, coarse to fine: maps of the encoder's levels but the last, from the coarsest on."""
        out, made = pyramid[-1], []
        for level, (up, stage) in enumerate(zip(self.ups, self.stages, strict=True)):
            out = stage(torch.cat([up(out), pyramid[-2 - level]], dim=1))
            made.append(out)
        return made

    def finish(self, finest: Tensor) -> Tensor:
        """(B, K, *S) from what the last stage made."""
        logits: Tensor = self.head(self.whole(finest))
        return logits


class LightDecoder(nn.Module):
    """SparK's decoder: skips are added, the width halves with each level (Tian et al., ICLR 2023, arXiv 2301.03580).

    Deviations: instance norm unless asked otherwise, for batches of a few volumes; the finest level has no skip,
    because what is visible there is the image itself.

    Args:
        encoder: Encoder whose levels get coarser and begin at the image's resolution, such as `ResidualUNetEncoder`.
        out_channels: Channels of the map.
        width: Channels at the coarsest level; None = those of the encoder.
        norm: `instance`, `batch` (the paper's) or `group`.

    Raises:
        ConfigError: The encoder has no convolutional pyramid.
    """

    def __init__(
        self, encoder: nn.Module, out_channels: int, width: int | None = None, norm: NormKind = "instance"
    ) -> None:
        super().__init__()
        dims, features, steps = _pyramid(self, encoder)
        if any(step > 1 for step in steps[0]):
            raise ConfigError([f"LightDecoder needs a level of the image's size, {type(encoder).__name__} has none"])
        count = len(features) - 1
        first = features[-1] if width is None else width
        widths = [max(8, first // 2**n) for n in range(count + 1)]
        self.sides, self.stages = nn.ModuleList(), nn.ModuleList()
        for n in range(count):
            level, plain = count - n, n == 0 and features[count] == widths[0]
            kernel, padding = (1, 0) if n == 0 else (3, 1)
            side = nn.Identity() if plain else conv(dims)(features[level], widths[n], kernel, padding=padding)
            self.sides.append(side)
            self.stages.append(LightBlock(dims, widths[n], widths[n + 1], steps[level], norm))
        self.head = conv(dims)(widths[-1], out_channels, 1)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K, *S) from the pyramid; the image itself is not used."""
        out: Tensor | None = None
        for n, (side, stage) in enumerate(zip(self.sides, self.stages, strict=True)):
            here = side(pyramid[-1 - n])
            out = stage(here if out is None else out + here)
        logits: Tensor = self.head(out)
        return logits


class LightBlock(nn.Module):
    """Transposed convolution, then two convolutions with norm, ReLU6 between: (B, C, *S) to (B, D, *S * step)."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, step: Sequence[int], norm: NormKind) -> None:
        super().__init__()
        kernel, padding = tuple(s + 2 * (s // 2) for s in step), tuple(s // 2 for s in step)  # 4 and 1 at step 2
        self.up = transposed(spatial_dims)(inputs, inputs, kernel, stride=tuple(step), padding=padding)
        self.first = conv(spatial_dims)(inputs, inputs, 3, padding=1, bias=False)
        self.second = conv(spatial_dims)(inputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = Norm(inputs, norm), Norm(outputs, norm)

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge and refine."""
        out: Tensor = self.norm2(self.second(F.relu6(self.norm1(self.first(self.up(image))))))
        return out


class UNETRDecoder(nn.Module):
    """Decoder for a patch grid at several depths (UNETR, Hatamizadeh et al., WACV 2022, arXiv 2103.10504).

    Deviations: the levels are reached by one transposed convolution each instead of a chain of them, and the number
    of levels follows from the patch size.

    Args:
        encoder: Encoder with `spatial_dims`, `in_channels`, `feature_channels` and `patch_size`, such as `ViT`.
        out_channels: Channels of the map.
        features: Channels of the finest level; each coarser level has twice as many.

    Raises:
        ConfigError: The patch size is no power of two, or the encoder has no patches, or maps of several sizes.
    """

    def __init__(self, encoder: nn.Module, out_channels: int, features: int = 16) -> None:
        super().__init__()
        patch = getattr(encoder, "patch_size", None)
        if patch is None or any(p & (p - 1) for p in patch):
            raise ConfigError([f"UNETRDecoder needs an encoder with patches of a power of two, got {patch}"])
        facts: Any = encoder
        if not _is_patch_grid(facts.strides):
            name = type(encoder).__name__
            raise ConfigError([f"UNETRDecoder needs maps of one size, {name} has several: use UNetDecoder"])
        dims, width = int(facts.spatial_dims), int(facts.feature_channels[-1])
        self.scales = _scales(patch)
        self.widths = [features * 2**n for n in range(len(self.scales))]
        self.stem = ConvBlock(dims, int(facts.in_channels), features)
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


def decoder_for(encoder: Encoder, out_channels: int) -> nn.Module:
    """The decoder of segmentation that suits an encoder: UNETR's for patch grids of one size, else a U-Net's.

    Raises:
        ConfigError: Patches of a size that UNETR's decoder cannot reach.
    """
    if _is_patch_grid(encoder.strides):
        return UNETRDecoder(encoder, out_channels)
    return UNetDecoder(encoder, out_channels)


def without_head(decoder: nn.Module) -> dict[str, Tensor]:
    """Weights of a decoder that another task can start from: all but the last layer, which each task has its own of."""
    return {name: tensor for name, tensor in decoder.state_dict().items() if not name.startswith("head.")}


def _is_patch_grid(strides: Sequence[Sequence[int]]) -> bool:
    return tuple(strides[0]) == tuple(strides[-1]) and any(step > 1 for step in strides[0])


def _pyramid(decoder: nn.Module, encoder: nn.Module) -> tuple[int, tuple[int, ...], list[tuple[int, ...]]]:
    """Dimensions, channels and steps of an encoder's levels, fine to coarse; the first step is that from the image."""
    facts: Any = encoder
    if _is_patch_grid(facts.strides):
        name, other = type(decoder).__name__, type(encoder).__name__
        raise ConfigError([f"{name} needs a convolutional pyramid, {other} has none: use UNETRDecoder"])
    steps = [tuple(facts.strides[0]), *(_ratio(coarse, fine) for fine, coarse in pairwise(facts.strides))]
    return int(facts.spatial_dims), tuple(facts.feature_channels), steps


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
        facts: Any = encoder
        width = int(facts.feature_channels[-1])
        self.norm, self.dropout, self.linear = nn.LayerNorm(width), dropout, nn.Linear(width, out_channels)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """(B, K) from the mean of the coarsest map; the image itself is not used."""
        pooled = self.norm(pyramid[-1].flatten(2).mean(-1))
        logits: Tensor = self.linear(F.dropout(pooled, self.dropout, self.training))
        return logits
