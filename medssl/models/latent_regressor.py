"""Predicts the latents of hidden patches by looking at those of visible ones."""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.models.attention import CrossAttention

_SCALE = 0.1


class LatentRegressor(nn.Module):
    """Cross-attention blocks of CAE (Chen et al., 2022, https://arxiv.org/abs/2202.03026).

    Keys are the visible latents and the hidden ones as they are so far, with positions; values are the same without.

    Args:
        width: Width E.
        heads: Attention heads.
        depth: Blocks.
    """

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, visible: Tensor, places: Tensor, wanted: Tensor) -> Tensor:
        """Normalised latents (B, m, E) of the hidden patches.

        Args:
            visible: (B, n, E) latents of visible patches.
            places: (B, n, E) their positions.
            wanted: (B, m, E) positions of the hidden patches.
        """
        latents = self.query.to(visible.dtype).expand(wanted.shape)
        places, wanted = places.to(visible.dtype), wanted.to(visible.dtype)
        for block in self.blocks:
            latents = block(latents, visible, places, wanted)
        out: Tensor = self.norm(latents)
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_query, self.norm_memory = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.cross, self.norm = CrossAttention(width, heads), nn.LayerNorm(width, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale_cross = nn.Parameter(torch.full((width,), _SCALE))
        self.scale_mlp = nn.Parameter(torch.full((width,), _SCALE))

    def forward(self, latents: Tensor, visible: Tensor, places: Tensor, wanted: Tensor) -> Tensor:
        memory = self.norm_memory(torch.cat([visible, latents], dim=1))
        keys = memory + torch.cat([places, wanted], dim=1)
        found = self.cross(self.norm_query(latents) + wanted, keys, memory)
        latents = latents + self.scale_cross * found
        out: Tensor = latents + self.scale_mlp * self.fc2(F.gelu(self.fc1(self.norm(latents))))
        return out
