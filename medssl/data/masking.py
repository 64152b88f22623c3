"""Masks over a grid of patches or blocks: True = hidden. Pure functions of a CPU generator."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from medssl.imaging.errors import ConfigError

Colour = Literal["red", "blue", "green", "purple"]
Coloured = Colour | tuple[Colour, float] | tuple[Colour, float, float]
MaskKind = Literal["random", "block"] | Coloured
"""A colour alone has the filters of `SIGMAS`; else their widths follow it."""

SIGMAS: dict[str, tuple[float, ...]] = {"red": (1.5,), "blue": (1.0,), "green": (0.6, 1.8), "purple": (0.6, 1.8)}
"""Filters of coloured masks in cells: choices of this project, the paper's are not known."""

_ASPECT = 1 / 0.3  # largest ratio of two sides of a box
_ROUNDING = 1e-9  # 10 * (1 - 0.9) is a little less than 1 in floating point
_TRIES = 10  # boxes in a row that do not fit before single cells fill the rest


def hidden_count(cells: int, ratio: float) -> int:
    """How many of the cells are hidden: `cells - int(cells * (1 - ratio))`, as in MAE, or `ceil(cells * ratio)`."""
    return cells - int(cells * (1 - ratio) + _ROUNDING)


def random_mask(grid: Sequence[int], batch: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Hide the same number of cells in each sample, drawn uniformly.

    Args:
        grid: Cells an axis.
        batch: Number of samples B.
        ratio: Share hidden, in (0, 1).
        generator: CPU generator, so that CPU and GPU give one result.

    Returns:
        (B, *grid) bool, True = hidden.
    """
    return _lowest(torch.rand(batch, math.prod(grid), generator=generator), ratio).reshape(batch, *grid)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Generator keyed by the run's seed and the step, so that a resumed run draws what it would have drawn."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def draw_mask(kind: MaskKind, grid: Sequence[int], batch: int, ratio: float, generator: torch.Generator) -> Tensor:
    """As `any_mask`, and something is left to learn from.

    Raises:
        ConfigError: The ratio hides every cell.
    """
    if hidden_count(math.prod(grid), ratio) == math.prod(grid):
        cells = " x ".join(str(n) for n in grid)
        told = f"a mask of {ratio:g} hides all {math.prod(grid)} patches or blocks of a crop ({cells})"
        raise ConfigError([f"{told}, nothing is left to learn from: take smaller ones, larger crops or a lower ratio"])
    return any_mask(kind, grid, batch, ratio, generator)


def any_mask(kind: MaskKind, grid: Sequence[int], batch: int, ratio: float, generator: torch.Generator) -> Tensor:
    """(B, *grid) bool, True = hidden, the same number in each sample, from the generator that `kind` names."""
    if kind == "random":
        return random_mask(grid, batch, ratio, generator)
    if kind == "block":
        return block_mask(grid, batch, ratio, generator)
    colour, sigmas = (kind, SIGMAS[kind]) if isinstance(kind, str) else (kind[0], kind[1:])
    return noise_mask(grid, batch, ratio, generator, colour, sigmas)


def wrong_mask(kind: MaskKind) -> list[str]:
    """A sentence where a colour comes with widths that are not as many as it has filters, positive and rising."""
    if isinstance(kind, str):
        return []
    colour, *sigmas = kind
    if len(sigmas) == len(SIGMAS[colour]) and all(low < high for low, high in pairwise([0.0, *sigmas])):
        return []
    return [f"mask {colour} has {len(SIGMAS[colour])} filter(s), whose widths must rise from above 0, got {sigmas}"]


def visible_and_hidden(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the visible (B, n) and hidden (B, m) cells, rising, of a mask that hides m cells in each sample.

    Args:
        mask: (B, *grid) bool on the CPU, True = hidden.
    """
    flat = mask.flatten(1)
    order = flat.long().argsort(stable=True, dim=1)
    split = flat.shape[1] - int(flat[0].sum())
    return order[:, :split], order[:, split:]


def noise_mask(
    grid: Sequence[int], batch: int, ratio: float, generator: torch.Generator, colour: Colour, sigmas: Sequence[float]
) -> Tensor:
    """Hide the same number of cells in each sample where filtered noise is low.

    ColorMAE, Hinojosa et al., ECCV 2024, https://arxiv.org/abs/2407.13036. Red noise makes large patches of hidden
    cells, blue noise scatters them evenly, green lies between, purple has both and nothing between. Deviation: noise is
    drawn for each sample on its own grid, periodic, where the authors cut windows from a bank of stored noise.

    Args:
        grid: Cells an axis.
        batch: Number of samples B.
        ratio: Share hidden, in (0, 1).
        generator: CPU generator.
        colour: red, blue, green or purple.
        sigmas: Standard deviations of the Gaussian filters in cells: one for red and blue, a small and a large one for
            green and purple. The paper's values are not known.

    Returns:
        (B, *grid) bool, True = hidden.
    """
    axes = tuple(range(1, len(grid) + 1))
    spectrum = torch.fft.fftn(torch.randn(batch, *grid, generator=generator, dtype=torch.float64), dim=axes)
    frequencies = torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in grid], indexing="ij")
    squared = torch.stack(frequencies).square().sum(0)
    smooth = [torch.exp(-2 * math.pi**2 * sigma**2 * squared) for sigma in sigmas]
    band = smooth[0] - smooth[-1]
    keep = {"red": smooth[0], "blue": 1 - smooth[0], "green": band, "purple": 1 - band}[colour]
    noise = torch.fft.ifftn(spectrum * keep, dim=axes).real.flatten(1)
    return _lowest(noise, ratio).reshape(batch, *grid)


