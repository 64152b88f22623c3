"""Vision transformer for 2D and 3D that can embed only the patches it is shown."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.encoder import PatchEncoder
from medssl.models.positions import patchify, pick, sincos_positions


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929): (B, N, E) to (B, N, E)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = int(width * mlp_ratio)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Attend, then transform each token.

        Args:
            tokens: (B, N, E).
            first: Only tokens from here on are computed and returned, (B, N - first, E); they attend to all N. A last
                block whose other outputs nobody reads saves their cost.
        """
        kept = tokens[:, first:] + self._attend(self.norm1(tokens), first)
        out: Tensor = kept + self.fc2(F.gelu(self.fc1(self.norm2(kept))))
        return out

    def _attend(self, tokens: Tensor, first: int) -> Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, heads, N, E / heads)
        mixed = attention(query[:, :, first:], key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count - first, width))
        return out


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention: (B, heads, M, D) and twice (B, heads, N, D) to (B, heads, M, D).

    Plain products where bf16 is trained on a CPU: there the flash kernel of torch 2.13 takes two to three times as long
    (`tests/benchmarks/layers.py`: 129 tokens 21 against 7 ms, 513 tokens 98 against 54 ms, forward and backward).
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled():
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        mixed: Tensor = scores.softmax(-1, dtype=torch.bfloat16) @ value
        return mixed
    return F.scaled_dot_product_attention(query, key, value)


class ViT(PatchEncoder):
    """Vision transformer with fixed sine-cosine positions and a class token.

    Deviations from the paper: positions are fixed in N dimensions (as in MAE), so nothing is interpolated when the grid
    changes; the pyramid for dense tasks has the patch grid at four depths, as UNETR uses it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        patch_size: Side of a patch in voxels, one number or one an axis.
        width: Embedding width E; divisible by `heads`.
        depth: Number of blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over E.
        registers: Extra learned tokens that carry no position (Darcet et al., 2024, arXiv 2309.16588).

    Raises:
        ConfigError: Width and heads do not fit.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        patch_size: int | Sequence[int] = 8,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        registers: int = 0,
    ) -> None:
        super().__init__()
        if width % heads or width < 2 * spatial_dims:
            raise ConfigError([f"width {width} must be divisible by heads {heads} and at least {2 * spatial_dims}"])
        self.spatial_dims, self.in_channels, self.width = spatial_dims, in_channels, width
        self.patch_size = tuple([patch_size] * spatial_dims if isinstance(patch_size, int) else patch_size)
        patch_voxels = int(torch.tensor(self.patch_size).prod())
        self.patch_embed = nn.Linear(patch_voxels * in_channels, width)
        self.tokens = nn.Parameter(torch.zeros(1, 1 + registers, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.levels = tuple(sorted({max(1, round(depth * q / 4)) for q in (1, 2, 3, 4)}))
        self.feature_channels = (width,) * len(self.levels)
        self.strides = (self.patch_size,) * len(self.levels)
        nn.init.normal_(self.tokens, std=0.02)
        self.apply(_initialise)

    def forward(self, image: Tensor, fill: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
        """Patch grid (B, E, *grid) at four depths, the last one normalised; `fill` as in `encode`."""
        grid = self.grid(image.shape[2:])
        tokens = self._with_extra(self.embed_patches(image, None, fill))
        maps = []
        for depth, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
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

    def encode(self, image: Tensor, keep: Tensor | None = None, *, fill: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Normalised tokens (B, extra + n, E).

        Args:
            image: (B, C, *S).
            keep: (B, n) numbers of the patches that are looked at; None = all N.
            fill: Which patches are hidden (B, N) bool, and the token (1, 1, E) that takes their place.
        """
        tokens = self._with_extra(self.embed_patches(image, keep, fill))
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out

    def embed_patches(self, image: Tensor, keep: Tensor | None, fill: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Embedded patches with positions (B, n, E), as `encode` takes them; those not kept cost nothing."""
        patches = patchify(image, self.patch_size)
        positions = sincos_positions(self.grid(image.shape[2:]), self.width).to(image.device)
        if keep is not None:
            patches, positions = pick(patches, keep), positions[keep]
        tokens: Tensor = self.patch_embed(patches)
        if fill is not None:
            hidden, token = fill
            tokens = torch.where((hidden if keep is None else hidden.gather(1, keep))[..., None], token, tokens)
        return tokens + positions

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
