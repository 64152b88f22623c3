"""One line of a benchmark, and the one way in which two programs are timed."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """A measurement of medssl beside that of a peer, taken in one run.

    Args:
        name: What was measured.
        unit: Unit of `ours` and `peer`.
        ours: medssl's number.
        peer: The peer's number.
        peer_name: The peer, with its version and how it was run.
        ratio: How many times better ours is.
    """

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for `--json`."""
        return asdict(self)


def median_seconds(
    programs: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    settle: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median time of each program; they take turns, so that a busy machine slows all of them alike.

    Args:
        programs: Name to what is timed.
        rounds: How often each one is timed.
        warmup: Turns before that are not counted.
        settle: Waits, before and at the end of each timing, for what a device still has to compute.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(warmup + rounds):
        for name, program in programs.items():
            settle()
            start = time.perf_counter()
            program()
            settle()
            if turn >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}
