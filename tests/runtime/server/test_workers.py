"""A worker that crashes, hangs or grows takes one job along, and what an operator gets wrong stops the start."""

import json
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tiny_bundle import write_bundle

pytest.importorskip("fastapi", reason="the server needs the extra serve")

from serving import ended, get, options_for, post, served, wait_for, write_scan

from medssl.imaging.errors import BundleError, ConfigError, MedsslError
from medssl.imaging.files import write_json
from medssl.runtime.server.folders import Folders
from medssl.runtime.server.options import DicomOptions, HttpOptions, LimitOptions, QueueOptions
from medssl.runtime.server.pool import JobError, Stopped, WorkerPool
from medssl.runtime.server.service import Service


def _job_folder(root: Path, scan: Path) -> Path:
    (root / "input").mkdir(parents=True)
    write_json(root / "job.json", {"model": "tiny"})
    (root / "input" / "000001.nii.gz").write_bytes(scan.read_bytes())
    return root


def _stages(folder: Path, pool: WorkerPool) -> list[str]:
    """Stages in their order; what is done of the job only ever grows."""
    told: list[tuple[str, float]] = []
    pool.run(folder, lambda stage, progress, *_: told.append((stage, progress)))
    shares = [progress for _, progress in told]
    assert shares == sorted(shares)
    return list(dict.fromkeys(stage for stage, _ in told))


def test_a_worker_that_dies_or_is_too_slow_fails_its_job_and_the_next_one_is_done(tiny: Path, tmp_path: Path):
    options = options_for(tiny, tmp_path / "data", queue=QueueOptions(threads=1, timeout_s=20))
    pool = WorkerPool(options)
    good = _job_folder(tmp_path / "good", write_scan(tmp_path / "a.nii.gz"))
    try:
        assert _stages(good, pool) == ["reading", "predicting", "writing"]
        before = pool.pids()

        def kill_it(*_: object) -> None:
            os.kill(pool.pids()[0], signal.SIGSEGV)

        (good / "results" / "report.json").unlink()  # so that it is computed again
        with pytest.raises(JobError) as error:
            pool.run(good, kill_it)
        assert error.value.reason == "worker-died"
        assert "signal 11" in error.value.message
        assert pool.pids() != before
        assert _stages(good, pool) == ["reading", "predicting", "writing"]
        assert _stages(good, pool) == []  # finished results are not computed again
    finally:
        pool.interrupt()
        pool.close()


