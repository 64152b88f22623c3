"""What a result was made with: the command, versions, the commit, the machine."""

import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

import medssl

_LIBRARIES = ("medssl", "torch", "lightning", "monai", "numpy", "scipy", "scikit-learn", "torchmetrics", "onnxruntime")
_COMMAND: ContextVar[str] = ContextVar("command", default="")


@contextmanager
def running(verb: str, arguments: Sequence[str]) -> Iterator[None]:
    """Let `command` tell, within the block, the command line of this verb as it was typed."""
    token = _COMMAND.set(shlex.join(["medssl", verb.replace("_", "-"), *arguments]))
    try:
        yield
    finally:
        _COMMAND.reset(token)


def command() -> str:
    """The command line that is running; empty where medssl is called from Python."""
    return _COMMAND.get()


def environment() -> dict[str, Any]:
    """Command, time, commit, versions of what is installed, and machine; JSON-able."""
    return {
        "command": command(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _commit(Path(medssl.__path__[0]).parent),
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_gib": _memory_gib(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _commit(root: Path) -> str | None:
    """Commit of the source tree, `-dirty` where files differ from it; None for an installed package."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _processor() -> str:
    """Name of the processor; what the platform says where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
