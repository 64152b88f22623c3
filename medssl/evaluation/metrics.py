"""How well a mask agrees with its reference: Dice, 95 % Hausdorff distance, surface Dice, sizes.

Boundaries are the voxels of a mask that have a face neighbour outside it (Maier-Hein et al., Metrics Reloaded, 2024,
https://doi.org/10.1038/s41592-023-02151-z); distances between them come from MONAI with the spacing in mm, on a tilted
grid from a k-d tree of their places. Where one mask is empty a distance does not exist: it is infinite here, said as
not defined in tables, and counted. Where both are empty the case says nothing about the class: everything is NaN, left
out of means, and counted. Where ignored voxels hide all of both boundaries, distance and surface Dice are NaN.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from monai.metrics.utils import get_surface_distance
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial import KDTree

from medssl.imaging.errors import ImageError
from medssl.runtime.performance.overlap import state_of

_Measure = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.bool_]], npt.NDArray[np.float64]]
"""Distances in mm from each voxel of the first mask to the nearest of the second."""
_ROUNDING = 1e-6
"""MONAI's distances are single precision: one voxel of 0.3 mm is 0.30000001."""


@dataclass(frozen=True)
class ClassScore:
    """Agreement on one class in one case.

    Args:
        dice: 0 to 1; NaN where both masks are empty.
        hd95_mm: Larger of the two 95th percentiles of boundary distances; NaN where both masks are empty or no
            boundary was judged, infinite where one mask is empty.
        nsd: Share of both boundaries that lies within the tolerance of the other; NaN where both masks are empty or no
            boundary was judged.
        prediction_voxels: Size of the prediction, ignored voxels left out.
        reference_voxels: Size of the reference.
    """

    dice: float
    hd95_mm: float
    nsd: float
    prediction_voxels: int
    reference_voxels: int

    @property
    def state(self) -> str:
        """As `state_of` says."""
        return state_of(self.prediction_voxels, self.reference_voxels)


def score_classes(
    prediction: npt.NDArray[np.uint8],
    reference: npt.NDArray[np.uint8],
    values: Sequence[int],
    spacing_mm: Sequence[float],
    tolerance_mm: float = 1.0,
    ignore: int | None = None,
    steps_mm: npt.NDArray[np.float64] | None = None,
) -> Mapping[int, ClassScore]:
    """Score each class of a case.

    Args:
        prediction: (*S) class map.
        reference: (*S) class map; voxels of value `ignore` count nowhere.
        values: Classes to score.
        spacing_mm: Voxel size in the index order of the arrays.
        tolerance_mm: Distance at which a boundary still counts as right in surface Dice.
        ignore: Value of voxels that nobody judged.
        steps_mm: (3, 3) the way from voxel to voxel along each index axis, in columns, where these are not at right
            angles (gantry tilt); distances are measured along it then.

    Raises:
        ImageError: The arrays differ in shape.
    """
    if prediction.shape != reference.shape:
        raise ImageError(
            f"prediction of shape {prediction.shape} and reference of shape {reference.shape} lie on different grids",
            reason="label-grid",
        )
    judged = None if ignore is None or not (reference == ignore).any() else reference != ignore
    measure = partial(_distances, spacing_mm=spacing_mm) if steps_mm is None else partial(_tilted, steps_mm=steps_mm)
    return {value: _score(prediction == value, reference == value, judged, measure, tolerance_mm) for value in values}


def _score(
    prediction: npt.NDArray[np.bool_],
    reference: npt.NDArray[np.bool_],
    judged: npt.NDArray[np.bool_] | None,
    measure: _Measure,
    tolerance_mm: float,
) -> ClassScore:
    if judged is not None:
        prediction = prediction & judged
    sizes = int(prediction.sum()), int(reference.sum())
    if not all(sizes):
        nothing = math.nan if not any(sizes) else 0.0
        return ClassScore(nothing, math.inf if any(sizes) else math.nan, nothing, *sizes)
    dice = 2 * int((prediction & reference).sum()) / sum(sizes)
    there, back = _boundary_distances(prediction, reference, judged, measure)
    if not len(there) and not len(back):
        return ClassScore(dice, math.nan, math.nan, *sizes)
    hd95 = max(float(np.percentile(distances, 95)) for distances in (there, back) if len(distances))
    reach = tolerance_mm * (1 + _ROUNDING)
    near = int((there <= reach).sum()) + int((back <= reach).sum())
    return ClassScore(dice, hd95, near / (len(there) + len(back)), *sizes)


def _boundary_distances(
    prediction: npt.NDArray[np.bool_],
    reference: npt.NDArray[np.bool_],
    judged: npt.NDArray[np.bool_] | None,
    measure: _Measure,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distances in mm from each boundary voxel of one mask to the boundary of the other, both ways.

    A boundary made by the edge of the ignored region is nobody's boundary: nothing is measured from voxels beside it.
    Others are measured to them, or what lies beside an unclear rim would be measured to the far side of the structure.
    """
    box = _box(prediction | reference)
    ours, theirs = (mask[box] & ~binary_erosion(mask[box]) for mask in (prediction, reference))
    counted = np.True_ if judged is None else ~binary_dilation(~judged)[box]
    return measure(ours & counted, theirs), measure(theirs & counted, ours)


def _distances(
    begin: npt.NDArray[np.bool_], end: npt.NDArray[np.bool_], spacing_mm: Sequence[float]
) -> npt.NDArray[np.float64]:
    if not begin.any():
        return np.array([])
    return np.asarray(get_surface_distance(begin, end, "euclidean", list(spacing_mm)), dtype=np.float64)


def _tilted(
    begin: npt.NDArray[np.bool_], end: npt.NDArray[np.bool_], steps_mm: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    there = KDTree(np.argwhere(end) @ steps_mm.T)
    return np.asarray(there.query(np.argwhere(begin) @ steps_mm.T)[0], dtype=np.float64)


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """Smallest box around the voxels that are set."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)