def test_a_job_that_takes_too_long_is_stopped(tiny: Path, tmp_path: Path):
    pool = WorkerPool(options_for(tiny, tmp_path / "data", queue=QueueOptions(threads=1, timeout_s=0.5)))
    good = _job_folder(tmp_path / "good", write_scan(tmp_path / "a.nii.gz"))
    try:
        os.kill(pool.pids()[0], signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(JobError) as error:
            pool.run(good, lambda *_: None)
        assert error.value.reason == "timeout"
        assert time.monotonic() - began < 20
    finally:
        pool.interrupt()
        pool.close()


def test_a_study_that_needs_more_memory_than_allowed_is_told_and_the_next_is_done(tiny: Path, tmp_path: Path):
    limits = LimitOptions(worker_memory_mb=3000, unpacked_mb=1e6)
    pool = WorkerPool(options_for(tiny, tmp_path / "data", limits=limits))
    good = _job_folder(tmp_path / "good", write_scan(tmp_path / "a.nii.gz"))
    huge = _job_folder(tmp_path / "huge", tmp_path / "a.nii.gz")
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.set_sform(np.eye(4), code="scanner")
    nib.save(image, tmp_path / "b.nii")
    raw = bytearray((tmp_path / "b.nii").read_bytes())
    raw[42:48] = np.array([3000, 3000, 3000], np.int16).tobytes()
    (huge / "input" / "000001.nii.gz").unlink()
    with (huge / "input" / "000001.nii").open("wb") as stream:
        stream.write(raw)
        stream.truncate(352 + 3000**3)  # a sparse file as long as it promises
    try:
        with pytest.raises(JobError) as error:
            pool.run(huge, lambda *_: None)
        assert error.value.reason in (
            "memory-limit",
            "worker-died",
            "image-limit",
            "truncated",
        )  # whoever sees it first
        assert _stages(good, pool) == ["reading", "predicting", "writing"]
    finally:
        pool.interrupt()
        pool.close()


def test_a_stop_interrupts_jobs_and_they_are_done_after_the_next_start(tiny: Path, tmp_path: Path):
    options = options_for(tiny, tmp_path / "data")
    scan = write_scan(tmp_path / "a.nii.gz", (40, 40, 40))
    with served(options) as service:
        job_id = post(service, [(scan.name, scan.read_bytes())]).json()["id"]
        wait_for(lambda: get(service, f"/api/jobs/{job_id}").json()["state"] == "running")
    with served(options) as service:
        job = wait_for(lambda: (job := get(service, f"/api/jobs/{job_id}").json())["state"] == "done" and job)
        assert job["reason"] == ""


def test_workers_end_with_the_server(tiny: Path, tmp_path: Path):
    pool = WorkerPool(options_for(tiny, tmp_path / "data"))
    (pid,) = pool.pids()
    pool.close()
    assert not Path(f"/proc/{pid}").exists()


def no_memory(*_: object, **__: object) -> None:
    raise OSError(12, "Cannot allocate memory")


def test_a_job_waits_for_a_worker_while_the_machine_is_short_of_memory(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("medssl.runtime.server.pool._PAUSE_S", 0.05)
    pool = WorkerPool(options_for(tiny, tmp_path / "data"))
    good = _job_folder(tmp_path / "good", write_scan(tmp_path / "a.nii.gz"))
    short = pytest.MonkeyPatch()
    short.setattr("medssl.runtime.server.pool.subprocess.Popen", no_memory)
    try:
        with pytest.raises(JobError, match="ended by signal 9"):
            pool.run(good, lambda *_: os.kill(pool.pids()[0], signal.SIGKILL))
        threading.Timer(0.5, short.undo).start()
        assert _stages(good, pool) == ["reading", "predicting", "writing"]
    finally:
        short.undo()
        pool.interrupt()
        pool.close()


def test_a_worker_that_cannot_be_replaced_fails_jobs_and_its_place_is_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("medssl.runtime.server.pool._SHORT_S", 0.0)

    pool = WorkerPool(options_for(tiny, tmp_path / "data"))
    good = _job_folder(tmp_path / "good", write_scan(tmp_path / "a.nii.gz"))
    told: list[str] = []

    def run() -> None:
        try:
            pool.run(good, lambda *_: os.kill(pool.pids()[0], signal.SIGKILL))
        except JobError as error:
            told.append(error.reason)

    try:
        with monkeypatch.context() as patch:
            patch.setattr("medssl.runtime.server.pool.subprocess.Popen", no_memory)
            for _ in range(2):  # the second meets the dead worker that the first left
                job = threading.Thread(target=run, daemon=True)
                job.start()
                job.join(60)
                assert not job.is_alive(), "it waits for a worker that never comes back"
        assert told == ["worker-died", "no-worker"]
        assert _stages(good, pool) == ["reading", "predicting", "writing"]
    finally:
        pool.interrupt()
        pool.close()


def test_an_interrupted_pool_says_so(tiny: Path, tmp_path: Path):
    pool = WorkerPool(options_for(tiny, tmp_path / "data"))
    good = _job_folder(tmp_path / "good", write_scan(tmp_path / "a.nii.gz"))
    os.kill(pool.pids()[0], signal.SIGSTOP)
    threading.Timer(0.3, pool.interrupt).start()
    with pytest.raises(Stopped):
        pool.run(good, lambda *_: None)
    pool.close()


def test_jobs_during_which_the_server_keeps_dying_are_given_up(tiny: Path, tmp_path: Path):
    options = options_for(tiny, tmp_path / "data", queue=QueueOptions(threads=1, attempts=2))
    scan = write_scan(tmp_path / "a.nii.gz")
    with served(options) as service:
        job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
        row = service.desk.ledger._row
        row.update(state="running", attempts=2, owner="dead").where(row.id == job["id"]).execute()
    with served(options) as service:
        job = get(service, f"/api/jobs/{job['id']}").json()
        assert (job["state"], job["reason"]) == ("failed", "server-died")
        told = [json.loads(line) for line in service.desk.audit.path.read_text().splitlines()]
        given_up = next(line for line in told if line["action"] == "fail")
        assert given_up["bundle_sha256"] == service.desk.bundles["tiny"].sha256


def test_data_past_its_time_is_removed_and_noted(tiny: Path, tmp_path: Path):
    limits = LimitOptions(keep_hours=1e-9, free_disk_mb=0)
    scan = write_scan(tmp_path / "a.nii.gz")
    with served(options_for(tiny, tmp_path / "data", limits=limits)) as service:
        job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
        service.desk.keep_house()
        assert get(service, f"/api/jobs/{job['id']}").status_code == 404
        assert not list((tmp_path / "data" / "jobs").iterdir())
        assert '"retention"' in service.desk.audit.path.read_text()


def test_an_accepted_folder_without_an_entry_is_entered_at_the_start(tiny: Path, tmp_path: Path):
    """A kill between the rename and the entry: the caller may have no answer, the study is done all the same."""
    options = options_for(tiny, tmp_path / "data")
    scan = write_scan(tmp_path / "a.nii.gz")
    folders = Folders(options.data, "alone")
    job_id, folder = folders.incoming()
    (folder / "input" / "000001.nii.gz").write_bytes(scan.read_bytes())
    folders.accept(folder, job_id, {"model": "tiny", "source": "rest", "caller": "local", "study": "s"})
    folders.incoming()  # an upload under way: nobody was told of it
    folders.close()
    with served(options) as service:
        wait_for(lambda: get(service, f"/api/jobs/{job_id}").json()["state"] == "done")
        assert not list((options.data / "servers/alone/incoming").iterdir())


def test_a_taken_dicom_port_is_told(tiny: Path, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dicom = DicomOptions(listen=True, port=taken.getsockname()[1])
        service = Service(options_for(tiny, tmp_path / "data", dicom=dicom))
        try:
            with pytest.raises(MedsslError, match=r"choose another dicom\.port"):
                service.start()
        finally:
            service.stop()


def _start_and_stop(options: Any) -> None:
    service = Service(options)
    service.start()
    service.stop()


@pytest.mark.parametrize(
    ("change", "kind", "part"),
    [
        ("golden", BundleError, "golden case"),
        ("changed", BundleError, "hash mismatch"),
        ("twice", ConfigError, "another is named 'tiny' too"),
        ("port", MedsslError, "choose another http.port"),
        ("in-use", MedsslError, "in use by another medssl serve"),
        ("log-gone", MedsslError, "the audit log has 0 lines, 2 were written"),
    ],
)
def test_what_cannot_work_stops_the_start_and_leaves_nothing_open(
    tiny: Path, tmp_path: Path, change: str, kind: type[MedsslError], part: str
):
    bundle = write_bundle(tmp_path / "bundle", golden_shift=1.0 if change == "golden" else 0.0)
    options: Any = options_for(bundle, tmp_path / "data")
    if change == "changed":
        (bundle / "MODEL_CARD.md").write_text("# another\n")
    if change == "log-gone":
        _start_and_stop(options)
        (options.data / "audit-alone.jsonl").unlink()
    if change == "twice":
        options = replace(options, bundles=(bundle, tiny))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if change == "port":
            options = replace(options, http=HttpOptions(port=taken.getsockname()[1]))
        held = Folders(options.data, "alone") if change == "in-use" else None
        with pytest.raises(MedsslError, match=part) as error:
            Service(options)
        if held is not None:
            held.close()
    if change != "golden":  # that is found by a worker, which has no class to raise here
        assert isinstance(error.value, kind)
    Folders(options.data, "alone").close()
