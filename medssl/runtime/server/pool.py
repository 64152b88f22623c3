"""Worker processes: each computes one job at a time, and is replaced when it dies or takes too long."""

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medssl.imaging.errors import MedsslError
from medssl.runtime.server.logs import LOG
from medssl.runtime.server.options import PacsOptions, ServeOptions
from medssl.runtime.server.pacs import Caller

_START_S = 300.0
_SHORT_S, _PAUSE_S = 120.0, 5.0
"""How long a job waits while the machine is too short of memory to start a worker, and how often it tries."""
OnStage = Callable[[str, float, str], None]


class JobError(MedsslError):
    """A job that failed, with the reason why."""


class Stopped(Exception):  # noqa: N818 (it is no error: the server was told to stop)
    """The server stops; the job was interrupted and will be done after the next start."""


class Worker:
    """One process.

    Args:
        settings: What it must know; see `worker_settings`.

    Raises:
        MedsslError: It could not load the bundles.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "medssl.runtime.server.worker"]
        errors = None if os.environ.get("MEDSSL_DEBUG") else subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        self._rest = b""
        self._settings = settings
        self._ready = False

    def wait_ready(self) -> None:
        """Return once the bundles are loaded.

        Raises:
            MedsslError: They must not be used.
        """
        if self._ready:
            return
        self._send(self._settings)
        answer = self._receive(time.monotonic() + _START_S)
        if answer["kind"] != "ready":
            self.kill()
            raise MedsslError(str(answer["message"]), reason=str(answer["reason"]))
        self._ready = True

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.poll() is None

    def run(self, folder: Path, timeout_s: float, on_stage: OnStage) -> None:
        """Compute a job.

        Raises:
            JobError: The job failed, the process died, or it took too long.
        """
        try:
            answer = self._last_answer(folder, time.monotonic() + timeout_s, on_stage)
        except BaseException:  # it may still compute: who took it for idle would get this job's answers for the next
            self.kill()
            raise
        if answer["kind"] == "failed":
            raise JobError(answer["message"], reason=answer["reason"])

    def _last_answer(self, folder: Path, deadline: float, on_stage: OnStage) -> dict[str, Any]:
        self._send({"folder": str(folder), "job": folder.name})
        while True:
            answer = self._receive(deadline)
            if answer.get("job") != folder.name:
                raise JobError("the worker answered for another job and was stopped", reason="worker-died")
            if answer["kind"] in ("done", "failed"):
                return answer
            on_stage(answer["stage"], answer["progress"], answer["study_uid"])

    def interrupt(self) -> None:
        """End the process; who waits for its answer hears of it."""
        self._process.kill()

    def kill(self) -> None:
        """End the process and close what is left of it; for its user alone."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def _send(self, content: dict[str, Any]) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the worker has no input")
        try:
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._died()

    def _receive(self, deadline: float) -> dict[str, Any]:
        if self._process.stdout is None:
            raise RuntimeError("the worker has no output")
        handle = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                self.kill()
                raise JobError("the job took longer than queue.timeout_s and was stopped", reason="timeout")
            block = os.read(handle, 65536)
            if not block:
                self._died()
            self._rest += block
        line, self._rest = self._rest.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _died(self) -> None:
        code = self._process.wait()
        self.kill()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise JobError(
            f"the worker process ended {how}: out of memory, or a fault in a decoder or in the network",
            reason="worker-died",
        )


class WorkerPool:
    """A fixed number of workers.

    Args:
        options: Of the server.
        bundles: Folders with the copies that the server checked; None takes the bundles of the options.

    Raises:
        MedsslError: The bundles cannot be loaded.
    """

    def __init__(self, options: ServeOptions, bundles: Sequence[Path] | None = None) -> None:
        self._settings = worker_settings(options, options.bundles if bundles is None else bundles)
        self._timeout_s = options.queue.timeout_s
        self._stop = threading.Event()
        self._workers = [Worker(self._settings) for _ in range(options.queue.workers)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        try:
            for worker in self._workers:
                worker.wait_ready()
                self._idle.put(worker)
        except MedsslError:
            self.interrupt()
            self.close()
            raise

    def run(self, folder: Path, on_stage: OnStage) -> None:
        """Compute a job in the next free worker.

        Raises:
            JobError: The job failed.
            Stopped: The server stops.
        """
        worker = self._idle.get()
        try:
            if not worker.alive:
                worker = self._replace(worker, _SHORT_S)
            worker.wait_ready()
            worker.run(folder, self._timeout_s, on_stage)
        except MedsslError:
            if self._stop.is_set():
                raise Stopped from None
            raise
        finally:
            self._idle.put(self._successor(worker))

    def pids(self) -> Sequence[int]:
        """Process ids."""
        return [worker.pid for worker in self._workers]

    def interrupt(self) -> None:
        """End all workers, whatever they do; jobs that run raise `Stopped`."""
        self._stop.set()
        for worker in self._workers:
            worker.interrupt()

    def close(self) -> None:
        """Give back what is left of interrupted workers, once no job runs."""
        for worker in self._workers:
            worker.kill()

    def _successor(self, worker: Worker) -> Worker:
        """Who takes the next job; the dead worker where none can be started, since its place would be lost for ever."""
        if worker.alive or self._stop.is_set():
            return worker
        try:
            return self._replace(worker)
        except JobError as error:
            LOG.error("%s", error.message)
            return worker

    def _replace(self, worker: Worker, patience_s: float = 0.0) -> Worker:
        worker.kill()
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fresh = Worker(self._settings)  # it loads while the server does other things
            except OSError as error:
                if time.monotonic() < deadline and not self._stop.wait(_PAUSE_S):
                    continue
                raise JobError(
                    f"no worker process could be started ({error.strerror or type(error).__name__}): the machine is "
                    "short of memory or processes; send the study again once it is not",
                    reason="no-worker",
                ) from error
            self._workers[self._workers.index(worker)] = fresh
            return fresh


def worker_settings(options: ServeOptions, bundles: Sequence[Path]) -> dict[str, Any]:
    """What a worker must know, as plain data."""
    from medssl.runtime.session import usable_threads  # noqa: PLC0415 (slow to import)

    caller = Caller(options.dicom.ae_title, options.tls.certificate, options.tls.key)
    return {
        "bundles": [str(path) for path in bundles],
        "threads": options.queue.threads or max(1, usable_threads() // options.queue.workers),
        "device": options.queue.device,
        "endpoint": options.queue.endpoint,
        "predictor_mb": options.queue.memory_mb,
        "memory_mb": options.limits.worker_memory_mb,
        "limits": asdict(options.limits),
        "pacs": _plain(options.pacs),
        "caller": _plain(caller),
        "formats": list(options.results.formats),
        "resample_irregular": options.results.resample_irregular,
    }


def _plain(options: PacsOptions | Caller) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(options).items()}
