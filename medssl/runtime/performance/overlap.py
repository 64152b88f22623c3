"""How a mask and its reference overlap, structure by structure, as `evaluate` counts it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.imaging.volume import Volume


def state_of(found: int, reference: int) -> str:
    """`scored`, `missed` (nothing found), `invented` (nothing there) or `both-empty`, by the voxels of two masks."""
    if found and reference:
        return "scored"
    if reference:
        return "missed"
    return "invented" if found else "both-empty"


@dataclass(frozen=True)
class Overlap:
    """Voxels of one structure; those that do not count are left out of all three.

    Args:
        found: Voxels of the mask.
        reference: Voxels of the reference.
        common: Voxels of both.
    """

    found: int
    reference: int
    common: int

    @property
    def dice(self) -> float | None:
        """0 to 1; None where both are empty: then the image says nothing about the structure."""
        total = self.found + self.reference
        return 2 * self.common / total if total else None

    @property
    def state(self) -> str:
        """As `state_of` says."""
        return state_of(self.found, self.reference)


def overlaps(
    mask: Volume, reference: Volume, values: Sequence[int], ignore: int | None = None
) -> tuple[dict[int, Overlap], int]:
    """Overlap of each value, and how many voxels did not count.

    Args:
        mask: (1, *S) uint8.
        reference: (1, *S) uint8 on the same grid.
        values: Label values.
        ignore: Value of reference voxels that nobody judged.
    """
    pairs = np.zeros(1 << 16, dtype=np.int64)
    axis = int(np.argmax(mask.geometry.shape))
    planes = (np.moveaxis(volume.array[0], axis, 0) for volume in (reference, mask))
    for true, found in zip(*planes, strict=True):  # plane by plane: bincount needs 8 bytes a voxel
        pairs += np.bincount((true.astype(np.int64) << 8 | found).ravel(), minlength=1 << 16)
    table = pairs.reshape(256, 256)  # (reference, mask)
    ignored = 0
    if ignore is not None:
        ignored = int(table[ignore].sum())
        table[ignore] = 0
    return {v: Overlap(int(table[:, v].sum()), int(table[v].sum()), int(table[v, v])) for v in values}, ignored
