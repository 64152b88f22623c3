"""Which views of a sample are made; torch-free, so that help is at once."""

from dataclasses import dataclass
from typing import Literal

from medssl.data.augment_options import AugmentOptions

Partner = Literal["same", "patient", "slice"]
"""Whom a sample's second view shows: the crop itself; another case of the patient; a neighbouring slice."""


@dataclass(frozen=True)
class ViewGroup:
    """Views of one size.

    Args:
        count: Views a sample.
        size: Voxels of a view, one number a spatial axis.
        extent: Lowest and highest side of a view's box, relative to the source's side.
        aspect: Largest ratio of a box's side to the mean side; each axis is drawn log-uniformly, the volume is kept.
        augments: How each view is varied on top; the last one holds for all further views.
    """

    count: int
    size: tuple[int, ...]
    extent: tuple[float, float]
    aspect: float
    augments: tuple[AugmentOptions, ...]
