"""Blocks to predict and the context to predict them from, as I-JEPA draws them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_TRIES = 20


def context_and_targets(
    grid: Sequence[int],
    batch: int,
    generator: torch.Generator,
    *,
    targets: int = 4,
    target_scale: tuple[float, float] = (0.15, 0.2),
    context_scale: tuple[float, float] = (0.85, 1.0),
    aspect: tuple[float, float] = (0.75, 1.5),
) -> tuple[Tensor, Tensor]:
    """Draw cells of a grid.

    Assran et al., CVPR 2023, https://arxiv.org/abs/2301.08243, in N dimensions: one size of target and one of context a
    batch; targets may overlap one another, the context never overlaps a target. Deviation: where contexts of a batch
    differ in length, a random part of each is kept, not the first cells, which would leave out the same end of every
    image.

    Args:
        grid: Cells an axis.
        batch: Number of samples B.
        generator: CPU generator.
        targets: Target blocks T of each sample.
        target_scale: Share of the cells of a target block.
        context_scale: Share of the cells of the context block, before targets are taken out.
        aspect: Ratio of each further side of a target to its first one, in cells of a grid of equal sides.

    Returns:
        (B, n) cells of the context and (B, T, m) cells of the targets, int64 indices into the flat grid.
    """
    draw = torch.rand(1 + len(grid), generator=generator, dtype=torch.float64)
    aspects = torch.cat([torch.ones(1), aspect[0] + (aspect[1] - aspect[0]) * draw[2:]])
    target = _sides(grid, target_scale[0] + (target_scale[1] - target_scale[0]) * float(draw[0]), aspects)
    share = context_scale[0] + (context_scale[1] - context_scale[0]) * float(draw[1])
    whole = _sides(grid, share, torch.ones(len(grid)))
    cells = torch.arange(math.prod(grid)).view(*grid)
    contexts, blocks = [], []
    for _ in range(batch):
        chosen, context = _sample(cells, target, whole, targets, generator)
        blocks.append(chosen)
        contexts.append(context[torch.randperm(len(context), generator=generator)])
    shortest = min(len(context) for context in contexts)
    return torch.stack([context[:shortest].sort().values for context in contexts]), torch.stack(blocks)


def _sample(
    cells: Tensor, target: Sequence[int], whole: Sequence[int], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Targets (T, m) and the context left beside them; drawn again while too little is left."""
    least = max(1, cells.numel() // _TRIES)
    best: tuple[Tensor, Tensor] | None = None
    for _ in range(_TRIES):
        chosen = torch.stack([_block(cells, target, generator) for _ in range(count)])
        context = _block(cells, whole, generator)
        context = context[~torch.isin(context, chosen)]
        if best is None or len(context) > len(best[1]):
            best = chosen, context
        if len(context) >= least:
            break
    return best if best is not None else (cells.flatten()[None], cells.flatten())


def _block(cells: Tensor, sides: Sequence[int], generator: torch.Generator) -> Tensor:
    room = torch.tensor([n - s + 1 for n, s in zip(cells.shape, sides, strict=True)])
    begin = (torch.rand(len(sides), generator=generator, dtype=torch.float64) * room).long().tolist()
    return cells[tuple(slice(b, b + s) for b, s in zip(begin, sides, strict=True))].flatten()


def _sides(grid: Sequence[int], scale: float, aspects: Tensor) -> list[int]:
    """Sides of a box of about this share of the grid, in the grid's own proportions times the aspects.

    Axes of one cell have no share: the others make it.
    """
    wide = torch.tensor([n > 1 for n in grid])
    if not bool(wide.any()):
        return [1] * len(grid)
    factors = aspects / aspects[wide].log().mean().exp() * scale ** (1 / int(wide.sum()))
    return [min(max(round(n * float(f)), 1), n) for n, f in zip(grid, factors, strict=True)]
