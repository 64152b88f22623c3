"""A process that computes one job after another: what crashes, hangs or grows in it takes no other job along.

It is started by `medssl.runtime.server.pool` as `python -m medssl.runtime.server.worker`, reads a JSON line for each
job from its standard input and answers with JSON lines. Its input ends with the server, and then so does it.
"""

import json
import os
import queue
import resource
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medssl.imaging.errors import MedsslError, unquoted
from medssl.imaging.files import DISK_FULL
from medssl.imaging.readers.guard import LIMIT_VARIABLE

Answer = Callable[[dict[str, Any]], None]


def main() -> None:
    """Answer jobs until the server is gone."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    warnings.simplefilter("ignore")  # they quote values of headers
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    def answer(content: dict[str, Any]) -> None:
        channel.write(json.dumps(content) + "\n")
        channel.flush()

    settings = json.loads(lines.get())
    predictors = _begin(settings, answer)
    while predictors:
        _attend(json.loads(lines.get()), settings, predictors, answer)


def _listen(lines: "queue.SimpleQueue[str]") -> None:
    """Pass on what the server writes; leave the process, whatever it is doing, when the server is gone."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _begin(settings: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """Load the bundles and replay their golden cases."""
    os.environ.setdefault(LIMIT_VARIABLE, str(settings["limits"]["unpacked_mb"] / 1024))
    if settings["memory_mb"]:
        most = int(settings["memory_mb"] * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        from medssl.runtime.predictor import Predictor  # noqa: PLC0415 (slow to import)

        more = {name: settings[name] for name in ("device", "endpoint")} | {"memory_mb": settings["predictor_mb"]}
        loaded = [Predictor(Path(path), settings["threads"], **more) for path in settings["bundles"]]
    except Exception as error:  # whatever it is, the server must hear of it
        answer(_failure(error))
        return {}
    answer({"kind": "ready"})
    from medssl.imaging.readers import dicom  # noqa: F401, PLC0415 (slow to import: now, not in the first job)
    from medssl.imaging.writers import dicom_seg, overlay  # noqa: F401, PLC0415
    from medssl.runtime.server import work  # noqa: F401, PLC0415

    return {predictor.bundle.spec.name: predictor for predictor in loaded}


def _attend(task: dict[str, Any], settings: dict[str, Any], predictors: dict[str, Any], answer: Answer) -> None:
    from medssl.runtime.server.work import work  # noqa: PLC0415

    job = {"job": task["job"]}

    def report(stage: str, progress: float, study_uid: str = "") -> None:
        answer({**job, "kind": "stage", "stage": stage, "progress": progress, "study_uid": study_uid})

    try:
        work(Path(task["folder"]), predictors, settings, report)
    except Exception as error:  # one job fails, the next is another
        answer({**job, **_failure(error)})
    else:
        answer({**job, "kind": "done"})


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, MedsslError):
        return {"kind": "failed", "reason": error.reason, "message": unquoted(error)}
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return {"kind": "failed", "reason": "disk-full", "message": "the server's disk is full: tell its operator"}
    if isinstance(error, MemoryError):
        message = "the study needs more memory than a worker may take (limits.worker_memory_mb)"
        return {"kind": "failed", "reason": "memory-limit", "message": message}
    message = f"internal error ({type(error).__name__}): please report it with the study's kind, not with the study"
    return {"kind": "failed", "reason": "internal", "message": message}


if __name__ == "__main__":
    main()
