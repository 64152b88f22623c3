"""After the network: keep the largest connected part of chosen labels."""

import numpy as np
import numpy.typing as npt


def keep_largest(labels: npt.NDArray[np.uint8], values: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Set all but the largest face-connected part of each value to background.

    Args:
        labels: (*S) uint8, 2D or 3D.
        values: Labels to treat; others stay.
    """
    result = labels.copy()
    for value in values:
        mask = labels == value
        if mask.any():
            parts = components(mask)
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            result[mask & (parts != int(sizes.argmax()))] = 0
    return result


def components(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Number the face-connected parts of a mask, 0 outside; in numpy by union of touching runs.

    Runs of True along the last axis are numbered first; runs that touch across the other axes are then joined until
    nothing changes, each time through the smaller of two numbers.
    """
    begins = mask & ~np.concatenate([np.zeros_like(mask[..., :1]), mask[..., :-1]], axis=-1)
    runs = np.where(mask, np.cumsum(begins.ravel()).reshape(mask.shape), 0)
    root = np.arange(int(runs.max()) + 1)
    pairs = []
    for axis in range(mask.ndim - 1):
        first = np.take(runs, range(mask.shape[axis] - 1), axis=axis)
        second = np.take(runs, range(1, mask.shape[axis]), axis=axis)
        touching = (first > 0) & (second > 0)
        pairs.append(np.stack([first[touching], second[touching]], axis=1))
    joined = np.unique(np.concatenate(pairs), axis=0) if pairs else np.empty((0, 2), dtype=np.int64)
    while True:
        low = np.minimum(root[joined[:, 0]], root[joined[:, 1]])
        before = root.copy()
        for column in (0, 1):
            np.minimum.at(root, root[joined[:, column]], low)
            np.minimum.at(root, joined[:, column], low)
        root = root[root]
        if np.array_equal(root, before):
            return np.asarray(root[runs], dtype=np.int64)
