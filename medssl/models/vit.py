"""Vision transformer for 2D and 3D that can embed only the patches it is shown."""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.attention import Rotation, SigmaLinear, TransformerBlock, rotary_angles
from medssl.models.encoder import PatchEncoder
from medssl.models.positions import patchify, pick, sincos_positions

Attention = Literal["plain", "rope", "sigma", "rope_sigma"]

SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
"""Width, depth and heads (Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877; Dosovitskiy et al., 2021)."""


class ViT(PatchEncoder):
    """Vision transformer with a class token, and with sine-cosine or rotary positions.

    Deviations from the paper: positions are fixed in N dimensions (as in MAE) and count the patches of an image's own
    grid from 0, so nothing is interpolated when the grid changes. A smaller image has the positions of a larger one's
    lowest corner, local views beside global ones as well, where the papers interpolate one table and a view of any size
    spans all positions; the far patches of a larger image have positions that were not trained. The pyramid for dense
    tasks has the patch grid at four depths, as UNETR uses it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        patch_size: Side of a patch in voxels, one number or one an axis.
        width: Embedding width E, divisible by `heads`; or `tiny`, `small`, `base` or `large`, which set depth and heads
            as well.
        depth: Number of blocks.
        heads: Attention heads.
        registers: Extra learned tokens that carry no position (Darcet et al., 2024, arXiv 2309.16588).
        attention: `rope` turns queries and keys by their positions instead of adding positions to the tokens; `sigma`
            bounds the weights of every linear layer in the blocks, against attention that collapses; or both.

    Raises:
        ConfigError: Width and heads do not fit.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        patch_size: int | Sequence[int] = 8,
        width: int | Literal["tiny", "small", "base", "large"] = 384,
        depth: int = 6,
        heads: int = 6,
        registers: int = 0,
        attention: Attention = "plain",
    ) -> None:
        super().__init__()
        if isinstance(width, str):
            if width not in SIZES:
                raise ConfigError([f"width must be a number or one of {', '.join(SIZES)}, got {width!r}"])
            width, depth, heads = SIZES[width]
        if width % heads or width < 2 * spatial_dims:
            raise ConfigError([f"width {width} must be divisible by heads {heads} and at least {2 * spatial_dims}"])
        if attention.startswith("rope") and width // heads < 2 * spatial_dims:
            least = f"{2 * spatial_dims} numbers a head or more in {spatial_dims}D"
            raise ConfigError([f"attention {attention} needs {least}, got {width // heads}: it would see no positions"])
        self.spatial_dims, self.in_channels, self.width = spatial_dims, in_channels, width
        self.patch_size = tuple([patch_size] * spatial_dims if isinstance(patch_size, int) else patch_size)
        patch_voxels = math.prod(self.patch_size)
        self.patch_embed = nn.Linear(patch_voxels * in_channels, width)
        self.tokens = nn.Parameter(torch.zeros(1, 1 + registers, width))
        self.heads, self._head_width = heads, width // heads
        self.rotary, bounded = attention.startswith("rope"), attention.endswith("sigma")
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, bounded) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.levels = tuple(sorted({max(1, round(depth * q / 4)) for q in (1, 2, 3, 4)}))
        self.feature_channels = (width,) * len(self.levels)
        self.strides = (self.patch_size,) * len(self.levels)
        nn.init.normal_(self.tokens, std=0.02)
        self.apply(_initialise)

    def _rotation(self, image: Tensor, keep: Tensor | None) -> Rotation | None:
        """By which queries and keys are turned; the class token and the registers stay as they are."""
        if not self.rotary:
            return None
        angles = rotary_angles(self.grid(image.shape[2:]), self._head_width).to(image.device)
        angles = angles[None] if keep is None else angles[keep]
        angles = F.pad(angles, (0, 0, self.tokens.shape[1], 0))[:, None]
        return angles.cos(), angles.sin()

    def forward(self, image: Tensor, fill: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
        """Patch grid (B, E, *grid) at four depths, the last one normalised; `fill` as in `encode`."""
        grid = self.grid(image.shape[2:])
        tokens = self._with_extra(self.embed_patches(image, None, fill))
        maps, rotation = [], self._rotation(image, None)
        for depth, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, rotation=rotation)
            if depth in self.levels:
                last = self.norm(tokens) if depth == len(self.blocks) else tokens
                maps.append(last[:, self.tokens.shape[1] :].transpose(1, 2).reshape(image.shape[0], self.width, *grid))
        return maps

    def embed(self, image: Tensor) -> Tensor:
        """Mean of the patch tokens: (B, E)."""
        return self.encode(image, None)[:, self.tokens.shape[1] :].mean(1)

    def summary(self, image: Tensor) -> Tensor:
        """The class token: (B, E)."""
        return self.encode(image, None)[:, 0]

    def class_tokens(self, image: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """Normalised class tokens of the last blocks (B, last, E), and the mean of the last patch tokens (B, E).

        Args:
            image: (B, C, *S).
            last: Blocks, at most all.
        """
        tokens, rotation = self._with_extra(self.embed_patches(image, None)), self._rotation(image, None)
        found = []
        for block in self.blocks:
            tokens = block(tokens, rotation=rotation)
            found.append(tokens[:, 0])
        mean: Tensor = self.norm(tokens)[:, self.tokens.shape[1] :].mean(1)
        return self.norm(torch.stack(found[-last:], dim=1)), mean

    def encode(self, image: Tensor, keep: Tensor | None = None, *, fill: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Normalised tokens (B, extra + n, E).

        Args:
            image: (B, C, *S).
            keep: (B, n) numbers of the patches that are looked at; None = all N.
            fill: Which patches are hidden (B, N) bool, and the token (1, 1, E) that takes their place.
        """
        tokens = self._with_extra(self.embed_patches(image, keep, fill))
        rotation = self._rotation(image, keep)
        for block in self.blocks:
            tokens = block(tokens, rotation=rotation)
        out: Tensor = self.norm(tokens)
        return out

    def encode_packed(self, images: Sequence[Tensor], fills: Sequence[tuple[Tensor, Tensor] | None]) -> list[Tensor]:
        """As `encode` of each batch of images, whose sizes may differ, in one pass over the blocks.

        Args:
            images: Each (B, C, *S).
            fills: Of each, as in `encode`.
        """
        pairs = zip(images, fills, strict=True)
        groups = [self._with_extra(self.embed_patches(image, None, fill)) for image, fill in pairs]
        rotations = [self._rotation(image, None) for image in images]
        for block in self.blocks:
            groups = cast(TransformerBlock, block).packed(groups, rotations)
        return [self.norm(group) for group in groups]

    def embed_patches(self, image: Tensor, keep: Tensor | None, fill: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Embedded patches (B, n, E), as `encode` takes them, with added positions; those not kept cost nothing."""
        grid = self.grid(image.shape[2:])
        patches = patchify(image, self.patch_size)
        if keep is not None:
            patches = pick(patches, keep)
        tokens: Tensor = self.patch_embed(patches)
        if fill is not None:
            hidden, token = fill
            tokens = torch.where((hidden if keep is None else hidden.gather(1, keep))[..., None], token, tokens)
        if self.rotary:
            return tokens
        positions = sincos_positions(grid, self.width).to(image.device)
        return tokens + (positions if keep is None else positions[keep])

    def _with_extra(self, tokens: Tensor) -> Tensor:
        extra = self.tokens.expand(tokens.shape[0], -1, -1).to(tokens.dtype)
        return torch.cat([extra, tokens], dim=1)

    def layer_depths(self) -> dict[str, int]:
        """Depth of each top-level part, 0 = nearest to the image, for layer-wise learning rates."""
        depths = {"patch_embed": 0, "tokens": 0, "norm": len(self.blocks)}
        return depths | {f"blocks.{n}": n + 1 for n in range(len(self.blocks))}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, SigmaLinear):
        module.start()
