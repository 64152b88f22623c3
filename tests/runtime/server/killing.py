"""Kill a server with SIGKILL, over and over, while studies come in and are computed; then count what became of them.

Senders break off too, and send again or never come back: what was not sent whole must leave nothing in the PACS. The
network is slow enough that kills meet it at work.

`python killing.py FOLDER KILLS PAUSE_S` writes the fate of a run as JSON. The server is the real one in a process of
its own, forked from one that has the libraries loaded, so that a start takes as long as loading the bundle: that is
`python killing.py` without arguments, which forks a server for each line on its input, a JSON of options, and writes
its process id.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import requests
from dicom_phantom import slice_dataset
from kill_fate import Archive, Fate, at_work, count
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage
from serving import COMPANION, write_scan
from tiny_bundle import onnx_bytes, write_bundle

_SLICES, _SIDE = 4, 24
_KERNEL = 25
"""Width of the network's convolution; with the windows of `_SIDE` it takes a quarter of a second for a study."""
_AT_START, _AT_STAGE = 0.2, 0.4
"""How often a kill comes while the server starts, and how often as soon as a job is at a certain stage."""
_STAGES = ("reading", "predicting", "writing", "storing")
_BREAKS_OFF, _COMES_BACK = 0.3, 0.5
"""How often a sender breaks a study off, and how often it then sends it again."""


