"""Workers end with the command that started them; a worker that is killed is told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

_SCRIPT = """
import os, sys, time
from pathlib import Path
from medssl.commands.side_by_side import side_by_side

def work(item):
    (Path(sys.argv[1]) / f"{item}.pid").write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    list(side_by_side(work, range(4), [folder / f"{n}.log" for n in range(4)], 2))
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal that Windows lacks")
def test_workers_end_with_a_command_that_is_killed_and_take_no_further_work(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    command = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(tmp_path)])
    try:
        workers = _wait_for(tmp_path, 2)
    finally:
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert len(list(tmp_path.glob("*.pid"))) == 2


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal that Windows lacks")
def test_a_killed_worker_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            _wait_for(tmp_path, 2)[0].kill()
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 1
    assert "a worker was killed, most likely for want of memory: run the same again with fewer --jobs" in said


def _wait_for(folder: Path, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        started = [path.read_text() for path in folder.glob("*.pid")]
        if len(started) == count and all(started):
            return [psutil.Process(int(pid)) for pid in started]
        time.sleep(0.1)
    raise AssertionError(f"{count} workers did not start")
