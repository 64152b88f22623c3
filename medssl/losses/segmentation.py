"""Losses of dense prediction: soft Dice, cross-entropy and their multi-label kin."""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor


def soft_dice(probability: Tensor, target: Tensor, counted: Tensor, smooth: float = 1.0) -> Tensor:
    """Soft Dice a class over the whole batch (Milletari et al., 3DV 2016, arXiv 1606.04797; sums, not squares).

    Args:
        probability: (B, K, *S).
        target: (B, K, *S) 0 or 1.
        counted: (B, 1, *S) 1 where a voxel counts.
        smooth: Added above and below, so that a class absent from both gives 1.

    Returns:
        (K,).
    """
    axes = (0, *range(2, probability.ndim))
    shared = (probability * target * counted).sum(axes)
    both = ((probability + target) * counted).sum(axes)
    return (2 * shared + smooth) / (both + smooth)


def dice_ce(logits: Tensor, target: Tensor, ignore: int | None = None) -> Tensor:
    """Cross-entropy plus one minus the mean foreground Dice, as nnU-Net trains (Isensee et al., 2021).

    Args:
        logits: (B, K, *S).
        target: (B, *S) int64, values below K, or `ignore`.
        ignore: Value that does not count.

    Returns:
        (), 0 for a perfect and certain prediction.
    """
    logits = logits.float()
    counted = torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore
    safe = torch.where(counted, target, torch.zeros_like(target))
    entropy = F.cross_entropy(logits, safe, reduction="none")
    weight = counted.float()
    mean_entropy = (entropy * weight).sum() / weight.sum().clamp(min=1)
    one_hot = F.one_hot(safe, logits.shape[1]).movedim(-1, 1).float()
    dice = soft_dice(logits.softmax(1), one_hot, weight[:, None])
    return mean_entropy + 1 - dice[1:].mean()


def cross_entropy(logits: Tensor, target: Tensor, ignore: int | None = None) -> Tensor:
    """Mean cross-entropy over voxels that count; shapes as `dice_ce`."""
    return F.cross_entropy(logits.float(), target, ignore_index=-100 if ignore is None else ignore)


def binary_cross_entropy(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean over channels and over the voxels that count; shapes as `dice_bce`."""
    values = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none").mean(1)
    if counted is None:
        return values.mean()
    return (values * counted).sum() / counted.sum().clamp(min=1)


def dice_bce(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Binary cross-entropy plus one minus mean Dice, each channel on its own.

    Args:
        logits: (B, K, *S).
        target: (B, K, *S) 0 or 1.
        counted: (B, *S) bool: voxels that count; None = all.
    """
    target = target.float()
    weight = torch.ones_like(target[:, :1]) if counted is None else counted[:, None].float()
    dice = soft_dice(logits.float().sigmoid(), target, weight)
    return binary_cross_entropy(logits, target, counted) + 1 - dice.mean()