class KillRun:
    """One server that is killed again and again.

    Args:
        folder: For its data and its bundle.
        seed: Of the moments.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self._archive = Archive()
        self._data = folder / "data"
        bundle = write_bundle(folder / "slow", onnx_bytes(kernel=_KERNEL))
        self._ports = {"http": _free_port(), "dicom": _free_port()}
        self._settings = json.dumps(
            {"bundle": str(bundle), "data": str(self._data), "archive": self._archive.port, **self._ports}
        )
        self._scan = write_scan(folder / "scan.nii.gz", (_SIDE, _SIDE, 6)).read_bytes()
        self._uploads: list[str] = []
        self._begun: dict[str, frozenset[str]] = {}
        self._studies: dict[str, int] = {}
        self._number = 0
        self._stages = itertools.cycle(_STAGES)
        self._stop = threading.Event()
        command = [sys.executable, __file__]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._nursery = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def run(self, kills: int, pause_s: float = 1.0) -> Fate:
        """Kill the server so often, then let it finish."""
        began = time.monotonic()
        fate, met = Fate(kills), dict[tuple[str, int], str]()
        feeders = [threading.Thread(target=work, daemon=True) for work in (self._upload, self._send)]
        for feeder in feeders:
            feeder.start()
        for _ in range(kills):
            pid = self._start()
            self._wait_moment(pid, pause_s)
            _kill(pid, whole=self._random.random() < 0.5)
            met |= at_work(self._data)
        self._stop.set()
        for feeder in feeders:
            feeder.join()
        pid = self._start()
        self._wait_up(pid)
        self._store(self._slices_of_another()[1][:-1], end=_hang_up)  # one at least never comes whole
        self._drain()
        os.kill(pid, signal.SIGTERM)
        _gone(pid)
        count(fate, self._data, self._uploads, self._studies, self._begun, self._archive)
        fate.stages = dict(Counter(met.values()))
        fate.seconds = time.monotonic() - began
        return fate

    def close(self) -> None:
        """End what was started."""
        self._stop.set()
        for stream in (self._nursery.stdin, self._nursery.stdout):
            if stream is not None:
                stream.close()
        self._nursery.wait()
        self._archive.close()

    def _start(self) -> int:
        if self._nursery.stdin is None or self._nursery.stdout is None:
            raise RuntimeError("the nursery has no pipes")
        self._nursery.stdin.write(self._settings + "\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._ports['http']}{path}"

    def _wait_moment(self, pid: int, pause_s: float) -> None:
        """Return when the server is to be killed."""
        draw = self._random.random()
        if draw >= _AT_START:
            self._wait_up(pid)
            if draw < _AT_START + _AT_STAGE:
                self._wait_stage(next(self._stages))
                return  # most of them take milliseconds
            self._wait_work()
        time.sleep(self._random.uniform(0, pause_s))

    def _wait_stage(self, stage: str) -> None:
        """Return once a job is there, or none comes there."""
        deadline = time.monotonic() + 20
        while stage not in at_work(self._data).values() and time.monotonic() < deadline:
            time.sleep(0.002)

    def _wait_up(self, pid: int) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                requests.get(self._url("/ready"), timeout=20)
            except requests.RequestException:
                if not Path(f"/proc/{pid}").exists():
                    raise AssertionError("the server did not start again") from None
                time.sleep(0.02)
            else:
                return
        raise AssertionError("the server does not answer")

    def _wait_work(self) -> None:
        """Return once something was accepted, however slow the machine is."""
        before, deadline = len(self._uploads) + len(self._studies), time.monotonic() + 10
        while len(self._uploads) + len(self._studies) == before and time.monotonic() < deadline:
            time.sleep(0.01)

    def _upload(self) -> None:
        while not self._stop.wait(0.6):
            try:
                answer = requests.post(self._url("/api/jobs"), files=[("files", ("a.nii.gz", self._scan))], timeout=20)
            except requests.RequestException:
                continue
            if answer.status_code == 202:
                self._uploads.append(answer.json()["id"])

    def _send(self) -> None:
        while not self._stop.wait(0.3):
            (study, slices), associations = self._slices_of_another(), 1
            if self._random.random() < _BREAKS_OFF:
                self._store(slices[: self._random.randrange(1, _SLICES)], end=self._random.choice([_abort, _hang_up]))
                if self._random.random() > _COMES_BACK:
                    continue
                associations += 1
            while not self._store(slices, end=Association.release):
                associations += 1
                if self._stop.wait(0.1):
                    return
            self._studies[study] = associations

    def _slices_of_another(self) -> tuple[str, list[pydicom.Dataset]]:
        """A study that was not begun yet."""
        self._number += 1
        study = f"1.2.3.{self._number}"
        slices = [
            slice_dataset(np.full((_SIDE, _SIDE), 15, np.int16), (0, 0, 2.5 * k), series=f"{study}.1", number=k + 1,
                          StudyInstanceUID=study, **COMPANION)
            for k in range(_SLICES)
        ]  # fmt: skip
        self._begun[study] = frozenset(str(dataset.SOPInstanceUID) for dataset in slices)
        return study, slices

    def _store(self, slices: list[pydicom.Dataset], end: Callable[[Association], None]) -> bool:
        """Whether the server took all slices and answered the release."""
        entity = ApplicationEntity("SCANNER")
        entity.add_requested_context(CTImageStorage)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
        association = entity.associate("127.0.0.1", self._ports["dicom"], ae_title="MEDSSL")
        if not association.is_established:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                answers = [association.send_c_store(dataset) for dataset in slices]
            except (RuntimeError, ValueError):
                return False  # the association is gone
        end(association)
        return association.is_released and all("Status" in answer and answer.Status == 0 for answer in answers)

    def _drain(self) -> None:
        """Return once no study is coming in and no job is waiting, twice: one may be on its way from here to there."""
        deadline, quiet = time.monotonic() + 60 + 10 * len(self._uploads), 0
        while time.monotonic() < deadline:
            coming = list(self._data.glob("servers/*/inbox/*/input/*.dcm"))  # of others every object was refused
            jobs = requests.get(self._url("/api/jobs?state=queued,running"), timeout=60).json()
            quiet = 0 if jobs or coming else quiet + 1
            if quiet == 2:
                return
            time.sleep(0.5)
        raise AssertionError("the server does not finish")


def _abort(association: Association) -> None:
    association.abort()


def _hang_up(association: Association) -> None:
    """End as a sender does whose process or machine died."""
    with contextlib.suppress(OSError, AttributeError):  # the server may be dead already
        association.dul.socket.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
    association.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _kill(pid: int, *, whole: bool) -> None:
    """Kill the server, with its workers or without."""
    (os.killpg if whole else os.kill)(pid, signal.SIGKILL)
    _gone(pid)


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def _nursery() -> None:
    """Fork a server for each line of input."""
    from medssl.runtime.server.service import Service  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not kept
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.close(0)
            _serve(json.loads(line))
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _serve(settings: dict[str, Any]) -> None:
    from medssl.commands.serve import serve
    from medssl.runtime.server.options import DicomOptions, HttpOptions, LimitOptions, PacsOptions, QueueOptions

    os.dup2(2, 1)
    serve(
        [Path(settings["bundle"])],
        Path(settings["data"]),
        http=HttpOptions(port=settings["http"], requests_per_minute=1_000_000),
        dicom=DicomOptions(listen=True, port=settings["dicom"], quiet_s=1.0, released_quiet_s=0.2),
        pacs=PacsOptions(store="cstore", port=settings["archive"], ae_title="ARCHIVE"),
        queue=QueueOptions(threads=1, attempts=1_000_000, waiting=1000),
        limits=LimitOptions(free_disk_mb=0),
    )


def kill_run(folder: Path, kills: int, pause_s: float) -> Fate:
    """Fate of a run in a process of its own."""
    command = [sys.executable, __file__, str(folder), str(kills), str(pause_s)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=True)
    return Fate(**json.loads(done.stdout))


def _main(folder: str, kills: str, pause_s: str) -> None:
    run = KillRun(Path(folder), seed=int(kills))
    try:
        fate = run.run(int(kills), float(pause_s))
    finally:
        run.close()
    sys.stdout.write(json.dumps(asdict(fate)))


if __name__ == "__main__":
    _main(*sys.argv[1:]) if sys.argv[1:] else _nursery()
