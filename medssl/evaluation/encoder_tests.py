"""Frozen encoders compared: an interval over patients, a swap test corrected over the report, and a verdict of both."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medssl.evaluation.rankings import LEVEL, holm, told_beside
from medssl.evaluation.statistics import Interval
from medssl.evaluation.swap_tests import SwapTest

ENCODER_TEST = (
    "Better or worse is said where three hold: the 95 % interval of the difference leaves 0 out, the corrected p is "
    f"below {LEVEL}, and the encoder's number lies on that side of each of those that it is compared with.",
    "p: whole patients change sides between the two, in all draws and with all random weights together, and the "
    "difference is measured anew; corrected over all comparisons of this report together (Holm). The interval is not "
    "corrected.",
    "Neither interval nor p knows how much another training or other random weights would change. Chance alone puts "
    "one encoder above N others once in N + 1 times: frozen.random_seeds.",
)
"""What readers of a comparison of encoders must know."""


@dataclass(frozen=True)
class Compared:
    """A number of an encoder beside that of others.

    Args:
        ours: Of the encoder that is judged; None where there is none.
        theirs: Of each of those whose mean it is compared with.
        difference: Ours minus their mean, over the same patients.
        test: Swaps of these patients.
        smaller: Whether less is better.
    """

    ours: float | None
    theirs: Sequence[float | None]
    difference: Interval
    test: SwapTest
    smaller: bool = False

    def to_json(self, corrected: float) -> dict[str, Any]:
        """The interval with p, the least that it could be, p corrected, and the verdict; NaN as None."""
        sign = -1 if self.smaller else 1
        low, high = sorted(sign * end for end in (self.difference.low, self.difference.high))
        ours, *theirs = (math.nan if value is None else sign * value for value in (self.ours, *self.theirs))
        verdict = told_beside(ours, theirs, low, high, corrected)
        numbers = {"p_value": self.test.p_value, "smallest_p_value": self.test.smallest, "p_value_corrected": corrected}
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {**self.difference.to_json(), **plain, "verdict": verdict}


def told_corrected(compared: Mapping[str, Any]) -> dict[str, Any]:
    """Every comparison of a report with its verdict; JSON-able.

    Args:
        compared: Names to `Compared`, nested as results.json has them.

    Returns:
        The same with `comparisons`, the number that p-values are corrected for, and `warnings` where nothing can be
        shown.
    """
    found = list(_each(compared))
    p_values = iter(holm([one.test.p_value for one in found]))
    warnings = _nothing_can_be_shown([one.test.smallest for one in found if math.isfinite(one.test.smallest)])
    return {**_told(compared, p_values), "comparisons": len(found), "warnings": warnings}


def _each(compared: Mapping[str, Any]) -> Iterator[Compared]:
    for part in compared.values():
        if isinstance(part, Compared):
            yield part
        else:
            yield from _each(part)


def _told(compared: Mapping[str, Any], p_values: Iterator[float]) -> dict[str, Any]:
    """In the order of `_each`."""
    return {
        name: part.to_json(next(p_values)) if isinstance(part, Compared) else _told(part, p_values)
        for name, part in compared.items()
    }


def _nothing_can_be_shown(least: Sequence[float]) -> list[str]:
    """The warning that too few patients are answered differently for a verdict, whatever the encoders are."""
    without = sum(p_value >= LEVEL for p_value in holm(least))
    if not without:
        return []
    return [
        f"{without} of {len(least)} comparisons cannot show a difference: of so few patients of split test p, "
        f"corrected over all of them, cannot be below {LEVEL}. Take more test patients, or fewer numbers of labels, "
        "shots and encoders."
    ]
