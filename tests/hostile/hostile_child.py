"""The process in which hostile inputs are read: imports everything once, then forks for every input.

One JSON line a job on standard input, `{"entry", "path", "bundle", "out", "seconds"}`; one a result on standard output.
"""

import io
import json
import os
import resource
import select
import shutil
import signal
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from hostile_clock import Clock

import medssl.__main__ as command_line
from medssl.imaging.errors import MedsslError
from medssl.imaging.geometry import Geometry
from medssl.imaging.index import index_tree
from medssl.imaging.readers.dicom_decoder import DECODER
from medssl.imaging.readers.open import read_label, read_volume
from medssl.imaging.readers.scan import scan_tree
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import Bundle
from medssl.runtime.session import open_session

ADDRESS_BYTES = 6 << 30


def run(job: dict[str, str]) -> dict[str, Any]:
    """Feed one input to its entry point; what comes back is `read` or `refused`."""
    path, out = Path(job["path"]), Path(job["out"])
    entry = job["entry"]
    if entry in ("predict", "config"):
        return _command(job, path, out)
    try:
        if entry == "server":
            return {"outcome": "read", "detail": _of_a_server(path, out, Path(job["bundle"]))}
        return {"outcome": "read", "detail": _called(entry, path, out)}
    except MedsslError as error:
        return {"outcome": "refused", "reason": error.reason, "detail": error.message[:300]}


def _called(entry: str, path: Path, out: Path) -> str:
    if entry == "read":
        volume = read_volume(path)
        return f"{volume.array.shape} {volume.array.dtype} sum {float(np.sum(volume.array, dtype=np.float64)):.0f}"
    if entry == "label":
        like = Volume(np.zeros((1, 12, 10, 4), np.int16), Geometry(np.diag([-0.5, -0.5, 2.5, 1.0]), (12, 10, 4)))
        return str(int(read_label(path, like).array.sum()))
    if entry == "below":
        scan = scan_tree(path)
        return f"{len(scan.images)} images, reasons {sorted({p.reason for p in scan.problems})}"
    if entry == "index":
        return f"{len(index_tree(path, out / 'manifest.csv').rows)} rows"
    if entry == "bundle":
        session, difference = open_session(Bundle.open(path), threads=1)
        return f"{session.providers} {difference}"
    raise ValueError(entry)


def _of_a_server(path: Path, out: Path, bundle: Path) -> str:
    """What a worker of the server makes of the files, which lie as an upload or C-STORE leaves them."""
    from medssl.runtime.server.folders import suffix_of  # needs the extra serve
    from medssl.runtime.server.inputs import read_input
    from medssl.runtime.server.options import LimitOptions

    received = out / "job" / "input"
    received.mkdir(parents=True)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for number, file in enumerate(files, start=1):
        shutil.copyfile(file, received / f"{number:06d}{suffix_of(file.name)}")
    volume = read_input(out / "job", Bundle.open(bundle).spec, LimitOptions(unpacked_mb=128.0))
    return f"{volume.array.shape} {volume.source.notes}"


def _command(job: dict[str, str], path: Path, out: Path) -> dict[str, Any]:
    given = ["--config", str(path)] if job["entry"] == "config" else []
    image = job["bundle"] + "/golden.npz" if given else str(path)
    text = io.StringIO()
    with redirect_stderr(text), redirect_stdout(text):
        try:
            code = command_line.main(
                ["predict", job["bundle"], image, "--out", str(out / "p"), "--threads", "1", *given]
            )
        except SystemExit as stop:
            code = int(stop.code or 0)
    said = text.getvalue()
    if code == 0:
        return {"outcome": "read", "detail": said[-200:]}
    if code == 2 and "error (" in said:
        return {"outcome": "refused", "reason": said.split("error (", 1)[1].split(")", 1)[0], "detail": said[-300:]}
    return {"outcome": "failed", "detail": f"exit code {code}: {said[-600:]}"}


def _in_child(job: dict[str, str], pipe: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    try:
        result = run(job)
    except BaseException as error:  # anything that is no MedsslError is what the corpus looks for
        import traceback

        lines = traceback.format_exc().splitlines()
        result = {
            "outcome": "failed",
            "detail": f"{type(error).__name__}: {str(error)[:300]} | {' '.join(lines[-12:])}",
        }
    DECODER.close()  # its processor time and memory count, too
    os.write(pipe, json.dumps(result).encode()[:60_000])
    os._exit(0)


def _judged(job: dict[str, str]) -> dict[str, Any]:
    """Fork, wait, and add what the kernel measured of the child: seconds of several kinds and peak memory."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        _in_child(job, writer)
    os.close(writer)
    clock, text, done = Clock(child), b"", False
    while not done and clock.wall_s() < float(job["seconds"]):
        if select.select([reader], [], [], 0.2)[0]:
            block = os.read(reader, 1 << 16)
            text, done = text + block, not block
        clock.look()
    os.close(reader)
    if not done:
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    wall_s = clock.wall_s()
    result: dict[str, Any] = json.loads(text) if text else {"outcome": "killed", "detail": f"wait status {status}"}
    if not done:
        result = {"outcome": "hung", "detail": f"over {job['seconds']} s"}
    elif os.WIFSIGNALED(status):
        result = {"outcome": "crashed", "detail": f"signal {os.WTERMSIG(status)}"}
    seconds = used.ru_utime + used.ru_stime
    blocked_s = max(0.0, wall_s - seconds - clock.waited_s())
    return result | {
        "seconds": seconds, "wall_s": wall_s, "blocked_s": blocked_s, "peak_mib": used.ru_maxrss / 1024
    }  # fmt: skip


def main() -> None:
    """Answer jobs until standard input is closed."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_judged(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
