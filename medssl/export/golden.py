"""Windows of real cases that together hold every class: what a bundle proves itself with on each machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medssl.data.cache import Cache, CachedCase
from medssl.imaging.errors import CacheError


@dataclass(frozen=True)
class Windows:
    """Crops of real cases, intensities alone.

    Args:
        image: (N, C, *window) float32.
        cases: Case of each window; never leaves this machine.
        missing: Label values that no case of the cache holds.
    """

    image: npt.NDArray[np.float32]
    cases: tuple[str, ...]
    missing: tuple[int, ...] = ()


def golden_windows(cache: Cache, cases: Sequence[CachedCase], window: tuple[int, ...]) -> Windows:
    """As few windows as are needed to hold every class of the cache; one where it has no classes.

    Greedy: the window that adds most classes comes next.

    Args:
        cache: Prepared cache.
        cases: Its cases to take windows from, best first.
        window: Spatial size.

    Raises:
        CacheError: No cases.
    """
    if not cases:
        raise CacheError(f"{cache.path} holds no cases, so nothing can be proven on it", reason="no-cases")
    wanted = {label.value for label in cache.labels}
    chosen: list[tuple[CachedCase, tuple[int, ...]]] = []
    covered: set[int] = set()
    for case in cases:
        if not case.has_label:
            continue
        for value, start in _starts(cache, case, window, wanted - covered):
            if value in covered:
                continue
            gained = set(np.unique(cache.crop_label(case, start, window)).tolist()) & (wanted - covered)
            if gained:
                chosen.append((case, start))
                covered |= gained
        if covered == wanted:
            break
    if not chosen:
        chosen = [(cases[0], _centre(cases[0].shape, window))]
    return _cut(cache, chosen, window, tuple(sorted(wanted - covered)))


def more_windows(cache: Cache, cases: Sequence[CachedCase], window: tuple[int, ...], count: int) -> Windows:
    """`count` seeded random windows, over the cases in turn."""
    rng = np.random.default_rng(0)
    chosen = []
    for number in range(count):
        case = cases[number % len(cases)]
        chosen.append(
            (case, tuple(int(rng.integers(0, max(n - w, 0) + 1)) for n, w in zip(case.shape, window, strict=True)))
        )
    return _cut(cache, chosen, window)


def _starts(
    cache: Cache, case: CachedCase, window: tuple[int, ...], missing: set[int]
) -> list[tuple[int, tuple[int, ...]]]:
    """A window around the middle one of the known voxels of each missing class that the case holds."""
    points = {value: found for value, found in cache.foreground(case).items() if value in missing}
    return [(value, _around(found[len(found) // 2], case.shape, window)) for value, found in points.items()]


def _around(point: npt.NDArray[np.int32], shape: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, ...]:
    """Window around a voxel, inside the image where the image is large enough, else with the image in its middle."""
    return tuple(
        min(max(int(p) - w // 2, 0), n - w) if n >= w else -((w - n) // 2)
        for p, n, w in zip(point, shape, window, strict=True)
    )


def _centre(shape: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, ...]:
    return tuple((n - w) // 2 for n, w in zip(shape, window, strict=True))


def _cut(
    cache: Cache,
    chosen: Sequence[tuple[CachedCase, tuple[int, ...]]],
    window: tuple[int, ...],
    missing: tuple[int, ...] = (),
) -> Windows:
    images = [cache.crop_image(case, start, window).astype(np.float32) for case, start in chosen]
    return Windows(np.stack(images), tuple(case.case for case, _ in chosen), missing)
