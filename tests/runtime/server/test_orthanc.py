"""Against a real archive: Orthanc with DICOMweb, fed by DCMTK. Run by `make test-clinic`."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, write_series

pytest.importorskip("fastapi", reason="the server needs the extra serve")

import requests
from orthanc_pacs import PASSWORD, USER, Orthanc, orthanc
from serving import COMPANION, get, options_for, served, wait_for

from medssl.imaging.dicom_transfer import read_object
from medssl.runtime.results import FORMATS
from medssl.runtime.server.options import LimitOptions, PacsOptions, ServeOptions

pytestmark = pytest.mark.clinic

_STUDY = "1.2.826.0.1.3680043.8.498.2026"
_SLICES = 6


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("archive") / "orthanc") as running:
        yield running


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text(PASSWORD)
    return path


def _options(tiny: Path, data: Path, archive: Orthanc, password: Path, store: Any) -> ServeOptions:
    pacs = PacsOptions(
        dicomweb=archive.dicomweb, user=USER, password=password, store=store, port=archive.dicom, ae_title="ORTHANC"
    )
    return replace(options_for(tiny, data), pacs=pacs, limits=LimitOptions(free_disk_mb=0))


def _series(folder: Path, study: str) -> Path:
    pixels = (ramp(_SLICES) % 30).astype(np.int16)
    return write_series(folder, pixels, series=f"{study}.1", StudyInstanceUID=study, **COMPANION)


def _storescu(service: Any, folder: Path) -> None:
    program = next(p for p in ("/usr/bin/storescu", shutil.which("storescu")) if p and Path(p).exists())
    command = [program, "-aec", "MEDSSL", "-aet", "STORESCU", "+sd", "127.0.0.1", str(service.dicom.port), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _done(service: Any, study: str, number: int = 1) -> dict[str, Any]:
    name = service.desk.secret.name(study)

    def newest() -> Any:
        jobs = [job for job in get(service, "/api/jobs").json() if job["study"] == name]
        return len(jobs) == number and jobs[0]["state"] in ("done", "failed") and jobs[0]

    job = wait_for(newest)
    assert job["state"] == "done", job
    return job


def _expected() -> dict[str, int]:
    return {"SEG": 1, **({"SR": 1} if "dicom-sr" in FORMATS else {})}


@pytest.mark.parametrize("store", ["stow", "cstore"])
def test_a_study_sent_by_storescu_comes_back_to_the_archive_as_segmentation_and_report(
    tiny: Path, tmp_path: Path, archive: Orthanc, password: Path, store: str
):
    study = f"{_STUDY}.{1 if store == 'stow' else 2}"
    series = _series(tmp_path / "series", study)
    with served(_options(tiny, tmp_path / "data", archive, password, store)) as service:
        _storescu(service, series)
        first = _done(service, study)
        assert archive.modalities(study) == _expected()
        mask = pydicom.dcmread(service.desk.results(first["id"])["seg.dcm"])
        (stored,) = archive.qido(f"studies/{study}/series", Modality="SEG")
        assert stored["0020000E"]["Value"] == [mask.SeriesInstanceUID]
        _storescu(service, series)  # the same study again: its job stands, the archive has the results already
        wait_for(lambda: not list((service.options.data / "servers/alone/inbox").iterdir()))
        assert _done(service, study)["id"] == first["id"]
        service.desk.remove(first["id"], "local")
        _storescu(service, series)  # computed again, and the same objects
        assert _done(service, study)["id"] != first["id"]
        assert archive.modalities(study) == _expected()


def test_a_study_that_the_archive_sends_again_with_its_results_starts_no_job(
    tiny: Path, tmp_path: Path, archive: Orthanc, password: Path
):
    """What a rule does that sends every study that changed, as storing the results does."""
    study, root, auth = f"{_STUDY}.7", f"http://127.0.0.1:{archive.http}", (USER, PASSWORD)
    for path in _series(tmp_path / "series", study).iterdir():
        stored = requests.post(f"{root}/instances", data=path.read_bytes(), auth=auth, timeout=30)
    with served(_options(tiny, tmp_path / "data", archive, password, "cstore")) as service:
        there = {"AET": "MEDSSL", "Host": "127.0.0.1", "Port": service.dicom.port}
        requests.put(f"{root}/modalities/medssl", json=there, auth=auth, timeout=30).raise_for_status()
        for _ in range(3):
            sent = requests.post(
                f"{root}/modalities/medssl/store", data=stored.json()["ParentStudy"], auth=auth, timeout=60
            )
            sent.raise_for_status()
            wait_for(lambda: not list((service.options.data / "servers/alone/inbox").iterdir()))
            _done(service, study)
            assert archive.modalities(study) == {"CT": _SLICES, **_expected()}


def test_the_stored_segmentation_says_what_the_network_said(
    tiny: Path, tmp_path: Path, archive: Orthanc, password: Path
):
    study = f"{_STUDY}.3"
    series = _series(tmp_path / "series", study)
    with served(_options(tiny, tmp_path / "data", archive, password, "stow")) as service:
        _storescu(service, series)
        _done(service, study)
    (stored,) = archive.qido(f"studies/{study}/series", Modality="SEG")
    uid = stored["0020000E"]["Value"][0]
    (instance,) = archive.qido(f"studies/{study}/series/{uid}/instances")
    identifier = requests.post(
        f"http://127.0.0.1:{archive.http}/tools/lookup",
        data=instance["00080018"]["Value"][0],
        auth=(USER, PASSWORD),
        timeout=30,
    ).json()[0]["ID"]
    raw = requests.get(
        f"http://127.0.0.1:{archive.http}/instances/{identifier}/file", auth=(USER, PASSWORD), timeout=30
    )
    (tmp_path / "stored.dcm").write_bytes(raw.content)
    mask = read_object(tmp_path / "stored.dcm")
    images = {(d := pydicom.dcmread(path)).SOPInstanceUID: d.pixel_array for path in series.iterdir()}
    for frame, groups in zip(mask.pixel_array, mask.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        image = images[source]
        np.testing.assert_array_equal(frame > 0, (image > 10) & (image <= 20) if segment == 1 else image > 20)


def test_a_study_of_the_archive_is_pulled_and_its_results_are_stored_back(
    tiny: Path, tmp_path: Path, archive: Orthanc, password: Path
):
    study = f"{_STUDY}.4"
    for path in _series(tmp_path / "series", study).iterdir():
        answer = requests.post(
            f"http://127.0.0.1:{archive.http}/instances", data=path.read_bytes(), auth=(USER, PASSWORD), timeout=30
        )
        assert answer.status_code == 200
    with served(_options(tiny, tmp_path / "data", archive, password, "stow")) as service:
        url = f"{service.url}/api/dicomweb/pull"
        answer = requests.post(url, json={"study_uid": study, "model": "tiny"}, timeout=30)
        assert answer.status_code == 202, answer.text
        job = _done(service, study)
        assert job["source"] == "dicomweb"
        assert archive.modalities(study) == {"CT": _SLICES, **_expected()}
        named = requests.post(url, json={"study_uid": study, "series": f"{study}.1"}, timeout=30).json()["id"]
        assert wait_for(lambda: (j := get(service, f"/api/jobs/{named}").json())["finished"] and j)["state"] == "done"
        assert archive.modalities(study) == {"CT": _SLICES, **_expected()}  # with its results it has several series
        absent = requests.post(url, json={"study_uid": f"{_STUDY}.99", "model": "tiny"}, timeout=30).json()["id"]
        failed = wait_for(lambda: (j := get(service, f"/api/jobs/{absent}").json())["state"] == "failed" and j)
        assert failed["reason"] == "pull-failed"
        assert _STUDY not in failed["message"]


def test_a_restart_while_results_are_stored_does_not_double_them(
    tiny: Path, tmp_path: Path, archive: Orthanc, password: Path
):
    study = f"{_STUDY}.5"
    series = _series(tmp_path / "series", study)
    options = _options(tiny, tmp_path / "data", archive, password, "stow")
    with served(options) as service:
        _storescu(service, series)
        job = _done(service, study)
        row = service.desk.ledger._row  # as after a kill between storing and writing that down
        row.update(state="running", finished=None).where(row.id == job["id"]).execute()
    with served(options) as service:
        _done(service, study)
        assert archive.modalities(study) == _expected()
        assert 'source="cstore"' not in get(service, "/metrics").text  # nothing new was accepted


def test_an_archive_that_refuses_fails_the_job_which_keeps_its_results_and_offers_them_again(
    tiny: Path, tmp_path: Path, archive: Orthanc, password: Path
):
    password.write_text("wrong")
    options = _options(tiny, tmp_path / "data", archive, password, "stow")
    options = replace(options, pacs=replace(options.pacs, tries=1))
    with served(options) as service:
        _storescu(service, _series(tmp_path / "series", f"{_STUDY}.6"))
        name = service.desk.secret.name(f"{_STUDY}.6")

        def failed() -> Any:
            jobs = [job for job in get(service, "/api/jobs").json() if job["study"] == name]
            return jobs and jobs[0]["state"] == "failed" and jobs[0]

        job = wait_for(failed)
        assert (job["reason"], job["stage"]) == ("store-failed", "storing")
        assert "HTTP 401" in job["message"]
        assert "seg.dcm" in {item["name"] for item in get(service, f"/api/jobs/{job['id']}/results").json()}
        made = service.desk.results(job["id"])["seg.dcm"].stat().st_mtime_ns
        password.write_text(PASSWORD)
        row = service.desk.ledger._row  # as if an hour had gone by
        row.update(accepted=row.accepted - 3700, finished=row.finished - 3600).where(row.id == job["id"]).execute()
        service.desk.keep_house()
        assert wait_for(lambda: get(service, f"/api/jobs/{job['id']}").json()["state"] == "done")
        assert archive.modalities(f"{_STUDY}.6") == _expected()
        assert service.desk.results(job["id"])["seg.dcm"].stat().st_mtime_ns == made, "not computed anew"
