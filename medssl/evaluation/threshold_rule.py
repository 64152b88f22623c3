"""The simplest rule there is, for comparison: each voxel gets the class whose typical intensity is nearest."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from medssl.data.cache import Cache, CachedCase
from medssl.imaging.errors import CacheError

_BACKGROUND_POINTS = 2000


def fit_thresholds(
    cache: Cache, cases: Sequence[CachedCase]
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint8]]:
    """Learn the median intensity of each class, background included, from labelled cases.

    Args:
        cache: Prepared cache.
        cases: Labelled cases to learn from, for instance those of split `train`.

    Returns:
        Rule from prepared image (C, *S), of which the first channel counts, to class map (*S).

    Raises:
        CacheError: No labelled case, or fewer than two classes in them.
    """
    samples: dict[int, list[npt.NDArray[np.float32]]] = {}
    rng = np.random.default_rng(0)
    for case in cases:
        image, label = cache.image(case)[0], cache.label(case)
        outside = image[label == 0]
        if len(outside):
            samples.setdefault(0, []).append(rng.choice(outside, min(_BACKGROUND_POINTS, len(outside)), replace=False))
        for value, points in cache.foreground(case).items():
            samples.setdefault(value, []).append(image[tuple(points.T)])
    if len(samples) < 2:
        raise CacheError(
            f"{cache.path}: the threshold rule needs labelled cases with two classes or more in split `train`: leave "
            "--threshold-rule out",
            reason="no-labelled-cases",
        )
    medians = sorted((float(np.median(np.concatenate(found))), value) for value, found in samples.items())
    centres = np.array([centre for centre, _ in medians])
    values = np.array([value for _, value in medians], dtype=np.uint8)
    thresholds = (centres[1:] + centres[:-1]) / 2

    def rule(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        classes: npt.NDArray[np.uint8] = values[np.searchsorted(thresholds, image[0])]
        return classes

    return rule
