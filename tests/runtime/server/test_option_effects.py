"""What options of the queue, of results and of the archive do to a job, from the options to its end."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from dicom_phantom import ramp, write_series

pytest.importorskip("fastapi", reason="the server needs the extra serve")

from serving import COMPANION, ended, files_of, get, options_for, post, served, write_scan

from medssl.imaging.errors import ImageError, MedsslError
from medssl.imaging.files import write_json
from medssl.imaging.readers.guard import LIMIT_VARIABLE
from medssl.runtime import predictor
from medssl.runtime.device import _PROVIDERS
from medssl.runtime.predictor import Predictor
from medssl.runtime.server import work, worker
from medssl.runtime.server.options import PacsOptions, QueueOptions, ResultOptions
from medssl.runtime.server.pool import WorkerPool, worker_settings


@pytest.mark.parametrize("resample", [False, True])
def test_series_with_uneven_slices_are_refused_or_resampled_as_the_operator_says(
    tiny: Path, tmp_path: Path, resample: bool
):
    places = [(0.0, 0.0, place) for place in (0.0, 2.5, 5.0, 8.5, 11.0)]
    write_series(tmp_path / "job" / "input", (ramp(5) % 30).astype(np.int16), positions=places, **COMPANION)
    write_json(tmp_path / "job" / "job.json", {"model": "tiny"})
    options = options_for(tiny, tmp_path / "data", results=ResultOptions(resample_irregular=resample))
    task = tmp_path / "job", {"tiny": Predictor(tiny)}, worker_settings(options, [tiny]), lambda *_: None
    if not resample:
        with pytest.raises(ImageError) as error:
            work.work(*task)
        assert error.value.reason == "uneven-spacing"
        return
    work.work(*task)
    warnings = " ".join(json.loads((tmp_path / "job" / "results" / "report.json").read_text())["warnings"])
    assert "uneven slices were resampled" in warnings
    assert "dicom-seg was not written" in warnings  # its planes would be those of no file
    assert (tmp_path / "job" / "results" / "seg.nii.gz").exists()


def test_what_the_queue_says_of_memory_and_device_reaches_the_network(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given: dict[str, Any] = {}
    monkeypatch.setenv(LIMIT_VARIABLE, "1")  # what a worker sets for itself
    monkeypatch.setattr(predictor, "Predictor", lambda path, threads, **more: given.update(more, path=path, n=threads))
    settings = worker_settings(
        options_for(tiny, tmp_path, queue=QueueOptions(threads=3, memory_mb=700, device="cpu")), [tiny]
    )
    with pytest.raises(AttributeError):  # the stand-in is no predictor
        worker._begin(settings, lambda _: None)
    assert given == {"path": tiny, "n": 3, "memory_mb": 700, "device": "cpu", "endpoint": ""}


def test_a_device_that_was_named_computes_and_is_told(tiny: Path, tmp_path: Path):
    scan = write_scan(tmp_path / "a.nii.gz")
    with served(options_for(tiny, tmp_path / "data", queue=QueueOptions(threads=1, device="cpu"))) as service:
        job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
        report = get(service, f"/api/jobs/{job['id']}/results/report.json").json()
    assert report["providers"] == ["CPUExecutionProvider"]


def test_a_device_that_is_not_there_stops_the_start_and_is_named(tiny: Path, tmp_path: Path):
    offered = onnxruntime.get_available_providers()
    absent: Any = next(name for name, provider in _PROVIDERS.items() if provider not in offered)
    with pytest.raises(MedsslError, match=f"device {absent}: this ONNX Runtime offers"):
        WorkerPool(options_for(tiny, tmp_path / "data", queue=QueueOptions(device=absent)))


@pytest.mark.parametrize("retry_h", [0.0, 24.0])
def test_results_that_an_archive_did_not_take_are_offered_again_only_as_long_as_is_said(
    tiny: Path, tmp_path: Path, retry_h: float
):
    nobody = PacsOptions(store="cstore", port=9, tries=1, retry_h=retry_h)
    series = write_series(tmp_path / "s", (ramp(4) % 30).astype(np.int16), **COMPANION)
    with served(options_for(tiny, tmp_path / "data", pacs=nobody)) as service:
        job = ended(service, post(service, files_of(series)))
        assert (job["state"], job["reason"]) == ("failed", "store-failed")
        promise = "offered to it again until 24 hours after" if retry_h else "not offered to it again"
        assert promise in job["message"]
        row, now = service.desk.ledger._row, time.time()
        row.update(accepted=now - 2000, finished=now - 1500).where(row.id == job["id"]).execute()
        service.desk.queue = None  # nobody takes it from the ledger
        service.desk.keep_house()
        job = get(service, f"/api/jobs/{job['id']}").json()
    assert job["state"] == ("queued" if retry_h else "failed")
    assert job["results"], "they are there while they wait to be offered, too"
