"""A share of few, with its exact interval."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_HALVINGS = 60


@dataclass(frozen=True)
class Proportion:
    """So many of so many.

    Args:
        hits: Those that count.
        total: All.
    """

    hits: int
    total: int

    @property
    def share(self) -> float | None:
        """0 to 1; None of nothing."""
        return self.hits / self.total if self.total else None

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Exact interval of the share (Clopper and Pearson, Biometrika 1934, https://doi.org/10.1093/biomet/26.4.404).

        Its ends are the shares at which as many hits, or more, and as few, or fewer, have the probability
        (1 - `level`) / 2. It covers the true share at least as often as `level` says, of independent cases.
        """
        tail, hits, total = (1 - level) / 2, self.hits, self.total
        low = _crossing(lambda p: _probability(range(hits, total + 1), total, p), tail) if hits else 0.0
        high = _crossing(lambda p: -_probability(range(hits + 1), total, p), -tail) if hits < total else 1.0
        return low, high

    def __str__(self) -> str:
        if self.share is None:
            return "none"
        low, high = self.interval()
        return f"{self.hits} of {self.total} ({self.share:.1%}; 95 % interval {low:.1%} to {high:.1%})"

    def to_json(self) -> dict[str, object]:
        """Plain dictionary."""
        share = self.share
        ends = [] if share is None else [round(end, 6) for end in self.interval()]
        return {"hits": self.hits, "total": self.total, "share": share, "interval_95": ends}


def _crossing(rising: Callable[[float], float], value: float) -> float:
    """Where a function on 0 to 1 that never falls takes a value."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2


def _probability(counts: range, total: int, share: float) -> float:
    """That the number of hits among `total` is one of `counts` (binomial); 0 < `share` < 1."""
    k = np.arange(counts.start, counts.stop)
    ways = [math.lgamma(total + 1) - math.lgamma(n + 1) - math.lgamma(total - n + 1) for n in counts]
    return float(np.exp(np.array(ways) + k * math.log(share) + (total - k) * math.log1p(-share)).sum())
