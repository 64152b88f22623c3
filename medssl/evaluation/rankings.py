"""Many methods on the same cases: corrected p-values, verdicts, and ranks with a critical difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from medssl.imaging.errors import ConfigError

LEVEL = 0.05
"""p-values below it may show a difference."""

NOT_SHOWN = "no difference shown"
"""The verdict where neither `better` nor `worse` is."""


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of methods over blocks (sets, seeds, numbers of labels); 1 is the best.

    Args:
        ranks: Method to mean rank, the best first.
        p_value: Friedman's test that all methods are alike (Friedman 1937); NaN with fewer than 3 methods or 2 blocks.
        critical_difference: Mean ranks that differ by less are not told apart (Nemenyi 1963, as in Demsar, JMLR 2006,
            https://www.jmlr.org/papers/v7/demsar06a.html).
        blocks: How many entered.
    """

    ranks: Mapping[str, float]
    p_value: float
    critical_difference: float
    blocks: int

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary; NaN as None."""
        return {
            "ranks": dict(self.ranks),
            "p_value": self.p_value if math.isfinite(self.p_value) else None,
            "critical_difference": self.critical_difference,
            "blocks": self.blocks,
        }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): below 0.05, all that are so hold with 95 % confidence together.

    NaN stays NaN and does not count.
    """
    known = sorted((p, position) for position, p in enumerate(p_values) if math.isfinite(p))
    corrected = [math.nan] * len(p_values)
    highest = 0.0
    for number, (p, position) in enumerate(known):
        highest = max(highest, min((len(known) - number) * p, 1.0))
        corrected[position] = highest
    return corrected


def rank_methods(results: Mapping[str, Sequence[float]], confidence: float = 0.95) -> Ranking:
    """Rank methods in each block and compare mean ranks.

    Args:
        results: Method to one number a block, higher is better, all over the same blocks.
        confidence: Of the critical difference.

    Raises:
        ConfigError: Fewer than two methods, another number of blocks, or a number that is missing: a method that failed
            somewhere cannot be ranked there.
    """
    names = list(results)
    table = np.array([results[name] for name in names], dtype=np.float64) if _even(results) else np.empty((0, 0))
    problems = [] if len(names) >= 2 else [f"two methods or more can be ranked, got {names}"]
    if not table.size:
        problems.append("every method needs a result in every block, and one block at least")
    elif not np.isfinite(table).all():
        lacking = [name for name, row in zip(names, table, strict=True) if not np.isfinite(row).all()]
        problems.append(f"{', '.join(lacking)} lack results in some blocks: leave them or the blocks out")
    if problems:
        raise ConfigError(problems)
    count, blocks = table.shape
    means = stats.rankdata(-table, axis=0).mean(axis=1)
    different = count >= 3 and blocks >= 2 and not np.all(table == table[0])
    p_value = float(stats.friedmanchisquare(*table).pvalue) if different else math.nan
    quantile = float(stats.studentized_range.ppf(confidence, count, np.inf)) / math.sqrt(2)
    order = np.argsort(means, kind="stable")
    return Ranking(
        {names[i]: float(means[i]) for i in order},
        p_value,
        quantile * math.sqrt(count * (count + 1) / (6 * blocks)),
        blocks,
    )


def _even(results: Mapping[str, Sequence[float]]) -> bool:
    return len({len(row) for row in results.values()}) == 1


def told(low: float, high: float) -> str:
    """What an interval of a difference says: `better`, `worse`, or `no difference shown`."""
    return "better" if low > 0 else "worse" if high < 0 else NOT_SHOWN


def told_tested(low: float, high: float, p_value: float) -> str:
    """As `told`, but only where a test agrees: an interval over few patients is too narrow, and leaves 0 out too often.

    Args:
        low: Lower end of the interval of a difference.
        high: Upper end.
        p_value: That the two are alike; NaN where there is none.
    """
    return told(low, high) if p_value < LEVEL else NOT_SHOWN


def told_beside(ours: float, theirs: Sequence[float], low: float, high: float, p_value: float) -> str:
    """As `told_tested`, but only where ours lies on that side of every one of theirs as well.

    Interval and test are over patients alone; how much encoders differ that differ by their random weights is in
    neither.

    Args:
        ours: What is compared.
        theirs: Each of those whose mean the interval compares with; NaN is left out.
        low: Lower end of the interval of the difference, ours minus theirs.
        high: Upper end.
        p_value: As in `told_tested`.
    """
    verdict = told_tested(low, high, p_value)
    known = [value for value in theirs if math.isfinite(value)]
    holds = {"better": all(ours > value for value in known), "worse": all(ours < value for value in known)}
    return verdict if holds.get(verdict, True) else NOT_SHOWN
