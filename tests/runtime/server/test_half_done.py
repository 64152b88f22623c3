"""What was done by half, by a kill, a fault or a full disk, is neither taken for whole nor lost."""

import http.server
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from dicom_phantom import slice_dataset

pytest.importorskip("fastapi", reason="the server needs the extra serve")

import numpy as np
from serving import answering, ended, get, options_for, post, served, wait_for, write_scan

from medssl.imaging.errors import ConfigError, ImageError, MedsslError
from medssl.imaging.files import write_json
from medssl.imaging.readers.archive import unpack
from medssl.runtime.server import desk, dicom_listener, upload, work
from medssl.runtime.server.folders import Folders
from medssl.runtime.server.options import LimitOptions, PacsOptions
from medssl.runtime.server.pool import WorkerPool


@contextmanager
def _archive(slices: list[bytes], cuts: list[bool], pages: list[list[int]] | None = None) -> Iterator[str]:
    """A DICOMweb archive that hangs up in the middle of an answer where the next of `cuts` says so.

    With `pages` it lists so numbered objects, page by page; an empty list of pages is an archive without lists.
    """
    listed = [list(range(len(slices)))] if pages is None else pages
    names = [str(pydicom.dcmread(BytesIO(part)).SOPInstanceUID) for part in slices] + ["1.2.3.77.1", "1.2.3.77.2"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path.endswith("/instances"):
                self._list(int(parse_qs(url.query)["offset"][0]))
                return
            parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in slices]
            whole = b"".join(parts) + b"--b--"
            cut = bool(cuts) and cuts.pop(0)
            self._send(
                'multipart/related; type="application/dicom"; boundary=b', whole, len(parts[0]) + 40 if cut else None
            )

        def _list(self, offset: int) -> None:
            if not listed:
                self.send_error(404)
                return
            before = [sum(map(len, listed[:n])) for n in range(len(listed))]
            page = listed[before.index(offset)] if offset in before else []
            found = [{"00080018": {"vr": "UI", "Value": [names[number]]}} for number in page]
            self._send("application/dicom+json", json.dumps(found).encode())

        def _send(self, kind: str, body: bytes, most: int | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:most])

        def log_message(self, *_: object) -> None:
            return

    with answering(Handler) as address:
        yield address


def _slices(folder: Path, count: int) -> list[bytes]:
    folder.mkdir()
    for k in range(count):
        dataset = slice_dataset(np.full((8, 8), 15, np.int16), (0, 0, 2.5 * k), series="1.2.3.1", number=k + 1)
        dataset.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_a_pull_that_was_cut_off_leaves_no_part_of_a_study_as_input(tmp_path: Path):
    job = tmp_path / "job"
    (job / "input").mkdir(parents=True)
    with _archive(_slices(tmp_path / "slices", 3), [True, False]) as url:
        with pytest.raises(MedsslError):
            work._pull(job, {"study_uid": "1.2.3"}, PacsOptions(dicomweb=url), LimitOptions())
        assert not list((job / "input").iterdir())
        work._pull(job, {"study_uid": "1.2.3"}, PacsOptions(dicomweb=url), LimitOptions())
    assert len(list((job / "input").iterdir())) == 3
    assert not (job / "pulling").exists()


@pytest.mark.parametrize(
    ("pages", "series", "told"),
    [
        ([[0, 1, 2, 3]], "", "lists 4 objects of this study, and 1 of them did not come"),
        ([[0, 1], [2, 3, 4]], "1.2.3.1", "lists 5 objects of this series, and 2 of them did not come"),
    ],
)
def test_a_pull_that_lacks_what_the_archive_lists_is_refused(
    tmp_path: Path, pages: list[list[int]], series: str, told: str
):
    job = tmp_path / "job"
    (job / "input").mkdir(parents=True)
    with _archive(_slices(tmp_path / "slices", 3), [], pages) as url:
        with pytest.raises(MedsslError, match=told) as refused:
            work._pull(job, {"study_uid": "1.2.3", "series_uid": series}, PacsOptions(dicomweb=url), LimitOptions())
        assert refused.value.reason == "incomplete-study"
        assert not list((job / "input").iterdir())
        whole = PacsOptions(dicomweb=url, check_complete=False)
        work._pull(job, {"study_uid": "1.2.3"}, whole, LimitOptions())
    assert len(list((job / "input").iterdir())) == 3


@pytest.mark.parametrize("pages", [[[0, 1], [2]], [[0]]])
def test_a_pull_with_all_that_is_listed_is_taken(tmp_path: Path, pages: list[list[int]]):
    job = tmp_path / "job"
    (job / "input").mkdir(parents=True)
    with _archive(_slices(tmp_path / "slices", 3), [], pages) as url:
        work._pull(job, {"study_uid": "1.2.3"}, PacsOptions(dicomweb=url), LimitOptions())
    assert len(list((job / "input").iterdir())) == 3


