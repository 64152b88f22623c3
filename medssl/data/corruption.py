"""Corrupted images for group masked model learning: boxes of voxels replaced, drawn first and then applied.

SiT, Atito et al., 2021, https://arxiv.org/abs/2104.03602. Masks: True = corrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medssl.data.boxes import covering_boxes
from medssl.imaging.errors import ConfigError

Content = Literal["noise", "zeros", "region"]

LONGEST = 0.3
"""Longest side of a box, relative to the image's."""


@dataclass(frozen=True)
class Corruption:
    """What happens to each image of a batch.

    Args:
        mask: (B, 1, *S) bool on the CPU, True = corrupted.
        donor: (B,) the image whose voxels are put there; the image itself where it gets `content`.
        shift: (B, D) voxels by which the image is rolled along each axis to find another of its own regions.
        seeds: (B,) seeds of the noise.
    """

    mask: Tensor
    donor: Tensor
    shift: Tensor
    seeds: Tensor


def draw_corruption(
    shape: Sequence[int], batch: int, covered: tuple[float, float], align: int, generator: torch.Generator
) -> Corruption:
    """Draw boxes until a share of each image is covered.

    Args:
        shape: Spatial shape S of the images.
        batch: How many there are.
        covered: Least share that is corrupted by the image's own content, and by that of another image; each image gets
            the one or the other with probability 1/2, or always its own where the second is 0.
        align: Boxes begin and end at multiples of this many voxels.
        generator: CPU generator.

    Raises:
        ConfigError: The boxes do not fit the image.
    """
    if any(n % align for n in shape):
        raise ConfigError([f"images of {tuple(shape)} do not divide into cells of {align}"])
    own, alien = covered
    foreign = torch.rand(batch, generator=generator) < (0.5 if alien else 0.0)
    partner = (torch.arange(batch) + 1 + torch.randint(max(batch - 1, 1), (batch,), generator=generator)) % batch
    places = torch.rand(batch, len(shape), generator=generator)
    masks = [_boxes(shape, alien if given else own, align, generator) for given in foreign.tolist()]
    return Corruption(
        mask=torch.stack(masks)[:, None],
        donor=torch.where(foreign, partner, torch.arange(batch)),
        shift=(places * torch.tensor(list(shape))).long(),
        seeds=torch.randint(2**62, (batch,), generator=generator),
    )


def corrupt(image: Tensor, drawn: Corruption, content: Content) -> Tensor:
    """The images (B, C, *S) with other voxels where the mask says so; pure.

    Args:
        image: (B, C, *S).
        drawn: What was drawn.
        content: What an image without a donor gets: noise of its own mean and deviation, zeros, or another region of
            its own.
    """
    made = []
    for number, (sample, donor) in enumerate(zip(image, drawn.donor.tolist(), strict=True)):
        if donor != number:
            made.append(image[donor])
        elif content == "noise":
            made.append(_noise_like(sample, int(drawn.seeds[number])))
        elif content == "region":
            axes = tuple(range(1, sample.dim()))
            made.append(sample.roll(tuple(drawn.shift[number].tolist()), axes))
        else:
            made.append(torch.zeros_like(sample))
    return torch.where(drawn.mask.to(image.device), torch.stack(made), image)


def _noise_like(sample: Tensor, seed: int) -> Tensor:
    """Gaussian noise with each channel's mean and deviation; drawn where the image is, as it is large."""
    noise = torch.empty_like(sample).normal_(generator=torch.Generator(device=sample.device).manual_seed(seed))
    axes = tuple(range(1, sample.dim()))
    return sample.mean(axes, keepdim=True) + sample.std(axes, keepdim=True, correction=0) * noise


def _boxes(shape: Sequence[int], share: float, align: int, generator: torch.Generator) -> Tensor:
    """Boxes (*S) on the grid of aligned cells until at least `share` of the voxels is covered."""
    grid = [n // align for n in shape]
    longest = [max(int(LONGEST * n), 1) for n in grid]
    cells = covering_boxes(grid, share, ([1] * len(grid), longest), generator)
    for axis in range(len(shape)):
        cells = cells.repeat_interleave(align, axis)
    return cells
