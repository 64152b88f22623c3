"""Losses of dense prediction: soft Dice, cross-entropy and their multi-label kin."""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor


def soft_dice(probability: Tensor, target: Tensor, counted: Tensor, smooth: float = 1.0, batch: bool = True) -> Tensor:
    """Soft Dice of each class (Milletari et al., 3DV 2016, arXiv 1606.04797; sums, not squares).

    Args:
        probability: (B, K, *S).
        target: (B, K, *S) 0 or 1.
        counted: (B, 1, *S) 1 where a voxel counts.
        smooth: Added above and below, so that a class absent from both gives 1.
        batch: One Dice over all samples, which is steadier for small structures; False: one a sample.

    Returns:
        (K,), or (B, K) with `batch=False`.
    """
    axes = (*((0,) if batch else ()), *range(2, probability.ndim))
    shared = (probability * target * counted).sum(axes)
    both = ((probability + target) * counted).sum(axes)
    return (2 * shared + smooth) / (both + smooth)


def dice_ce(logits: Tensor, target: Tensor, ignore: int | None = None, batch_dice: bool = True) -> Tensor:
    """Cross-entropy plus one minus the mean foreground Dice, as nnU-Net trains (Isensee et al., 2021).

    Args:
        logits: (B, K, *S).
        target: (B, *S) int64, values below K, or `ignore`.
        ignore: Value that does not count.
        batch_dice: One Dice over all samples; False: the mean of one a sample.

    Returns:
        (), 0 for a perfect and certain prediction; only the Dice term where no voxel counts.
    """
    log_probability = logits.float().log_softmax(1)
    classes = torch.arange(logits.shape[1], device=target.device).view(1, -1, *[1] * (target.ndim - 1))
    one_hot = (target[:, None] == classes).float()  # cheaper than F.one_hot, whose classes come last
    counted = torch.ones_like(one_hot[:, :1]) if ignore is None else (target != ignore)[:, None].float()
    entropy = -(log_probability * (one_hot * counted)).sum() / counted.sum().clamp(min=1)
    dice = soft_dice(log_probability.exp(), one_hot, counted, batch=batch_dice)
    return entropy + 1 - dice[..., 1:].mean()


def cross_entropy(logits: Tensor, target: Tensor, ignore: int | None = None) -> Tensor:
    """Mean cross-entropy over voxels that count, 0 where none does; shapes as `dice_ce`."""
    index = -100 if ignore is None else ignore
    entropy = F.cross_entropy(logits.float(), target, ignore_index=index, reduction="sum")
    return entropy / (target != index).sum().clamp(min=1)


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