@pytest.mark.parametrize("pages", [[], [[]]])
def test_an_archive_without_lists_is_told_of_with_the_remedy(tmp_path: Path, pages: list[list[int]]):
    job = tmp_path / "job"
    (job / "input").mkdir(parents=True)
    with (
        _archive(_slices(tmp_path / "slices", 2), [], pages) as url,
        pytest.raises(MedsslError, match=r"did not list the objects of the study .*pacs.check_complete: false") as told,
    ):
        work._pull(job, {"study_uid": "1.2.3"}, PacsOptions(dicomweb=url), LimitOptions())
    assert told.value.reason == "pull-failed"


def test_a_pull_that_was_killed_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = tmp_path / "job"
    (job / "input").mkdir(parents=True)
    slices = _slices(tmp_path / "slices", 3)

    def pull(_: str, folder: Path, *__: object, whole: bool = False, series_uid: str = "") -> None:
        for number, content in enumerate(slices):
            (folder / f"{number}.dcm").write_bytes(content)
            if not whole:
                raise KeyboardInterrupt

    monkeypatch.setattr(work, "pull_study", pull)
    with pytest.raises(KeyboardInterrupt):
        work._pull(job, {"study_uid": "1.2.3"}, PacsOptions(), LimitOptions())
    assert not list((job / "input").iterdir())
    monkeypatch.setattr(work, "pull_study", lambda *args, **named: pull(*args, whole=True, **named))
    (job / "pulling" / "left-over.dcm").write_bytes(slices[0])
    work._pull(job, {"study_uid": "1.2.3"}, PacsOptions(), LimitOptions())
    assert sorted(path.name for path in (job / "input").iterdir()) == ["0.dcm", "1.dcm", "2.dcm"]


def test_a_worker_whose_job_was_broken_off_does_not_answer_for_the_next(tiny: Path, tmp_path: Path):
    scan = write_scan(tmp_path / "a.nii.gz")
    pool = WorkerPool(options_for(tiny, tmp_path / "data"))
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        (folder / "input").mkdir(parents=True)
        write_json(folder / "job.json", {"model": "tiny"})
        (folder / "input" / "000001.nii.gz").write_bytes(scan.read_bytes())

    def locked(*_: object) -> None:
        raise OSError("the database is locked")

    try:
        before = pool.pids()
        with pytest.raises(OSError, match="locked"):
            pool.run(folders[0], locked)
        assert pool.pids() != before
        pool.run(folders[1], lambda *_: None)
        assert (folders[1] / "results" / "report.json").exists()
    finally:
        pool.interrupt()
        pool.close()


def _fail_once(monkeypatch: pytest.MonkeyPatch, service: Any, action: str) -> list[str]:
    """Have the audit log fail for the first line of an action, as on a full disk; returns what failed."""
    write, failed = service.desk.audit.write, []

    def broken(who: str, what: str, **more: Any) -> None:
        if what == action and not failed:
            failed.append(what)
            raise OSError(28, "No space left on device")
        write(who, what, **more)

    monkeypatch.setattr(service.desk.audit, "write", broken)
    monkeypatch.setattr(desk, "_ENTRY_S", 0)
    return failed


