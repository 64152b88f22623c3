"""Load of a server: 64 studies queued, 2 workers, good and hostile mixed; throughput, latency, memory and cold start.

    python tests/benchmarks/server_load.py [BUNDLE] [STUDIES] [--cstore]

Without BUNDLE a network of one 1x1x1 convolution is served in windows of 8x8x8, so the numbers are about what the
server itself costs: reading 24 DICOM slices, masks, DICOM-SEG, pictures, reports. Studies are noise of the bundle's
modality, voxel size and channels, zipped and uploaded, or with --cstore sent by C-STORE. Every fourth study is bad.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS.parent), str(_TESTS), str(_TESTS / "runtime"), str(_TESTS / "runtime" / "server")]

import load_studies  # noqa: E402
import requests  # noqa: E402
from pynetdicom.ae import ApplicationEntity  # noqa: E402
from tiny_bundle import write_bundle  # noqa: E402

from medssl.runtime.bundle import Bundle  # noqa: E402

_QUIET_S = "5"
"""A study of which an association was broken off is waited for so long, any other a tenth of it."""


def main(bundle: Path | None, studies: int, *, cstore: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served = bundle or write_bundle(folder / "bundle")
        spec = Bundle.open(served).spec
        load_studies.check(spec)
        ports = {"http": _free_port(), "dicom": _free_port()}
        command = [sys.executable, "-m", "medssl", "serve", str(served), "--data", str(folder / "data")]
        command += ["--http.port", str(ports["http"]), "--http.requests_per_minute", "1000000"]
        command += ["--queue.workers", "2", "--queue.waiting", str(studies + 1)]
        if cstore:
            command += ["--dicom.listen", "true", "--dicom.port", str(ports["dicom"]), "--dicom.quiet_s", _QUIET_S]
            command += ["--dicom.released_quiet_s", "0.5"]
        url = f"http://127.0.0.1:{ports['http']}"
        made = [load_studies.spoilt(load_studies.images(spec, number), number) for number in range(studies)]
        if cstore:
            feeds = [_sending(ports["dicom"], *study) for study in made]
        else:
            feeds = [_uploading(url, load_studies.zipped(datasets, kind)) for kind, datasets in made]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        began = time.monotonic()
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_up(url)
            result = {"cold_start_s": round(time.monotonic() - began, 2), **_measure(url, feeds, process.pid)}
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def _uploading(url: str, content: bytes) -> Callable[[], None]:
    def upload() -> None:
        requests.post(f"{url}/api/jobs", files=[("files", ("study.zip", content))], timeout=60).raise_for_status()

    return upload


def _sending(port: int, kind: str, datasets: list[Any]) -> Callable[[], None]:
    """Of a bad study that could not be sent so, its sender breaks off half way."""
    breaks_off = kind == "foreign"

    def send() -> None:
        entity = ApplicationEntity("SCANNER")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 300
        for uid in {dataset.SOPClassUID for dataset in datasets}:
            entity.add_requested_context(uid)
        association = entity.associate("127.0.0.1", port, ae_title="MEDSSL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the phantom's values
            answers = [association.send_c_store(item) for item in datasets[:: 2 if breaks_off else 1]]
        association.abort() if breaks_off else association.release()
        status = [answer.get("Status", "none") for answer in answers]
        if any(status):
            raise SystemExit(f"the server did not take a study: {status}")

    return send


def _measure(url: str, feeds: list[Callable[[], None]], pid: int) -> dict[str, Any]:
    began, computed = time.monotonic(), _cpu_s(pid)
    for feed in feeds:
        feed()
    uploaded = time.monotonic() - began
    jobs: list[dict[str, Any]] = []
    while len(jobs) < len(feeds):  # what comes by C-STORE is a job a little later
        time.sleep(0.1)
        jobs = requests.get(f"{url}/api/jobs?state=done,failed&limit=1000", timeout=60).json()
    seconds = time.monotonic() - began
    latency = sorted(job["finished"] - job["accepted"] for job in jobs)
    alone = sorted(job["finished"] - job["started"] for job in jobs if job["state"] == "done")
    reasons: dict[str, int] = {}
    for job in jobs:
        reasons[job["reason"] or "done"] = reasons.get(job["reason"] or "done", 0) + 1
    return {
        "studies": len(jobs),
        "upload_s": round(uploaded, 2),
        "seconds": round(seconds, 2),
        "studies_per_minute": round(60 * len(jobs) / seconds, 1),
        "processor_s_per_study": round((_cpu_s(pid) - computed) / len(jobs), 2),
        "latency_p50_s": round(latency[len(latency) // 2], 2),
        "latency_p95_s": round(latency[int(0.95 * (len(latency) - 1))], 2),
        "job_p50_s": round(alone[len(alone) // 2], 2),
        "job_p95_s": round(alone[int(0.95 * (len(alone) - 1))], 2),
        "outcomes": reasons,
        "peak_mib": {name: _peak_mib(number) for name, number in _processes(pid).items()},
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_up(url: str) -> None:
    while True:
        try:
            requests.get(f"{url}/ready", timeout=60)
        except requests.ConnectionError:
            time.sleep(0.02)
        else:
            return


def _processes(pid: int) -> dict[str, int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {"server": pid, **{f"worker{k}": int(child) for k, child in enumerate(children, start=1)}}


def _cpu_s(pid: int) -> float:
    """Processor time of the server and its workers so far: what a study costs, however busy the machine is."""
    fields = (Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split() for number in _processes(pid).values())
    return sum(int(field) for line in fields for field in line[11:13]) / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Load of a server.")
    parser.add_argument("given", nargs="*", metavar="[BUNDLE] [STUDIES]")
    parser.add_argument("--cstore", action="store_true")
    options = parser.parse_args()
    given = options.given
    path = Path(given.pop(0)) if given and not given[0].isdecimal() else None
    main(path, int(given[0]) if given else 64, cstore=options.cstore)
