"""Attention within windows of a grid of tokens, as Swin Transformer V2 has it; 2D and 3D from one code path.

Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022, https://arxiv.org/abs/2111.09883.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.models.attention import mean_entropy

_HIDDEN = 512  # of the network that makes the position bias
_LARGEST_BIAS = 16.0
_LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class Windows:
    """How a grid of tokens is cut into windows.

    Where windows do not divide the grid it is filled up at its end; the filling is seen by nobody.

    Args:
        grid: Tokens an axis.
        size: Tokens of a window an axis.
        shift: Tokens by which the windows are moved along each axis; what leaves at one end enters at the other.
    """

    grid: tuple[int, ...]
    size: tuple[int, ...]
    shift: tuple[int, ...]

    @classmethod
    def over(cls, grid: Sequence[int], window: Sequence[int], shifted: bool) -> "Windows":
        """Windows over a grid, moved by half their size; along an axis that one window spans nothing moves."""
        size = tuple(min(g, w) for g, w in zip(grid, window, strict=True))
        shift = tuple(s // 2 if shifted and s < g else 0 for g, s in zip(grid, size, strict=True))
        return cls(tuple(grid), size, shift)

    @property
    def filled(self) -> tuple[int, ...]:
        """The grid after it was filled up."""
        return tuple(-(-g // s) * s for g, s in zip(self.grid, self.size, strict=True))

    def split(self, tokens: Tensor) -> Tensor:
        """(B, *grid, E) to (B * n, T, E): the windows of each sample, one after the other."""
        missing = [f - g for f, g in zip(self.filled, self.grid, strict=True)]
        if any(missing):
            tokens = F.pad(tokens, (0, 0, *(n for extra in reversed(missing) for n in (0, extra))))
        if any(self.shift):
            tokens = tokens.roll([-s for s in self.shift], self._axes)
        return self._cut(tokens)

    def join(self, windows: Tensor) -> Tensor:
        """Inverse of `split`: (B * n, T, E) to (B, *grid, E)."""
        dims = len(self.grid)
        tokens = windows.view(-1, *self._cells, *self.size, windows.shape[-1])
        paired = [axis for pair in zip(range(1, 1 + dims), range(1 + dims, 1 + 2 * dims), strict=True) for axis in pair]
        tokens = tokens.permute(0, *paired, 1 + 2 * dims).reshape(-1, *self.filled, windows.shape[-1])
        if any(self.shift):
            tokens = tokens.roll(list(self.shift), self._axes)
        for axis, length in enumerate(self.grid, start=1):
            tokens = tokens.narrow(axis, 0, length)
        return tokens

    def apart(self, device: torch.device) -> Tensor | None:
        """(n, T, T) bool, True where two tokens of a window are no neighbours in the grid; None where there are none.

        A window at the end of the moved grid holds tokens from both ends of it, and the filling.
        """
        if not any(self.shift) and self.filled == self.grid:
            return None
        region = torch.zeros((), dtype=torch.long, device=device)
        for axis, (length, full, shift) in enumerate(zip(self.grid, self.filled, self.shift, strict=True)):
            place = torch.arange(full, device=device)
            entered, filling = place >= full - shift, (place + shift) % full >= length
            line = entered.long() + 2 * filling.long()
            region = 4 * region + line.view(*[full if other == axis else 1 for other in range(len(self.grid))])
        regions = self._cut(region[None, ..., None])[..., 0]  # (n, T)
        return regions[:, :, None] != regions[:, None, :]

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(1, 1 + len(self.grid)))

    @property
    def _cells(self) -> tuple[int, ...]:
        return tuple(f // s for f, s in zip(self.filled, self.size, strict=True))

    def _cut(self, tokens: Tensor) -> Tensor:
        dims = len(self.grid)
        pairs = [n for pair in zip(self._cells, self.size, strict=True) for n in pair]
        cut = tokens.reshape(-1, *pairs, tokens.shape[-1])
        order = (0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 1 + 2 * dims)
        return cut.permute(order).reshape(-1, math.prod(self.size), tokens.shape[-1])


class WindowAttention(nn.Module):
    """Scaled cosine attention with a continuous position bias.

    Logits are cosines times a learned scale of each head, at most 100, plus a bias of at most 16 that a small network
    makes of the logarithm of the distance along each axis, so that it can be asked for distances it was not trained on.
    Deviation: distances are relative to the configured window also where the grid is smaller than it, so that a bias
    means the same distance at every image size.

    Args:
        width: Width E of a token; divisible by `heads`.
        heads: Attention heads.
        reach: Window that distances are relative to, an axis each: that of the pretraining.
    """

    def __init__(self, width: int, heads: int, reach: Sequence[int]) -> None:
        super().__init__()
        self.heads, self.reach = heads, tuple(reach)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.full((heads,), math.log(10.0)))
        self.position = nn.Sequential(
            nn.Linear(len(self.reach), _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, heads, bias=False)
        )

    def forward(self, tokens: Tensor, windows: Windows, apart: Tensor | None) -> Tensor:
        """Attend within windows: (B, *grid, E) to the same.

        Args:
            tokens: (B, *grid, E).
            windows: How the grid is cut.
            apart: What `windows.apart` says; made once for all blocks that share it.
        """
        cut = windows.split(tokens)
        logits = self._logits(cut, windows.size, apart)
        value = self._per_head(self.value(cut))
        mixed = logits.softmax(-1).to(value.dtype) @ value
        joined: Tensor = self.proj(mixed.transpose(1, 2).reshape(cut.shape))
        return windows.join(joined)

    def attention_entropy(self, tokens: Tensor, windows: Windows, apart: Tensor | None) -> Tensor:
        """How evenly each head looks at its window, with the arguments of `forward`: (heads,), see `mean_entropy`."""
        return mean_entropy(self._logits(windows.split(tokens), windows.size, apart))

    def bias(self, size: Sequence[int]) -> Tensor:
        """(heads, T, T) between 0 and 16, of the tokens of a window of `size`."""
        device = self.log_scale.device
        table: Tensor = _LARGEST_BIAS * self.position(log_offsets(size, self.reach, device)).sigmoid()
        return table[_offset_numbers(size, device)].permute(2, 0, 1)

    def _logits(self, windows: Tensor, size: Sequence[int], apart: Tensor | None = None) -> Tensor:
        """(B * n, heads, T, T) in float32, which they need: cosines are multiplied by up to 100."""
        query, key = (F.normalize(self._per_head(part(windows)).float(), dim=-1) for part in (self.query, self.key))
        with torch.autocast(windows.device.type, enabled=False):
            scale = self.log_scale.clamp(max=math.log(_LARGEST_SCALE)).exp()
            logits = query @ key.transpose(-1, -2) * scale[:, None, None] + self.bias(size)
        if apart is None:
            return logits
        each = logits.view(-1, *apart.shape[:1], *logits.shape[1:])  # (B, n, heads, T, T)
        return each.masked_fill(apart[:, None], -torch.inf).view(logits.shape)

    def _per_head(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:-1], self.heads, -1).transpose(1, 2)


def log_offsets(size: Sequence[int], reach: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Logarithms of all offsets between tokens of a window, `sign(o) log2(1 + |8 o|) / 3`, row-major.

    Args:
        size: Tokens of the window an axis; offsets run from `1 - size` to `size - 1`.
        reach: Window that an offset o is relative to: it is divided by `reach - 1`.
        device: Where they are made.

    Returns:
        (prod(2 size - 1), D) float32.
    """
    lines = [
        torch.arange(1 - n, n, device=device, dtype=torch.float32) * (8 / max(longest - 1, 1))
        for n, longest in zip(size, reach, strict=True)
    ]
    logs = [line.sign() * (1 + line.abs()).log2() / 3 for line in lines]
    return torch.stack(torch.meshgrid(*logs, indexing="ij"), dim=-1).flatten(0, -2)


def _offset_numbers(size: Sequence[int], device: torch.device) -> Tensor:
    """(T, T): which row of `log_offsets` is the offset from one token of a window to another."""
    lines = [torch.arange(n, device=device) for n in size]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij")).flatten(1)  # (D, T)
    numbers = torch.zeros((), dtype=torch.long, device=device)
    for line, n in zip(places, size, strict=True):
        numbers = numbers * (2 * n - 1) + line[:, None] - line[None, :] + n - 1
    return numbers