def test_an_upload_whose_entry_fails_is_accepted_once_and_entered_later(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scan = write_scan(tmp_path / "a.nii.gz")
    with served(options_for(tiny, tmp_path / "data")) as service:
        failed = _fail_once(monkeypatch, service, "accept")
        answer = post(service, [(scan.name, scan.read_bytes())])
        assert (answer.status_code, failed) == (202, ["accept"])
        service.desk.keep_house()
        service.desk.keep_house()
        (job,) = wait_for(lambda: (jobs := get(service, "/api/jobs").json()) and jobs[0]["state"] == "done" and jobs)
        assert job["id"] == answer.json()["id"]
        assert service.desk.audit.path.read_text().count('"accept"') == 1


def test_a_received_study_whose_entry_fails_is_accepted_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with served(options_for(tiny, tmp_path / "data")) as service:
        failed = _fail_once(monkeypatch, service, "accept")
        folder = service.desk.folders.inbox() / "study"
        (folder / "input").mkdir(parents=True)
        for number, content in enumerate(_slices(tmp_path / "slices", 2)):
            (folder / "input" / f"{number}.dcm").write_bytes(content)
        write_json(folder / "job.json", {"study": "study", "model": "tiny", "caller": "SCANNER"})
        service.dicom._resume()
        wait_for(lambda: failed and not service.dicom._studies)
        assert service.desk.arriving == 0
        service.desk.keep_house()
        (job,) = wait_for(lambda: (jobs := get(service, "/api/jobs").json()) and jobs[0]["finished"] and jobs)
        assert job["source"] == "cstore"


def test_a_kill_during_removal_does_not_bring_the_job_back(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options, scan = options_for(tiny, tmp_path / "data"), write_scan(tmp_path / "a.nii.gz")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with served(options) as service:
        job_id = post(service, [(scan.name, scan.read_bytes())]).json()["id"]
        wait_for(lambda: get(service, f"/api/jobs/{job_id}").json()["state"] == "done")
        with monkeypatch.context() as patch:
            patch.setattr(service.desk.folders, "discard", killed)
            with pytest.raises(KeyboardInterrupt):
                service.desk.remove(job_id, "local")
    with served(options) as service:
        assert get(service, f"/api/jobs/{job_id}").status_code == 404
        assert not list((tmp_path / "data" / "jobs").iterdir())
        assert '"remove"' in service.desk.audit.path.read_text(), "nothing goes without a line"


def test_what_cannot_be_audited_is_not_removed(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scan = write_scan(tmp_path / "a.nii.gz")
    with served(options_for(tiny, tmp_path / "data")) as service:
        job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
        failed = _fail_once(monkeypatch, service, "remove")
        with pytest.raises(OSError, match="No space left"):
            service.desk.remove(job["id"], "local")
        assert failed == ["remove"]
        assert get(service, f"/api/jobs/{job['id']}").status_code == 200
        assert service.desk.remove(job["id"], "local")


def test_a_folder_of_another_user_is_taken_where_it_is_closed_and_refused_with_advice_where_it_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def not_ours(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    closed, volume = tmp_path / "closed", tmp_path / "volume"
    closed.mkdir(mode=0o700)
    volume.mkdir(mode=0o755)
    monkeypatch.setattr(Path, "chmod", not_ours)
    Folders(closed, "alone").close()
    with pytest.raises(ConfigError, match="volume/medssl"):
        Folders(volume, "alone")


def test_a_job_ends_also_where_its_end_cannot_be_audited(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scan = write_scan(tmp_path / "a.nii.gz")
    with served(options_for(tiny, tmp_path / "data")) as service:
        failed = _fail_once(monkeypatch, service, "done")
        job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
        assert (job["state"], failed) == ("done", ["done"])


def test_an_upload_ends_where_the_disk_gets_full_on_the_way(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    free = [1e6, 1e6]
    with served(options_for(tiny, tmp_path / "data", limits=LimitOptions(free_disk_mb=1e5))) as service:
        monkeypatch.setattr(upload, "LOOK_BYTES", 1 << 16)
        monkeypatch.setattr(service.desk.folders, "free_mb", lambda: free.pop() if free else 1.0)
        answer = post(service, [("a.nii", bytes(1 << 20))])
        assert (answer.status_code, answer.json()["reason"]) == (429, "disk-full")
        assert not list((service.options.data / "servers/alone/incoming").iterdir())


def test_an_object_is_cut_off_where_the_disk_gets_full_on_the_way(service: Any, monkeypatch: pytest.MonkeyPatch):
    aborted: list[bool] = []

    class Sender:
        dimse = SimpleNamespace(message=None)

        def abort(self) -> None:
            aborted.append(True)

    sender = Sender()
    monkeypatch.setattr(service.desk.folders, "free_mb", lambda: -1.0)
    monkeypatch.setattr(dicom_listener, "LOOK_BYTES", 100)
    service.dicom._count(SimpleNamespace(assoc=sender, data=bytes(99)))
    assert not aborted
    service.dicom._count(SimpleNamespace(assoc=sender, data=b"x"))
    assert aborted == [True]


def test_a_zip_file_that_does_not_fit_onto_the_disk_is_not_unpacked_to_its_end(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(3 << 20))
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ImageError, match="does not fit") as error:
        unpack(tmp_path / "a.zip", tmp_path / "out", keep_free=free + (1 << 30))
    assert error.value.reason == "disk-full"


def test_workers_use_the_bundle_that_the_server_unpacked(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    zipped = Path(shutil.make_archive(str(tmp_path / "tiny"), "zip", tiny))
    scan, temporary = write_scan(tmp_path / "a.nii.gz"), tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))  # that of the worker
    with served(options_for(zipped, tmp_path / "data")) as service:
        assert ended(service, post(service, [(scan.name, scan.read_bytes())]))["state"] == "done"
        (bundle,) = service.desk.bundles.values()
        assert bundle.folder.is_dir()
        assert not list(temporary.glob("medssl-zip-*"))
