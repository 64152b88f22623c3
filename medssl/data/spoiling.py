"""Spoiling images so that a network can learn to restore them: local shuffling, bent intensities, painting.

After Models Genesis, Zhou et al., MICCAI 2019, https://arxiv.org/abs/1908.06912. What is done to each sample is drawn
first and then applied by a pure function, batched, on the device. Deviations: intensities are bent and noise is drawn
between each channel's lowest and highest value in the crop, because prepared images do not lie between 0 and 1; in- and
out-painting have at least one block; windows are at least 2 voxels a side where there is more than one, so that small
crops are shuffled as well.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medssl.data.boxes import draw_boxes, inside, sides_of
from medssl.data.intensity import bend

_BLOCKS = 5  # most blocks of a painting
_MORE = 0.95  # probability of each further block
_WINDOW = 10  # the image's side over the longest side of a window
_PAINTED, _LEFT = (
    (1 / 6, 1 / 3),
    (3 / 7, 4 / 7),
)  # sides of blocks painted in, and of those left, relative to the image's


@dataclass(frozen=True)
class CorruptionOptions:
    """How often and how strongly images are spoilt.

    Args:
        shuffle_p: Probability of local shuffling.
        windows: Windows whose voxels are shuffled; 10,000 cover a volume 1.2 times, and an image 25 times.
        bend_p: Probability of a curve over the intensities.
        paint_p: Probability of painting.
        outside: Share of paintings that leave some blocks and paint all else, not the other way round.
    """

    shuffle_p: float
    windows: int
    bend_p: float
    paint_p: float
    outside: float


@dataclass(frozen=True)
class Corruption:
    """What happens to each sample of a batch; drawn by `draw_corruption`, applied by `spoil`. All lies on the CPU.

    Args:
        shuffled: (B,) bool.
        window_start: (B, W, D) lowest corners of the windows.
        window_size: (B, W, D) their sides.
        bent: (B,) bool.
        curve: (B, 2, 2) x, then y, of the two inner control points of a cubic Bezier curve in the unit square.
        inverted: (B,) bool: the curve falls.
        painted: (B,) bool.
        outside: (B,) bool: the blocks are what is left.
        block_start: (B, 5, D) lowest corners of the blocks.
        block_size: (B, 5, D) their sides; 0 for blocks that are not there.
        seed: Of the noise and of the orders in the windows, which are drawn on the device: another kind of device draws
            others.
    """

    shuffled: Tensor
    window_start: Tensor
    window_size: Tensor
    bent: Tensor
    curve: Tensor
    inverted: Tensor
    painted: Tensor
    outside: Tensor
    block_start: Tensor
    block_size: Tensor
    seed: int


def draw_corruption(
    options: CorruptionOptions, batch: int, shape: Sequence[int], generator: torch.Generator
) -> Corruption:
    """Draw what happens to `batch` images of spatial shape `shape` from a CPU generator."""

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    chosen = uniform(5, batch)
    longest = [max(n // _WINDOW, min(2, n)) for n in shape]
    windows = draw_boxes(shape, (batch, options.windows), ([1] * len(shape), longest), generator)
    outside = chosen[3] < options.outside
    left, painted = (draw_boxes(shape, (batch, _BLOCKS), sides_of(shape, s), generator) for s in (_LEFT, _PAINTED))
    blocks = [torch.where(outside[:, None, None], *pair) for pair in zip(left, painted, strict=True)]
    further = (uniform(batch, _BLOCKS - 1) < _MORE).cumprod(1).bool()
    there = torch.cat([torch.ones(batch, 1, dtype=torch.bool), further], dim=1)
    return Corruption(
        shuffled=chosen[0] < options.shuffle_p,
        window_start=windows[0],
        window_size=windows[1],
        bent=chosen[1] < options.bend_p,
        curve=uniform(batch, 2, 2),
        inverted=chosen[4] < 0.5,
        painted=chosen[2] < options.paint_p,
        outside=outside,
        block_start=blocks[0],
        block_size=blocks[1] * there[..., None],
        seed=int(uniform(1) * 2**62),
    )


def spoil(corruption: Corruption, image: Tensor) -> Tensor:
    """Apply a corruption to images (B, C, *S) float32; pure, and what drew nothing comes back bit for bit."""
    c, generator = corruption, torch.Generator(device=image.device).manual_seed(corruption.seed)
    steps: tuple[tuple[Tensor, Callable[[Tensor, Tensor], Tensor]], ...] = (
        (c.shuffled, lambda part, rows: shuffle(part, c.window_start[rows], c.window_size[rows], generator)),
        (c.bent, lambda part, rows: bend(part, c.curve[rows].to(part), c.inverted[rows].to(part.device))),
        (c.painted, lambda part, rows: _paint(c, part, rows, generator)),
    )
    for chosen, change in steps:
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            picked = rows.to(image.device)
            image = image.index_copy(0, picked, change(image[picked], rows))
    return image


def shuffle(image: Tensor, start: Tensor, size: Tensor, generator: torch.Generator) -> Tensor:
    """Exchange the voxels of each window, all channels alike; windows read the original, the last one is what is seen.

    Each voxel of each window is one entry of a list: sorted by random keys within its window, an entry is a place and
    where that place's value comes from. One sort serves the whole batch.

    Args:
        image: (B, C, *S).
        start: (B, W, D) lowest corners on the CPU.
        size: (B, W, D) sides.
        generator: Of the orders, on the image's device.
    """
    batch, device, shape = len(image), image.device, image.shape[2:]
    count, total = math.prod(shape), int(size.prod(-1).sum())
    starts, sides = start.flatten(0, 1).to(device), size.flatten(0, 1).to(device)
    volume = sides.prod(-1)
    begin = volume.cumsum(0) - volume
    window = torch.repeat_interleave(volume, output_size=total)  # (T,) number of each entry's window
    entry = torch.arange(total, device=device)
    rest, step = entry - begin[window], 1
    place = window // start.shape[1] * count
    for axis in reversed(range(len(shape))):
        side = sides[window, axis]
        place = place + (starts[window, axis] + rest % side) * step
        rest, step = rest // side, step * shape[axis]
    keys = window + torch.rand(total, generator=generator, device=device, dtype=torch.float64)
    origin = place[keys.argsort()]
    itself = torch.arange(batch * count, device=device)
    last = torch.full_like(itself, -1).scatter_reduce(0, place, entry, "amax")
    source = torch.where(last >= 0, origin[last.clamp(min=0)], itself) if total else itself
    index = (source % count).view(batch, 1, count).expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, index).view_as(image)


def _paint(corruption: Corruption, image: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    start, size = (part[rows].to(image.device) for part in (corruption.block_start, corruption.block_size))
    shape = image.shape[2:]
    blocks = torch.stack([inside(start[:, n], size[:, n], shape) for n in range(_BLOCKS)]).any(0)
    hidden = blocks ^ corruption.outside[rows].to(image.device).view(-1, *[1] * len(shape))
    low, high = (bound(tuple(range(2, image.ndim)), keepdim=True) for bound in (image.amin, image.amax))
    noise = torch.rand(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    return torch.where(hidden[:, None], low + (high - low) * noise, image)
