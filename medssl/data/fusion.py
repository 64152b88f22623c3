"""Fusing two images by a map of discrete coefficients, pasted together from boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medssl.data.boxes import draw_boxes, inside, sides_of


@dataclass(frozen=True)
class FusionOptions:
    """What coefficient maps are made of.

    Args:
        levels: Coefficients are 0, 1 / levels, ... 1; their numbers 0 to `levels` are the classes.
        boxes: Fewest and most boxes of a map.
        sides: Shortest and longest side of a box, relative to the image's.
    """

    levels: int
    boxes: tuple[int, int]
    sides: tuple[float, float]


@dataclass(frozen=True)
class DrawnClasses:
    """Boxes of coefficient maps, on the CPU.

    Args:
        start: (B, M, D) lowest corners.
        size: (B, M, D) sides; 0 for boxes that are not there.
        classes: (B, M) number of each box's coefficient.
    """

    start: Tensor
    size: Tensor
    classes: Tensor


def draw_classes(options: FusionOptions, batch: int, shape: Sequence[int], generator: torch.Generator) -> DrawnClasses:
    """Draw the maps of `batch` images of spatial shape `shape` from a CPU generator.

    Volume Fusion, Wang et al., 2023, https://arxiv.org/abs/2306.16925: a map is 0 at first, then boxes are pasted.
    """
    low, high = options.boxes
    count = torch.randint(low, high + 1, (batch, 1), generator=generator)
    start, size = draw_boxes(shape, (batch, high), sides_of(shape, options.sides), generator)
    there = torch.arange(high) < count
    classes = torch.randint(0, options.levels + 1, (batch, high), generator=generator)
    return DrawnClasses(start, size * there[..., None], classes)


def class_map(drawn: DrawnClasses, shape: Sequence[int], device: torch.device) -> Tensor:
    """The maps (B, *S) int64; later boxes lie over earlier ones."""
    start, size, classes = (part.to(device) for part in (drawn.start, drawn.size, drawn.classes))
    found = torch.zeros(len(classes), *shape, dtype=torch.long, device=device)
    for number in range(classes.shape[1]):
        within = inside(start[:, number], size[:, number], shape)
        found = torch.where(within, classes[:, number].view(-1, *[1] * len(shape)), found)
    return found


def fuse(front: Tensor, back: Tensor, classes: Tensor, levels: int) -> Tensor:
    """`a front + (1 - a) back` with `a = classes / levels`, voxel by voxel: (B, C, *S) twice and (B, *S)."""
    return torch.lerp(back, front, (classes / levels)[:, None].to(front))
