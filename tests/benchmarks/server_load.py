"""Load of a server: 64 studies queued, 2 workers, good and hostile mixed; throughput, latency, memory and cold start.

    python tests/benchmarks/server_load.py [BUNDLE] [STUDIES]

Without BUNDLE a network of one 1x1x1 convolution is served in windows of 8x8x8, so the numbers are about what the
server itself costs: reading 24 DICOM slices, masks, DICOM-SEG, pictures, reports. Every fourth study is bad.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS.parent), str(_TESTS), str(_TESTS / "runtime"), str(_TESTS / "runtime" / "server")]

import numpy as np  # noqa: E402
import requests  # noqa: E402
from dicom_phantom import write_series  # noqa: E402
from serving import COMPANION  # noqa: E402
from tiny_bundle import write_bundle  # noqa: E402

_SHAPE = (24, 64, 64)


def main(bundle: Path | None, studies: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served = bundle or write_bundle(folder / "bundle")
        uploads = [_upload(folder, number) for number in range(studies)]
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "medssl", "serve", str(served), "--data", str(folder / "data")]
        command += ["--http.port", str(port), "--queue.workers", "2", "--http.requests_per_minute", "1000000"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        began = time.monotonic()
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_up(url)
            result = {"cold_start_s": round(time.monotonic() - began, 2), **_measure(url, uploads, process.pid)}
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def _measure(url: str, uploads: list[bytes], pid: int) -> dict[str, Any]:
    began, computed = time.monotonic(), _cpu_s(pid)
    for content in uploads:
        requests.post(f"{url}/api/jobs", files=[("files", ("study.zip", content))], timeout=60).raise_for_status()
    uploaded = time.monotonic() - began
    while requests.get(f"{url}/api/jobs?state=queued,running&limit=1", timeout=60).json():
        time.sleep(0.1)
    seconds = time.monotonic() - began
    jobs = requests.get(f"{url}/api/jobs?limit=1000", timeout=60).json()
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


def _upload(folder: Path, number: int) -> bytes:
    """A zipped study; every fourth is bad in one of four ways."""
    path = folder / f"study{number}"
    pixels = np.random.default_rng(number).integers(0, 30, _SHAPE).astype(np.int16)
    write_series(path, pixels, series=f"1.2.3.{number}.1", StudyInstanceUID=f"1.2.3.{number}", **COMPANION)
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    bad = number // 4 % 4 if number % 4 == 3 else None
    if bad == 0:
        files["000.dcm"] = files["000.dcm"][:-1000]
    elif bad == 1:
        files = {"../../out.dcm": b"x"}
    elif bad == 2:
        del files["010.dcm"]
    elif bad == 3:
        files = {"a.dcm": os.urandom(10_000)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


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
    given = sys.argv[1:]
    path = Path(given.pop(0)) if given and not given[0].isdecimal() else None
    main(path, int(given[0]) if given else 64)
