"""What a process did with its time: it computed, waited for a processor that others had, or was blocked.

A machine that does other things makes everything slow; only what is neither computing nor waiting for its turn hangs.
"""

import time
from pathlib import Path


class Clock:
    """Wall time of a process, and the time in which it or what it started was ready to run and had no processor.

    Args:
        pid: The process, which has just begun.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._began = pid, time.monotonic()
        self._waited: dict[str, int] = {}
        self._known = Path("/proc/self/schedstat").exists()

    def look(self) -> None:
        """Note how long its threads and those of its children waited; to be called often, and before it is buried."""
        waiting = [self._pid]
        while waiting:
            for task in Path(f"/proc/{waiting.pop()}/task").glob("*"):
                try:
                    self._waited[task.name] = int((task / "schedstat").read_text().split()[1])
                    waiting += map(int, (task / "children").read_text().split())
                except (OSError, IndexError):  # it has ended
                    continue

    def wall_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def waited_s(self) -> float:
        """Seconds in which it waited for a processor; where the kernel does not tell, any of its time may have been."""
        return sum(self._waited.values()) / 1e9 if self._known else self.wall_s()
