"""The area under ROC curves of images that count several times each, as those of drawn patients do."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float64]
Won = Callable[[_Float, _Float], float]
"""How often each image with the answer (P,) and each without (N,) counts, to the pairs won, ties half, all rows."""


def mean_area(scores: _Float, answers: npt.NDArray[np.bool_]) -> Callable[[_Float], float]:
    """Area under the ROC curve, mean over rows of scores, for images that count as often as one likes.

    Memory is that of the scores, also where pairs are many: the table of all pairs is kept where it is no larger than
    these, and else the order of every row.

    Args:
        scores: (R, n).
        answers: (n,) which images have the answer.

    Returns:
        What takes how often each image counts (n,) to the mean area; NaN where no image with or none without counts.
    """
    with_it, without = np.flatnonzero(answers), np.flatnonzero(~answers)
    won = (by_pairs if len(with_it) * len(without) <= scores.size else by_order)(scores[:, with_it], scores[:, without])

    def area(times: _Float) -> float:
        ahead, behind = times[with_it], times[without]
        pairs = float(ahead.sum() * behind.sum())
        return won(ahead, behind) / (pairs * len(scores)) if pairs else math.nan

    return area


def by_pairs(ahead: _Float, behind: _Float) -> Won:
    """From a table (P, N) of the rows in which an image with the answer, (R, P), is ahead of one without, (R, N)."""
    table = np.zeros((ahead.shape[1], behind.shape[1]))
    for first, second in zip(ahead, behind, strict=True):
        table += 0.5 * (first[:, None] > second) + 0.5 * (first[:, None] >= second)
    return lambda times, others: float(times @ table @ others)


def by_order(ahead: _Float, behind: _Float) -> Won:
    """From the order of each row: how many of the images without the answer, counted, lie below each one with it."""
    order = np.argsort(behind, axis=1)
    ranked = np.take_along_axis(behind, order, axis=1)
    less, at_most = (
        np.stack([np.searchsorted(row, first, side) for row, first in zip(ranked, ahead, strict=True)])
        for side in ("left", "right")
    )  # (R, P)

    def won(times: _Float, others: _Float) -> float:
        total = 0.0
        for places, low, high in zip(order, less, at_most, strict=True):
            below = np.concatenate([[0.0], others[places].cumsum()])  # (N + 1,)
            total += float(times @ (below[low] + below[high]))
        return 0.5 * total

    return won
