"""A study that an archive sends again with our results, or as it was, starts no job; a changed one does."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantom import write_series
from result_objects import COMPANION as SOURCE
from result_objects import KINDS

pytest.importorskip("pynetdicom", reason="the server needs the extra serve")

from pynetdicom.ae import ApplicationEntity
from scanner import ended_study, images, jobs_of
from serving import options_for, served, wait_for

from medssl.imaging.errors import MedsslError
from medssl.imaging.files import write_json
from medssl.imaging.readers.open import read_volume
from medssl.runtime.predictor import Predictor
from medssl.runtime.server import work
from medssl.runtime.server.desk import RefusedError
from medssl.runtime.server.options import LimitOptions, PacsOptions, ResultOptions
from medssl.runtime.server.pool import worker_settings

pytestmark = pytest.mark.usefixtures("sockets_of_pynetdicom")

_FORMATS = ResultOptions(formats=("dicom-seg", "dicom-sr", "dicom-sc", "json"))
_ROOM = LimitOptions(upload_mb=16.0, free_disk_mb=0)


def _send(service: Any, datasets: Sequence[pydicom.Dataset], *, release: bool = True) -> list[int]:
    """Send objects of any kind from the archive."""
    entity = ApplicationEntity("ORTHANC")
    for kind in {str(dataset.SOPClassUID) for dataset in datasets}:
        entity.add_requested_context(kind, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", service.dicom.port, ae_title="MEDSSL")
    assert association.is_established
    status = [int(association.send_c_store(dataset).Status) for dataset in datasets]
    association.release() if release else association.abort()
    return status


def _results(service: Any, job: dict[str, Any]) -> list[pydicom.Dataset]:
    """DICOM results of a job, as an archive sends them back."""
    paths = service.desk.results(job["id"])
    return [pydicom.dcmread(path) for name, path in paths.items() if name.endswith(".dcm")]


def _settled(service: Any, study: str) -> list[dict[str, Any]]:
    """Jobs of a study once nothing of it is coming in any more."""
    wait_for(lambda: not service.dicom._studies and not list((service.options.data / "servers/alone/inbox").iterdir()))
    return jobs_of(service, study)


def _inputs(service: Any, job: dict[str, Any]) -> int:
    return len(list((service.options.data / "jobs" / job["id"] / "input").iterdir()))


def _warnings(service: Any, job: dict[str, Any]) -> str:
    report = service.options.data / "jobs" / job["id"] / "results" / "report.json"
    return " ".join(json.loads(report.read_text())["warnings"])


@pytest.mark.parametrize("restart", [False, True])
def test_a_study_that_comes_back_with_its_results_starts_no_job(tiny: Path, tmp_path: Path, restart: bool):
    options = options_for(tiny, tmp_path / "data", results=_FORMATS, limits=_ROOM)
    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.50")
    with served(options) as service:
        _send(service, slices)
        first = ended_study(service, "1.2.3.50")
        assert first["state"] == "done", first
        results = _results(service, first)
        assert len(results) == 3
        if not restart:
            assert _send(service, [*slices, *results]) == [0] * 7
            assert [job["id"] for job in _settled(service, "1.2.3.50")] == [first["id"]]
            told = [json.loads(line) for line in service.desk.audit.path.read_text().splitlines()]
            hashes = [line["bundle_sha256"] for line in told if line["action"] == "unchanged"]
            assert hashes == [service.desk.bundles["tiny"].sha256]
            assert _send(service, results) == [0] * 3  # alone
            assert [job["id"] for job in _settled(service, "1.2.3.50")] == [first["id"]]
    with served(options) as service:
        assert _send(service, [*results, *slices]) == [0] * 7
        assert [job["id"] for job in _settled(service, "1.2.3.50")] == [first["id"]]


def test_images_that_come_late_with_results_are_computed_without_these(tiny: Path, tmp_path: Path):
    slices = images(tmp_path / "a", slices=6, StudyInstanceUID="1.2.3.51")
    with served(options_for(tiny, tmp_path / "data", results=_FORMATS, limits=_ROOM)) as service:
        _send(service, slices[:4])
        results = _results(service, ended_study(service, "1.2.3.51"))
        _send(service, [*results, *slices])
        second = ended_study(service, "1.2.3.51", number=2)
        assert second["state"] == "done", second
        assert _inputs(service, second) == 6
        assert "this one replaces it" in _warnings(service, second)
        _send(service, [*slices, *results, *_results(service, second)])
        assert len(_settled(service, "1.2.3.51")) == 2


def test_an_image_that_was_changed_under_its_uid_is_computed_again(tiny: Path, tmp_path: Path):
    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.52")
    with served(options_for(tiny, tmp_path / "data")) as service:
        _send(service, slices)
        first = ended_study(service, "1.2.3.52")
        slices[1].PixelData = np.full((10, 12), 15, np.int16).tobytes()
        _send(service, slices)
        second = ended_study(service, "1.2.3.52", number=2)
        assert second["state"] == "done", second
        assert "this one replaces it" in _warnings(service, second)
        uids = {str(d.SOPInstanceUID) for job in (first, second) for d in _results(service, job)}
        assert len(uids) == 4, "another mask is another object"
        _send(service, slices[:2])
        assert len(_settled(service, "1.2.3.52")) == 2


def test_a_study_is_computed_again_where_its_job_failed_or_another_result_is_wanted(tiny: Path, tmp_path: Path):
    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.53")
    with served(options_for(tiny, tmp_path / "data")) as service:
        _send(service, slices)
        job = ended_study(service, "1.2.3.53")
        row = service.desk.ledger._row
        row.update(state="failed", reason="timeout").where(row.id == job["id"]).execute()
        _send(service, slices)
        assert ended_study(service, "1.2.3.53", number=2)["state"] == "done"
    with served(options_for(tiny, tmp_path / "data", results=_FORMATS, limits=_ROOM)) as service:
        _send(service, slices)
        again = ended_study(service, "1.2.3.53", number=3)
        assert {d.Modality for d in _results(service, again)} >= {"SEG", "SR"}
        row = service.desk.ledger._row
        row.update(state="failed", reason="store-failed").where(row.id == again["id"]).execute()
        _send(service, slices)  # its results are offered to the archive again
        assert len(_settled(service, "1.2.3.53")) == 3
        service.desk.remove(again["id"], "local")
        assert len(_settled(service, "1.2.3.53")) == 2


def test_a_study_that_came_again_in_part_is_reported_as_before(tiny: Path, tmp_path: Path):
    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.54")
    with served(options_for(tiny, tmp_path / "data")) as service:
        _send(service, slices)
        ended_study(service, "1.2.3.54")
        _send(service, slices[:2], release=False)
        assert ended_study(service, "1.2.3.54", number=2)["reason"] == "incomplete-study"


class _Broken:
    """An association that ended within an object, of which this much came."""

    def __init__(self, part: Path) -> None:
        self.dimse = SimpleNamespace(message=SimpleNamespace(_data_set_file=part.open("rb")))
        self.requestor = SimpleNamespace(ae_title="ORTHANC")

    def abort(self) -> None:
        return


@pytest.mark.parametrize("what", ["result", "image"])
def test_a_study_lacks_no_result_that_was_refused_or_cut_off(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.55")
    KINDS["labelmap"](read_volume(tmp_path / "a"), tmp_path / "seg.dcm")
    sent = {"result": pydicom.dcmread(tmp_path / "seg.dcm"), "image": slices[0]}[what]
    part = tmp_path / "part.dcm"
    part.write_bytes({"result": tmp_path / "seg.dcm", "image": tmp_path / "a" / "000.dcm"}[what].read_bytes())
    with served(options_for(tiny, tmp_path / "data")) as service:

        def full(*_: object) -> None:
            raise RefusedError("full", reason="queue-full", status=429)

        assert _send(service, slices[1:]) == [0] * 3
        with monkeypatch.context() as patch:
            patch.setattr(service.dicom, "_check_room", full)
            assert _send(service, [sent]) == [0 if what == "result" else 0xA700]
        association = _Broken(part)
        service.dicom._count(SimpleNamespace(assoc=association, data=bytes(2 << 20)))
        service.dicom._closed(SimpleNamespace(assoc=association))
        assert ended_study(service, "1.2.3.55")["reason"] == ("" if what == "result" else "incomplete-study")


def test_a_pulled_study_is_computed_without_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    series = write_series(tmp_path / "a", np.zeros((3, 10, 12), np.int16), **SOURCE)
    slices = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    KINDS["sc"](read_volume(series), tmp_path / "sc.dcm")
    own, job = pydicom.dcmread(tmp_path / "sc.dcm"), tmp_path / "job"
    (job / "input").mkdir(parents=True)
    found = [own, *slices]
    listed = [{"00080018": {"Value": [str(dataset.SOPInstanceUID)]}} for dataset in found]
    client = SimpleNamespace(
        iter_study=lambda *_, **__: iter(found),
        search_for_instances=lambda *_, offset, **__: listed[offset:],
    )
    monkeypatch.setattr("medssl.runtime.server.pacs._client", lambda _: client)
    pacs = PacsOptions(dicomweb="http://127.0.0.1")
    work._pull(job, {"study_uid": "1.2.3"}, pacs, LimitOptions(free_disk_mb=0))
    kept = {pydicom.dcmread(path).SOPInstanceUID for path in (job / "input").iterdir()}
    assert kept == {dataset.SOPInstanceUID for dataset in slices}
    found = [own]
    with pytest.raises(MedsslError, match="no object of this study but results of medssl") as error:
        work._pull(job, {"study_uid": "1.2.3"}, pacs, LimitOptions(free_disk_mb=0))
    assert error.value.reason == "pull-failed"


@pytest.mark.parametrize("late", [False, True])
def test_finished_results_are_stored_again_as_they_are_whatever_formats_are_wanted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
):
    """A retry that computes another mask, as a graphics card may, must not store it beside the first."""
    folder = tmp_path / "job"
    images(folder / "input")
    write_json(folder / "job.json", {"model": "tiny"})
    options = options_for(tiny, tmp_path / "data", results=ResultOptions(formats=("dicom-seg",)))
    settings, predictor = worker_settings(options, [tiny]), Predictor(tiny)
    work.work(folder, {"tiny": predictor}, settings, lambda *_: None)
    made = (folder / "results" / "seg.dcm").read_bytes()
    predict, finished, asked = predictor.predict, work._finished, []

    def other(*args: Any) -> Any:
        prediction = predict(*args)
        prediction.mask.array[:] = 0
        return prediction

    def not_yet(*args: Any) -> bool:
        asked.append(args)
        return finished(*args) if len(asked) > 1 else False

    monkeypatch.setattr(predictor, "predict", other)
    if late:  # another server finished the job while this one, taken for dead, went on
        monkeypatch.setattr(work, "_finished", not_yet)
    work.work(folder, {"tiny": predictor}, settings, lambda *_: None)
    assert (folder / "results" / "seg.dcm").read_bytes() == made
