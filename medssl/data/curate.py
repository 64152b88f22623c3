"""Which images to keep before pretraining: no near-duplicates, and of an open set what is like a target set."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from medssl.data.likeness import Array, Likeness, unit_rows

_CENTROIDS, _PATIENCE, _DROP = 100, 20, 0.95  # of SimCore's released code

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dropped:
    """An image that is too much like one that is kept.

    Args:
        item: Its number.
        like: Number of the kept one.
        likeness: How alike they are.
    """

    item: int
    like: int
    likeness: float


def members(groups: Sequence[str]) -> dict[str, list[int]]:
    """Each group to the numbers of its images, groups by their first one."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(groups):
        found[name].append(number)
    return found


def exemplars(
    measure: Callable[[Rows], Likeness], groups: Sequence[str], threshold: float
) -> tuple[list[int], list[Dropped]]:
    """Keep the first image of each group that is left, drop all that are as alike to it as `threshold` or more, repeat.

    The greedy rule of "Less is More" (Wolf et al. 2024, https://arxiv.org/abs/2410.14524): with minus the Hamming
    distance of hashes and threshold -6 it is the published Hash-6 (`near_duplicates.distinct` finds it faster).

    Args:
        measure: Numbers of the images of a group to their likeness, in which these are counted from 0; asked for one
            group at a time, so that what it makes of the images need never be there for all.
        groups: Group of each image, for instance its volume; images of two groups are never compared.
        threshold: Of likeness.
    """
    kept: list[int] = []
    dropped: list[Dropped] = []
    for own in members(groups).values():
        likeness, left = measure(np.array(own, dtype=np.int64)), np.arange(len(own))
        while len(left):
            first, others = int(left[0]), left[1:]
            kept.append(own[first])
            found = likeness(first, others) if len(others) else np.empty(0)
            alike = found >= threshold
            dropped += [Dropped(own[o], own[first], float(f)) for o, f in zip(others[alike], found[alike], strict=True)]
            left = others[~alike]
    return sorted(kept), sorted(dropped, key=lambda d: d.item)


def every_nth(groups: Sequence[str], step: int) -> list[int]:
    """The first of each group and every `step`-th after it: the control that looks at no image."""
    seen: dict[str, int] = {}
    kept = []
    for number, group in enumerate(groups):
        if seen.get(group, 0) % step == 0:
            kept.append(number)
        seen[group] = seen.get(group, 0) + 1
    return kept


def coreset(target: Array, pool: Array, budget: int, stop: bool = True, seed: int = 0) -> tuple[list[int], list[float]]:
    """The part of a pool that is most like a target set, in rounds.

    SimCore (Kim et al., CVPR 2023, https://arxiv.org/abs/2303.11101): the target's k-means centres each take their
    nearest image that no earlier round took; the mean cosine of a round is its utility.

    Args:
        target: (M, D) embeddings of the target set.
        pool: (N, D) embeddings of the open set.
        budget: At most so many images.
        stop: End when a round's utility falls below 0.95 of that of round 20.
        seed: Seed of the centres, and of the choice within a last round that is too large.

    Returns:
        Numbers of the images taken, and the utility of each round.
    """
    goal, units = unit_rows(target), unit_rows(pool)
    if len(goal) > _CENTROIDS:
        goal = unit_rows(KMeans(_CENTROIDS, random_state=seed, n_init=1).fit(goal).cluster_centers_)
    cosines = units @ goal.T  # (N, k)
    order = np.argsort(-cosines, axis=0, kind="stable")
    places = np.zeros(goal.shape[0], dtype=np.int64)
    taken: set[int] = set()
    utilities: list[float] = []
    while len(taken) < min(budget, len(pool)):
        picks = []
        for centre in range(goal.shape[0]):
            while places[centre] < len(pool) and int(order[places[centre], centre]) in taken:
                places[centre] += 1
            if places[centre] < len(pool):
                picks.append((int(order[places[centre], centre]), centre))
        utilities.append(float(np.mean([cosines[item, centre] for item, centre in picks])))
        if stop and len(utilities) > _PATIENCE and utilities[-1] < _DROP * utilities[_PATIENCE - 1]:
            break
        new = sorted({item for item, _ in picks})
        room = budget - len(taken)
        if len(new) > room:
            new = sorted(np.random.default_rng(seed).choice(new, room, replace=False).tolist())
        taken |= set(new)
    return sorted(taken), utilities
