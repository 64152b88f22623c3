"""A decoder that completes one image with the help of another."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.models.attention import CrossAttention
from medssl.models.positions import sincos_positions
from medssl.models.token_decoder import decoder_shape


class PairDecoder(nn.Module):
    """Decoder of CroCo (Weinzaepfel et al., NeurIPS 2022, https://arxiv.org/abs/2210.10716).

    Each block: the first image's tokens attend to one another, then to the second's, which stay as they are.

    Args:
        inputs: Width E of the encoder's tokens.
        shape: Width D, blocks and attention heads.
        outputs: Numbers predicted for each patch of the first image.

    Raises:
        ConfigError: Width and heads do not fit.
    """

    def __init__(self, inputs: int, shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        width, depth, heads = decoder_shape(shape)
        self.project, self.out = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, width), std=0.02))
        self.blocks = nn.ModuleList(_PairBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, first: Tensor, second: Tensor, grid: Sequence[int], visible: Tensor, hidden: Tensor) -> Tensor:
        """Predictions (B, m, outputs) for the hidden patches of the first image.

        Args:
            first: (B, n, E) tokens of its visible patches.
            second: (B, N, E) tokens of all patches of the second image.
            grid: Patches an axis, of both images.
            visible: (B, n) numbers of the visible patches.
            hidden: (B, m) numbers of the hidden ones.
        """
        seen, memory = self.project(first), self.project(second)
        positions = sincos_positions(list(grid), seen.shape[-1]).to(seen)
        unseen = self.mask_token.to(seen.dtype) + positions[hidden]
        tokens, memory = torch.cat([seen + positions[visible], unseen], dim=1), memory + positions
        for block in self.blocks:
            tokens = block(tokens, memory)
        out: Tensor = self.out(self.norm(tokens[:, visible.shape[1] :]))
        return out


class _PairBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_self, self.norm_cross = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.norm_memory, self.norm = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.own, self.cross = CrossAttention(width, heads), CrossAttention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        own = self.norm_self(tokens)
        tokens = tokens + self.own(own, own, own)
        memory = self.norm_memory(memory)
        tokens = tokens + self.cross(self.norm_cross(tokens), memory, memory)
        out: Tensor = tokens + self.fc2(F.gelu(self.fc1(self.norm(tokens))))
        return out