def block_mask(grid: Sequence[int], batch: int, ratio: float, generator: torch.Generator, smallest: int = 4) -> Tensor:
    """Hide boxes until the same number of cells is hidden in each sample.

    BEiT, Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254, in N dimensions: a box has between `smallest` and all
    missing cells and sides as `box_sides` draws them, and spans no axis of three cells or more (in the paper none);
    what no box fits into is filled with single cells, so the count is exact. Deviation: a side that would span an axis
    is cut and the others grow, where the paper draws the box anew, on thin grids in vain.

    Args:
        grid: Cells an axis.
        batch: Number of samples B.
        ratio: Share hidden, in (0, 1).
        generator: CPU generator.
        smallest: Least cells of a box.

    Returns:
        (B, *grid) bool, True = hidden.
    """
    wanted = hidden_count(math.prod(grid), ratio)
    return torch.stack([_boxes(grid, wanted, generator, smallest) for _ in range(batch)])


def box_sides(volume: float, uniform: Tensor) -> Tensor:
    """(D,) sides of a box of about `volume` cells.

    Args:
        volume: Cells.
        uniform: (D,) float64 in [0, 1). In 2D the first decides the ratio of the sides, log-uniform between 0.3 and
            1 / 0.3, as in the paper; in 3D each decides an axis' factor, whose ratios lie in this range.
    """
    factors = (2 * uniform - 1) * math.log(_ASPECT) / 2
    factors = torch.stack([factors[0], -factors[0]]) if len(uniform) == 2 else factors - factors.mean()
    side: float = volume ** (1 / len(uniform))  # of a cube
    return (side * factors.exp()).round().long().clamp(min=1)


def _cut(sides: Tensor, longest: Tensor, volume: float) -> Tensor:
    """(D,) sides of at most `longest`; what an axis loses the others get, in their own ratios."""
    while bool((sides > longest).any()):
        sides = sides.minimum(longest)
        free = sides < longest
        missing = volume / float(sides.prod())
        if not bool(free.any()) or missing <= 1:
            return sides
        grown = (sides * missing ** (1 / int(free.sum()))).round().long()
        if torch.equal(wider := torch.where(free, grown, sides), sides):
            return sides
        sides = wider
    return sides


def _lowest(values: Tensor, ratio: float) -> Tensor:
    """(B, N) bool: True where a sample's values (B, N) are lowest, the same number in each sample."""
    order = values.argsort(1)[:, : hidden_count(values.shape[1], ratio)]
    return torch.zeros(values.shape, dtype=torch.bool).scatter_(1, order, True)


def _boxes(grid: Sequence[int], wanted: int, generator: torch.Generator, smallest: int) -> Tensor:
    hidden, misses = torch.zeros(*grid, dtype=torch.bool), 0
    longest = torch.tensor([cells - 1 if cells > 2 else cells for cells in grid])
    while misses < _TRIES and (missing := wanted - int(hidden.sum())) > 0:
        draw = torch.rand(1 + 2 * len(grid), generator=generator, dtype=torch.float64)
        volume = min(smallest, missing) + float(draw[0]) * max(missing - smallest, 0)
        sides = _cut(box_sides(volume, draw[1 : 1 + len(grid)]), longest, volume)
        begin = (draw[1 + len(grid) :] * (torch.tensor(list(grid)) - sides + 1)).long()
        box = tuple(slice(int(b), int(b + s)) for b, s in zip(begin, sides, strict=True))
        fresh = int((~hidden[box]).sum())
        if 0 < fresh <= missing:
            hidden[box], misses = True, 0
        else:
            misses += 1
    missing = wanted - int(hidden.sum())
    free = (~hidden).flatten().nonzero()[:, 0]
    hidden.view(-1)[free[torch.randperm(len(free), generator=generator)[:missing]]] = True
    return hidden
