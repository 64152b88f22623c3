"""Residual-encoder U-Net encoder for 2D and 3D, dense or on visible voxels only."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.encoder import Encoder
from medssl.models.layers import BlockSequence, ConvBlock, ResidualBlock, ShortcutKind
from medssl.models.masked import HiddenBlocks, NormKind


class ResidualUNetEncoder(Encoder):
    """Convolutional pyramid: a stem at full resolution, then a stage of residual blocks for each further level.

    After nnU-Net's residual encoder (Isensee et al., "nnU-Net Revisited", MICCAI 2024, arXiv 2404.09556). Deviations:
    the first level may hold the stem alone (`blocks[0] = 0`), which is where most of the time goes on large volumes.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        features: Channels of each level, fine to coarse; multiples of 16 are fastest on CPUs (24 costs as much as 32).
        blocks: Residual blocks of each level; every level after the first needs one or more.
        strides: Step into each level, one number or one an axis; the first is 1. Default 2 everywhere.
        norm: `instance`, `batch` or `group`.
        shortcut: `strided`, or `pooled`: with it, and a block at the first level, it is nnU-Net's encoder exactly, and
            can be written for it (`medssl export-encoder`).

    Raises:
        ConfigError: Lists of different lengths, or a level without blocks.
    """

    @staticmethod
    def filled(arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments with what None stands for."""
        features = arguments.get("features")
        if arguments.get("strides") is not None or not isinstance(features, Sequence):
            return dict(arguments)
        return {**arguments, "strides": [1] + [2] * (len(features) - 1)}

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        features: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (0, 1, 1, 1),
        strides: Sequence[int | Sequence[int]] | None = None,
        norm: NormKind = "instance",
        shortcut: ShortcutKind = "strided",
    ) -> None:
        super().__init__()
        steps = list(strides) if strides is not None else [1] + [2] * (len(features) - 1)
        problems = []
        if not len(features) == len(blocks) == len(steps):
            problems.append(
                f"features, blocks and strides need one length, got {len(features)}, {len(blocks)}, {len(steps)}"
            )
        if any(b < 1 for b in blocks[1:]) or any(b < 0 for b in blocks[:1]):
            problems.append(f"blocks must be 1 or more after the first level, got {list(blocks)}")
        per_axis = [tuple([s] * spatial_dims if isinstance(s, int) else s) for s in steps]
        if any(len(p) != spatial_dims for p in per_axis) or any(s != 1 for s in per_axis[0]):
            problems.append(f"strides need {spatial_dims} numbers a level and 1 at the first, got {steps}")
        if problems:
            raise ConfigError(problems)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.feature_channels = tuple(int(f) for f in features)
        self.steps, self.norm, self.shortcut = tuple(per_axis), norm, shortcut
        self.strides = tuple(
            tuple(math.prod(p[a] for p in per_axis[: n + 1]) for a in range(spatial_dims)) for n in range(len(steps))
        )
        self.stem = ConvBlock(spatial_dims, in_channels, features[0], per_axis[0], norm)
        self.stages = nn.ModuleList()
        for level, count in enumerate(blocks):
            width = features[level]
            into = features[level - 1] if level else width
            self.stages.append(
                BlockSequence(
                    ResidualBlock(
                        spatial_dims,
                        into if b == 0 else width,
                        width,
                        per_axis[level] if b == 0 and level else 1,
                        norm,
                        shortcut,
                    )
                    for b in range(count)
                )
            )

    def forward(self, image: Tensor, blocks: HiddenBlocks | None = None) -> list[Tensor]:
        """Feature maps, fine to coarse.

        Args:
            image: (B, C, *S), each side divisible by the last of `strides`.
            blocks: What may not be seen; None = the ordinary dense network. Levels coarser than a block are dense.

        Returns:
            One (B, F, *S / stride) a level, 0 at hidden positions of the levels that have any.
        """
        masks = [None if blocks is None else blocks.visible(stride) for stride in self.strides]
        if blocks is not None and (voxels := blocks.visible((1,) * self.spatial_dims)) is not None:
            image = image * voxels.to(image.dtype)
        out = self.stem(image, masks[0])
        maps = []
        for stage, mask in zip(self.stages, masks, strict=True):
            out = stage(out, mask)
            maps.append(out)
        return maps

    def embed(self, image: Tensor) -> Tensor:
        """Mean of the coarsest map: (B, F)."""
        return self.forward(image)[-1].flatten(2).mean(-1)

    def layer_depths(self) -> dict[str, int]:
        """Depth of each top-level part, 0 = nearest to the image, for layer-wise learning rates."""
        return {"stem": 0, **{f"stages.{n}": n for n in range(len(self.stages))}}
