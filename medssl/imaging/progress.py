"""Progress of long work: a bar with rate and time left, or plain lines when not a terminal."""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TextIO, TypeVar

_Item = TypeVar("_Item")
_PLAIN_EVERY_S = 10.0


class Progress:
    """Shows how far long work has come; use as a context manager.

    Args:
        label: What is being done, for instance `prepare`.
        total: Number of units in all.
        unit: Name of a unit, for instance `case` or `step`.
        start: Units already done, for resumed work; they do not count in the rate.
        stream: Where to write; standard error by default, so that standard output stays for results.
    """

    def __init__(
        self, label: str, total: int, unit: str = "case", start: int = 0, stream: TextIO | None = None
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = self._start = start
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._began = time.monotonic()
        self._shown = self._began - _PLAIN_EVERY_S

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show("", last=True)
        if self._terminal:
            self._stream.write("\n")
        self._stream.flush()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count finished units; `note` (a loss, a case name) is shown behind the rate."""
        self._done += units
        now = time.monotonic()
        if now - self._shown >= (0.1 if self._terminal else _PLAIN_EVERY_S):
            self._shown = now
            self._show(note)

    def _show(self, note: str, last: bool = False) -> None:
        elapsed = time.monotonic() - self._began
        rate = (self._done - self._start) / elapsed if elapsed > 0 else 0.0
        left = (self._total - self._done) / rate if rate > 0 else float("nan")
        timing = f"{_clock(elapsed)} taken" if last else f"{_clock(left)} left"
        share = self._done / self._total if self._total else 1.0
        text = f"{self._label} {self._done}/{self._total} {self._unit}s, {_rate(rate, self._unit)}, {timing} {note}"
        if self._terminal:
            filled = int(24 * min(share, 1.0))
            self._stream.write(f"\r\x1b[K[{'#' * filled}{'.' * (24 - filled)}] {text.rstrip()}")
        else:
            self._stream.write(f"{text.rstrip()}\n")
        self._stream.flush()


def track(items: Iterable[_Item], label: str, total: int, unit: str = "case") -> Iterator[_Item]:
    """Yield the items while showing progress."""
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def _rate(per_second: float, unit: str) -> str:
    return f"{per_second:.3g} {unit}s/s" if per_second >= 0.5 else f"{per_second * 60:.3g} {unit}s/min"


def _clock(seconds: float) -> str:
    if math.isnan(seconds):  # no rate yet
        return "unknown time"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
