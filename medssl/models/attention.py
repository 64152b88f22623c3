"""Transformer blocks, with rotary positions and reparametrised weights as options."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

_MLP_RATIO = 4
_ROPE_BASE = 100.0
_ASKING = 64  # queries, about, whose attention is measured

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines (B or 1, 1, N, D / 2) by which queries and keys are turned."""


class SigmaLinear(nn.Linear):
    """Linear layer whose weight is `gamma / sigma(W) * W`, where sigma is W's largest singular value.

    Sigma-reparam, Zhai et al., ICML 2023, https://arxiv.org/abs/2303.06296: it bounds how sharp attention can get. One
    power iteration a pass in training, in float32; gamma starts at sigma, so that the layer starts as it was drawn (the
    authors' code; the paper's text has 1).
    """

    direction: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gamma = nn.Parameter(torch.ones(()))
        self.register_buffer("direction", torch.zeros(inputs))

    @torch.no_grad()
    def start(self) -> None:
        """Take gamma and the direction from the weight as it is now."""
        _, values, right = torch.linalg.svd(self.weight, full_matrices=False)
        self.gamma.copy_(values[0])
        self.direction.copy_(right[0])

    @torch.no_grad()
    def settle(self) -> None:
        """Put the bounded weight, as evaluation has it, in the weight's place; `start` makes gamma fit it again."""
        image = self.weight @ self.direction
        self.weight.mul_(self.gamma / (F.normalize(image, dim=0) @ image))

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply the bounded weight."""
        with torch.autocast(tokens.device.type, enabled=False):
            weight = self.weight.float()
            right = self.direction.clone()  # not the buffer: another pass may move it before backward
            with torch.no_grad():
                left = F.normalize(weight @ right, dim=0)
                if self.training:
                    right = F.normalize(weight.T @ left, dim=0)
                    self.direction.copy_(right)
            sigma = left @ (weight @ right)
            bounded = self.gamma / sigma * weight
        return F.linear(tokens, bounded.to(tokens.dtype), self.bias)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929): (B, N, E) to (B, N, E).

    Args:
        width: Width E.
        heads: Attention heads.
        bounded: Whether the linear layers are `SigmaLinear`.
    """

    def __init__(self, width: int, heads: int, bounded: bool = False) -> None:
        super().__init__()
        linear = SigmaLinear if bounded else nn.Linear
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = linear(width, 3 * width), linear(width, width)
        self.fc1, self.fc2 = linear(width, _MLP_RATIO * width), linear(_MLP_RATIO * width, width)

    def forward(self, tokens: Tensor, first: int = 0, rotation: Rotation | None = None) -> Tensor:
        """Attend, then transform each token.

        Args:
            tokens: (B, N, E).
            first: Only tokens from here on are computed and returned, (B, N - first, E); they attend to all N. A last
                block whose other outputs nobody reads saves their cost.
            rotation: Of queries and keys, by their positions.
        """
        kept = tokens[:, first:] + self.proj(self._attend(self.qkv(self.norm1(tokens)), first, rotation))
        return self._transform(kept)

    def packed(self, groups: Sequence[Tensor], rotations: Sequence[Rotation | None]) -> list[Tensor]:
        """As `forward` of each group (B, N, E), in one pass: all layers but the attention see the tokens of all.

        Oquab et al., 2023, https://arxiv.org/abs/2304.07193, pack crops of unlike size likewise; attention here goes
        group by group, which no mask and no kernel of its own is needed for.
        """
        tokens = _pack(groups)
        parts = _unpack(self.qkv(self.norm1(tokens)), groups)
        mixed = [self._attend(part, 0, rotation) for part, rotation in zip(parts, rotations, strict=True)]
        return _unpack(self._transform(tokens + self.proj(_pack(mixed))), groups)

    def attention_entropy(self, tokens: Tensor, first: int = 0, rotation: Rotation | None = None) -> Tensor:
        """How evenly each head looks at the tokens, with the arguments of `forward`: (heads,), see `mean_entropy`."""
        query, key, _ = self._parts(self.qkv(self.norm1(tokens)), rotation)
        asking = query[:, :, first :: max(1, (query.shape[2] - first) // _ASKING)]  # some are enough, all may be much
        return mean_entropy(asking * query.shape[-1] ** -0.5 @ key.transpose(-1, -2))

    def _transform(self, tokens: Tensor) -> Tensor:
        out: Tensor = tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return out

    def _attend(self, qkv: Tensor, first: int, rotation: Rotation | None) -> Tensor:
        """What each token from `first` on takes from all: (B, N, 3 E) to (B, N - first, E)."""
        query, key, value = self._parts(qkv, rotation)
        return attention(query[:, :, first:], key, value).transpose(1, 2).flatten(2)

    def _parts(self, qkv: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: (B, N, 3 E) to three of (B, heads, N, E / heads)."""
        parts = qkv.view(*qkv.shape[:2], 3, self.heads, qkv.shape[2] // (3 * self.heads)).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in parts)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, key, value


def _pack(groups: Sequence[Tensor]) -> Tensor:
    return torch.cat([group.flatten(0, 1) for group in groups])


def _unpack(tokens: Tensor, groups: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(tokens, [group.shape[0] * group.shape[1] for group in groups])
    return [part.view(*group.shape[:2], -1) for part, group in zip(parts, groups, strict=True)]


class CrossAttention(nn.Module):
    """Tokens (B, M, E) look at others (B, N, E): (B, M, E).

    Args:
        width: Width E.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What the tokens take from `values`, found by `keys`."""
        parts = (self.query(tokens), self.key(keys), self.value(values))
        query, key, value = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        out: Tensor = self.proj(attention(query, key, value).transpose(1, 2).flatten(2))
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


def mean_entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax attention as a share of the largest: 1 = looks at all it may see alike, 0 = at one of them.

    Low entropy comes before training diverges (Zhai et al., ICML 2023, https://arxiv.org/abs/2303.06296).

    Args:
        logits: (B, heads, M, N), -inf where a token may not be seen.

    Returns:
        (heads,), the mean over B and M; what may see one token alone counts as 1.
    """
    entropy = torch.special.entr(logits.float().softmax(-1)).sum(-1)
    seen = torch.isfinite(logits).sum(-1)
    return torch.where(seen > 1, entropy / seen.clamp_min(2).log(), 1.0).mean((0, 2))


def rotate(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of coordinates of (B, heads, N, D) by its position's angles."""
    cosines, sines = (part.to(vectors.dtype) for part in rotation)
    half = vectors.shape[-1] // 2
    first, second = vectors[..., :half], vectors[..., half : 2 * half]
    turned = [first * cosines - second * sines, first * sines + second * cosines, vectors[..., 2 * half :]]
    return torch.cat(turned, dim=-1)


def rotary_angles(grid: Sequence[int], head_width: int) -> Tensor:
    """Angles (N, D / 2) of the patches of a grid, for heads of width D.

    Rotary embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864) in N dimensions, as CroCo v2 has it in two
    (Weinzaepfel et al., ICCV 2023, https://arxiv.org/abs/2211.10408): pairs of coordinates are split over the axes,
    base 100; pairs that are left over are not turned. Scores then depend on the distance of two patches alone.
    """
    return torch.from_numpy(_angles(tuple(grid), head_width).copy())


@lru_cache(maxsize=64)
def _angles(grid: tuple[int, ...], head_width: int) -> npt.NDArray[np.float32]:
    """Kept as numpy: a tensor made while a graph is traced for export must not outlive the trace."""
    half = head_width // 2
    each = half // len(grid)
    frequencies = _ROPE_BASE ** (-np.arange(each) / max(each, 1))
    table = np.zeros((math.prod(grid), half), dtype=np.float32)
    for number, axis in enumerate(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")):
        table[:, number * each : (number + 1) * each] = axis.reshape(-1, 1) * frequencies
    return table
