"""Signals that end a run cleanly: Ctrl-C, SIGTERM, and SIGUSR1, which SLURM sends before the time is up."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


class Interrupted(SystemExit):
    """A signal ended the run after its checkpoint was written; the exit code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class StopSignals:
    """Remembers the first stop signal instead of dying from it; use as a context manager.

    A second Ctrl-C is not held back: who presses twice does not want to wait. Outside the main thread, where Python
    allows no handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt
        self.received = number


def ignore_in_worker(_worker: int) -> None:
    """Let a reading process outlive signals sent to the whole group: the training process ends it when it is done."""
    for name in _NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
