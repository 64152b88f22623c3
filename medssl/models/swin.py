"""Swin Transformer V2 for 2D and 3D."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.encoder import PatchEncoder
from medssl.models.layers import conv
from medssl.models.window_attention import WindowAttention, Windows

_MLP_RATIO = 4


class SwinV2(PatchEncoder):
    """Hierarchical transformer with attention within shifted windows.

    Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022, https://arxiv.org/abs/2111.09883.
    Deviations: N dimensions, so 2^D neighbours are merged; a grid that windows do not divide is filled up, and nobody
    attends to the filling; finer maps of the pyramid are normalised without learned factors, as in Swin UNETR; no
    further norms between the blocks of very deep stages.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        patch_size: Side of a patch in voxels, one number or one an axis.
        width: Width of an embedded patch; each further stage has twice as many, on a grid half as fine.
        stages: Blocks and attention heads of each stage; a stage of 0 blocks merges patches and does no more.
        window: Side of a window in patches, one number or one an axis.
        pretrained_window: That of the pretraining, where fine-tuning has another: position biases then keep their
            meaning. Like `window` for all stages, or a list for each, such as [[8, 8], [4, 4]]. None = `window`.
        drop_path: Share of samples for which the last block is skipped in training; rises from 0 at the first block.

    Raises:
        ConfigError: The numbers do not fit.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        patch_size: int | Sequence[int] = 4,
        width: int = 96,
        stages: Sequence[Sequence[int]] = ((2, 3), (2, 6), (6, 12), (2, 24)),
        window: int | Sequence[int] = 7,
        pretrained_window: int | Sequence[int] | Sequence[Sequence[int]] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_size, self.window = _per_axis(patch_size, spatial_dims), _per_axis(window, spatial_dims)
        reaches = _per_stage(window if pretrained_window is None else pretrained_window, spatial_dims, len(stages))
        sides = [("patch_size", self.patch_size), ("window", self.window)]
        sides += [("pretrained_window", reach) for reach in dict.fromkeys(reaches)]
        problems = _misfits(spatial_dims, sides, width, stages, drop_path)
        if len(reaches) != len(stages):
            problems.append(f"pretrained_window needs a list for each of {len(stages)} stages, got {len(reaches)}")
        if problems:
            raise ConfigError(problems)
        self.spatial_dims, self.in_channels, self.width = spatial_dims, in_channels, width
        self.feature_channels = tuple(width * 2**level for level in range(len(stages)))
        self.strides = tuple(tuple(p * 2**level for p in self.patch_size) for level in range(len(stages)))
        self.patch_embed = PatchEmbedding(spatial_dims, in_channels, self.patch_size, width)
        total = sum(blocks for blocks, _ in stages)
        shares = [drop_path * number / max(total - 1, 1) for number in range(total)]
        self.stages = nn.ModuleList()
        for level, (blocks, heads) in enumerate(stages):
            own, shares = shares[:blocks], shares[blocks:]
            made = [SwinBlock(self.feature_channels[level], heads, reaches[level], share) for share in own]
            merge = PatchMerging(spatial_dims, self.feature_channels[level - 1]) if level else None
            self.stages.append(SwinStage(merge, made, self.window))
        self.norm = nn.LayerNorm(self.feature_channels[-1])
        self.apply(_initialise)

    def forward(self, image: Tensor, fill: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
        """Feature maps (B, F, *S / stride), fine to coarse, each normalised over its channels."""
        grid = self.grid(image.shape[2:])
        tokens = self.patch_embed(image)
        if fill is not None:
            hidden, token = fill
            tokens = torch.where(hidden.view(-1, *grid, 1), token.view(-1), tokens)
        maps = []
        for stage in self.stages:
            tokens = stage(tokens)
            maps.append(tokens)
        normal = [*(F.layer_norm(out, out.shape[-1:]) for out in maps[:-1]), self.norm(maps[-1])]
        return [out.movedim(-1, 1) for out in normal]

    def embed(self, image: Tensor) -> Tensor:
        """Mean of the coarsest map: (B, F)."""
        return self.forward(image)[-1].flatten(2).mean(-1)

    def layer_depths(self) -> dict[str, int]:
        """Depth of each top-level part, 0 = nearest to the image, for layer-wise learning rates."""
        return {
            "patch_embed": 0,
            **{f"stages.{n}": n + 1 for n in range(len(self.stages))},
            "norm": len(self.stages),
        }


class PatchEmbedding(nn.Module):
    """Linear embedding of each patch, then a norm: (B, C, *S) to (B, *grid, E)."""

    def __init__(self, spatial_dims: int, in_channels: int, patch_size: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.embed = conv(spatial_dims)(in_channels, width, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """Embed."""
        out: Tensor = self.norm(self.embed(image).movedim(1, -1))
        return out


class PatchMerging(nn.Module):
    """2^D neighbours to one token of twice the width: (B, *grid, E) to (B, *grid / 2, 2 E)."""

    def __init__(self, spatial_dims: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(2**spatial_dims * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Merge; each side of the grid is even."""
        pairs = Windows.over(tokens.shape[1:-1], [2] * (tokens.ndim - 2), shifted=False)
        cells = [n // 2 for n in tokens.shape[1:-1]]
        merged = pairs.split(tokens).flatten(1).view(-1, *cells, self.reduce.in_features)
        out: Tensor = self.norm(self.reduce(merged))
        return out


class SwinStage(nn.Module):
    """Blocks on one grid, every other one with shifted windows, after merging patches where there is a `merge`."""

    def __init__(self, merge: PatchMerging | None, blocks: Sequence["SwinBlock"], window: tuple[int, ...]) -> None:
        super().__init__()
        self.merge, self.blocks, self.window = merge, nn.ModuleList(blocks), window

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, *grid, E) to (B, *grid, E), or to half the grid and twice the width."""
        if self.merge is not None:
            tokens = self.merge(tokens)
        cuts = [Windows.over(tokens.shape[1:-1], self.window, shifted) for shifted in (False, True)]
        apart = [cut.apart(tokens.device) for cut in cuts[: len(self.blocks)]]
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, cuts[number % 2], apart[number % 2])
        return tokens


class SwinBlock(nn.Module):
    """Attention and MLP, each normalised before it is added: with norms of 0 the block starts as the identity."""

    def __init__(self, width: int, heads: int, reach: tuple[int, ...], drop_path: float) -> None:
        super().__init__()
        self.attention, self.drop_path = WindowAttention(width, heads, reach), drop_path
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, _MLP_RATIO * width), nn.Linear(_MLP_RATIO * width, width)

    def forward(self, tokens: Tensor, windows: Windows, apart: Tensor | None) -> Tensor:
        """(B, *grid, E) to (B, *grid, E)."""
        tokens = tokens + self._drop(self.norm1(self.attention(tokens, windows, apart)))
        return tokens + self._drop(self.norm2(self.fc2(F.gelu(self.fc1(tokens)))))

    def _drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang et al., ECCV 2016, https://arxiv.org/abs/1603.09382)."""
        if not self.drop_path or not self.training:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= self.drop_path
        return branch * (kept.to(branch.dtype) / (1 - self.drop_path))


def _per_axis(side: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (side,) * dims if isinstance(side, int) else tuple(side)


def _per_stage(side: int | Sequence[int] | Sequence[Sequence[int]], dims: int, stages: int) -> list[tuple[int, ...]]:
    if isinstance(side, int) or all(isinstance(own, int) for own in side):
        return [_per_axis(cast(int | Sequence[int], side), dims)] * stages
    return [_per_axis(own, dims) for own in side]


def _misfits(
    dims: int,
    per_axis: Sequence[tuple[str, tuple[int, ...]]],
    width: int,
    stages: Sequence[Sequence[int]],
    drop_path: float,
) -> list[str]:
    problems = [
        f"{name} needs {dims} numbers of 1 and more, got {sides}"
        for name, sides in per_axis
        if len(sides) != dims or min(sides) < 1
    ]
    if not stages or any(len(stage) != 2 or stage[0] < 0 or stage[1] < 1 for stage in stages):
        problems.append(f"stages needs blocks and heads of each stage, such as [[2, 3], [2, 6]], got {stages}")
    elif uneven := [heads for level, (_, heads) in enumerate(stages) if width * 2**level % heads]:
        problems.append(f"width {width}, doubled with each stage, must be divisible by its heads, got {uneven}")
    if not 0 <= drop_path < 1:
        problems.append(f"drop_path must lie in [0, 1), got {drop_path}")
    return problems


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, SwinBlock):
        for norm in (module.norm1, module.norm2):
            nn.init.zeros_(norm.weight)
            nn.init.zeros_(norm.bias)
