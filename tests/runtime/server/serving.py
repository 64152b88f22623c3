"""A server in this process, on free ports of loopback, and what tests ask of it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import requests
import uvicorn

from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.runtime.server.options import (
    DicomOptions,
    HttpOptions,
    LimitOptions,
    PacsOptions,
    QueueOptions,
    ResultOptions,
    ServeOptions,
    TlsOptions,
)
from medssl.runtime.server.service import Service, http_config

COMPANION = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101"}
"""Attributes that a DICOM-SEG repeats of its source."""


def options_for(bundle: Path, data: Path, **groups: Any) -> ServeOptions:
    """Options on free ports; groups replace whole parts."""
    plain = ServeOptions(
        bundles=(bundle,),
        data=data,
        http=HttpOptions(port=0, requests_per_minute=100_000),
        tls=TlsOptions(),
        dicom=DicomOptions(listen=True, port=0, quiet_s=1.0, released_quiet_s=0.3),
        pacs=PacsOptions(),
        queue=QueueOptions(threads=1),
        limits=LimitOptions(upload_mb=1.0, unpacked_mb=8.0, files=40, frames=30, free_disk_mb=0),
        results=ResultOptions(),
    )
    return replace(plain, **groups)


@contextmanager
def served(options: ServeOptions) -> Iterator[Service]:
    """A service that runs, with its REST interface in a thread."""
    service = Service(options)
    server = uvicorn.Server(http_config(options, service.app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [service.socket]}, daemon=True)
    try:
        service.start()
        thread.start()
        wait_for(lambda: server.started)
        yield service
    finally:
        server.should_exit = True
        if thread.ident is not None:
            thread.join()
        service.stop()


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Address of a server on loopback whose requests a class answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def wait_for(condition: Callable[[], Any], seconds: float = 240.0) -> Any:
    """Value of a condition once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing came within {seconds} s")
        time.sleep(0.05)
    return value


def post(
    service: Service, files: Sequence[tuple[str, bytes]], model: str = "tiny", **headers: str
) -> requests.Response:
    """Upload files given by names and bytes."""
    parts = [("files", file) for file in files]
    return requests.post(f"{service.url}/api/jobs", files=parts, data={"model": model}, headers=headers, timeout=60)


def get(service: Service, path: str, **headers: str) -> requests.Response:
    return requests.get(f"{service.url}{path}", headers=headers, timeout=60)


def ended(service: Service, answer: requests.Response) -> dict[str, Any]:
    """The job of an upload, once it is done or failed."""
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    return wait_for(lambda: (job := get(service, f"/api/jobs/{job_id}").json())["state"] in ("done", "failed") and job)


def write_scan(path: Path, shape: tuple[int, ...] = (9, 10, 11)) -> Path:
    """A NIfTI file of noise from 0 to 30, which the tiny bundle thresholds at 10 and 20."""
    values = np.random.default_rng(1).uniform(0, 30, size=(1, *shape)).astype(np.float32)
    write_nifti(Volume(values, Geometry(np.diag([0.5, 0.5, 2.5, 1]), shape)), path)
    return path


def files_of(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
