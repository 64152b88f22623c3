"""Outlines of what is inside in a plane, each one closed polygon: holes are cut by a keyhole."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from contourpy import FillType, contour_generator

Ring = npt.NDArray[np.float64]
"""(n, 2) of column and row; the last point is joined to the first."""


def outlines(inside: npt.NDArray[np.bool_]) -> list[list[Ring]]:
    """Outlines half-way between the pixel centres inside and outside (marching squares), each before its holes.

    Args:
        inside: (rows, columns).

    Returns:
        An outline runs one way round, its holes the other; what lies within a hole is an outline of its own.
    """
    if not inside.any():
        return []
    drawn = contour_generator(z=np.pad(inside, 1).astype(np.float64), fill_type=FillType.OuterOffset).filled(0.5, 2)
    return [
        [points[start : end - 1] - 1 for start, end in pairwise(offsets)]  # the first point is repeated at the end
        for points, offsets in zip(*drawn, strict=True)
    ]


def keyhole(rings: Sequence[Ring]) -> Ring:
    """Join holes to their outline by channels without width, so that one polygon has the area of all.

    A channel runs from the top of a hole straight up to what lies above it, an outline or another hole. It keeps
    half-way between two columns of pixel centres, so that no centre lies on it and every rule fills the same pixels.

    Args:
        rings: An outline and its holes, of `outlines`.
    """
    points = np.concatenate(rings)
    starts = np.cumsum([0, *(len(ring) for ring in rings)])
    following = np.arange(1, len(points) + 1)
    following[starts[1:] - 1] = starts[:-1]
    level = np.flatnonzero(points[:, 1] == points[following, 1])  # a channel meets these edges in their middle
    met = np.concatenate([points, (points[level] + points[following[level]]) / 2])
    order = np.lexsort((met[:, 1], met[:, 0]))  # column by column from the top: what lies above is the one before
    rank = np.argsort(order)
    places, after = points.tolist(), following.tolist()

    def add(place: list[float], then: int) -> int:
        places.append(place)
        after.append(then)
        return len(places) - 1

    for start, hole in zip(starts[1:], rings[1:], strict=False):
        top = int(start + np.argmin(np.where(hole[:, 0] % 1 == 0.5, hole[:, 1], np.inf)))
        above = int(order[rank[top] - 1])
        if above >= len(points):  # an edge, which is cut in two
            edge = int(level[above - len(points)])
            above = add(met[above].tolist(), after[edge])
            after[edge] = above
        down, up = add(places[top], after[top]), add(places[above], after[above])
        after[above], after[top] = down, up  # down the channel, round the hole, and up again
    way = [0]
    while after[way[-1]]:
        way.append(after[way[-1]])
    return np.array(places)[way]
