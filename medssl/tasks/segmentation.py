"""Segmentation: what is minimised, and how well whole images are segmented."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medssl.data.cache import OUTSIDE
from medssl.losses.segmentation import binary_cross_entropy, cross_entropy, dice_bce, dice_ce

Batch = Mapping[str, Tensor]


class SegmentationTask(nn.Module):
    """A network with its loss.

    Channel k is label value k, 0 background. With `bce` and `dice_bce` each channel, background included, is trained
    against all others with a sigmoid; the class of a voxel is the channel with the highest value all the same. Voxels
    outside the image never count: there the image repeats its edge, and nobody knows what would be there.

    Args:
        network: Image (B, C, *S) to logits (B, K, *S).
        loss: `dice_ce`, `ce`, `bce` or `dice_bce`.
        ignore: Label value that does not count.
    """

    def __init__(self, network: nn.Module, loss: str, ignore: int | None = None) -> None:
        super().__init__()
        self.network, self._loss, self._ignore = network, loss, ignore

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss () of `image` (B, C, *S) and `label` (B, *S)."""
        logits, label = self.network(batch["image"]), batch["label"]
        if self._ignore is not None:
            label = label.masked_fill(label == self._ignore, OUTSIDE)
        if self._loss == "dice_ce":
            return {"loss": dice_ce(logits, label, OUTSIDE)}
        if self._loss == "ce":
            return {"loss": cross_entropy(logits, label, OUTSIDE)}
        target, counted = one_hot(label, logits.shape[1]), label != OUTSIDE
        loss = dice_bce if self._loss == "dice_bce" else binary_cross_entropy
        return {"loss": loss(logits, target, counted)}


def one_hot(label: Tensor, channels: int) -> Tensor:
    """(B, K, *S) float: channel k is 1 where the label (B, *S) is k; all channels are 0 at any other value."""
    values = torch.arange(channels, device=label.device).view(1, -1, *[1] * (label.ndim - 1))
    return (label[:, None] == values).float()


def voxel_counts(
    prediction: npt.NDArray[np.uint8],
    reference: npt.NDArray[np.uint8],
    values: Sequence[int],
    ignore: int | None = None,
) -> npt.NDArray[np.int64]:
    """(classes, 2): voxels that both masks give to a class, and the sum of both masks' voxels of it.

    Args:
        prediction: (*S) class map.
        reference: (*S) class map.
        values: Classes to count.
        ignore: Reference value of voxels that do not count.
    """
    if ignore is not None:
        counted = reference != ignore
        prediction, reference = prediction[counted], reference[counted]
    counts = []
    for value in values:
        here, there = prediction == value, reference == value
        counts.append((int((here & there).sum()), int(here.sum()) + int(there.sum())))
    return np.array(counts, dtype=np.int64).reshape(-1, 2)


def dice(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Dice of each class from `voxel_counts`; NaN where neither mask holds the class."""
    shared, both = counts[..., 0].astype(np.float64), counts[..., 1].astype(np.float64)
    found: npt.NDArray[np.float64] = np.divide(2 * shared, both, out=np.full(both.shape, np.nan), where=both > 0)
    return found
