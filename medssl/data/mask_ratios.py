"""Masks of which each sample of a batch hides another share, or nothing. Pure functions of a CPU generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medssl.data.masking import MaskKind, any_mask


@dataclass(frozen=True)
class HiddenTokens:
    """Which patches of a batch are hidden.

    Args:
        mask: (B, N) bool, True = hidden.
        rows: (M,) numbers of the hidden patches, counted over the whole batch, rising.
        sample: (M,) the sample that each is of.
    """

    mask: Tensor
    rows: Tensor
    sample: Tensor

    @classmethod
    def of(cls, mask: Tensor, device: torch.device) -> "HiddenTokens":
        """From a mask (B, *grid) on the CPU; the numbers are found there, so that a device need not be waited for."""
        flat = mask.flatten(1)
        rows = flat.flatten().nonzero()[:, 0]
        sample = rows.div(flat.shape[1], rounding_mode="floor")
        return cls(flat.to(device), rows.to(device), sample.to(device))


def masks_of_ratios(kind: MaskKind, grid: Sequence[int], ratios: Tensor, generator: torch.Generator) -> Tensor:
    """(B, *grid) bool, True = hidden: a mask of each sample's own ratio (B,); 0 hides nothing."""
    masks = torch.zeros(len(ratios), *grid, dtype=torch.bool)
    for mask, ratio in zip(masks, ratios.tolist(), strict=True):
        if ratio > 0:
            mask.copy_(any_mask(kind, grid, 1, ratio, generator)[0])
    return masks


def independent_ratios(count: int, share: float, ratios: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Ratios (count,) as iBOT draws them: each sample hides something with probability `share`.

    Args:
        count: Samples.
        share: Probability that a sample hides anything.
        ratios: Lowest and highest ratio of one that does.
        generator: CPU generator.
    """
    low, high = ratios
    chosen, place = torch.rand(2, count, generator=generator, dtype=torch.float64)
    return torch.where(chosen < share, low + (high - low) * place, 0.0)


def stratified_ratios(count: int, share: float, ratios: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Ratios (count,) as DINOv2 draws them: all steps hide nearly the same number of patches.

    Exactly `int(count * share)` samples hide something, the i-th of them a ratio of the i-th part of the range; then
    the samples are shuffled.

    Args:
        count: Samples.
        share: Share of them that hides anything.
        ratios: Lowest and highest ratio of those that do.
        generator: CPU generator.
    """
    low, high = ratios
    masked = int(count * share)
    place = torch.arange(masked) + torch.rand(masked, generator=generator, dtype=torch.float64)
    drawn = torch.zeros(count, dtype=torch.float64)
    drawn[:masked] = low + (high - low) * place / max(masked, 1)
    return drawn[torch.randperm(count, generator=generator)]
