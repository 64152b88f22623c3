"""Studies that were acknowledged and whose server no longer listens, has another name or is gone are not forgotten."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="the server needs the extra serve")

from scanner import associate, ended_study, images, jobs_of, send, store
from serving import get, options_for, served, wait_for

from medssl.imaging.files import write_json
from medssl.runtime.server import arrivals
from medssl.runtime.server.folders import read_record
from medssl.runtime.server.options import DicomOptions, QueueOptions, ServeOptions

pytestmark = pytest.mark.usefixtures("sockets_of_pynetdicom")

_SLOW = DicomOptions(listen=True, port=0, quiet_s=60.0, released_quiet_s=60.0)


def _options(tiny: Path, data: Path, node: str, dicom: DicomOptions = _SLOW) -> ServeOptions:
    """One server of several that share a data base."""
    url = f"sqlite:///{data.parent / 'jobs.db'}?timeout=60"
    return options_for(tiny, data, dicom=dicom, queue=QueueOptions(url=url, node=node, threads=1))


def _age(folder: Path, seconds: float) -> None:
    for path in (folder, *folder.iterdir()):
        os.utime(path, times=(time.time() - seconds,) * 2)


def _deserted(data: Path, slices: list[Any], number: int, *, mark: str = "") -> Path:
    """A study in the inbox of a server that is gone."""
    folder = data / "servers" / "gone" / "inbox" / f"{number:016x}"
    (folder / "input").mkdir(parents=True)
    for k, dataset in enumerate(slices):
        dataset.save_as(folder / "input" / f"{k}.dcm", enforce_file_format=True)
    content = {"study": folder.name, "model": "tiny", "caller": "SCANNER", "earlier": ""}
    write_json(folder / "job.json", content)
    if mark:
        arrivals.note_association(folder, mark, "SCANNER")
    _age(folder, 3700)
    return folder


def test_what_lies_in_the_own_inbox_is_handed_in_at_once_where_nobody_listens_any_more(tiny: Path, tmp_path: Path):
    options = options_for(tiny, tmp_path / "data", dicom=_SLOW)
    with served(options) as service:
        send(service, images(tmp_path / "a"))
        broken = associate(service)
        store(broken, images(tmp_path / "b", StudyInstanceUID="1.2.3.2", series="1.2.3.2.1"))
    broken.abort()
    with served(replace(options, dicom=DicomOptions())) as service:
        assert ended_study(service, "1.2.3")["state"] == "done"
        assert ended_study(service, "1.2.3.2")["reason"] == "incomplete-study"
        assert not list((tmp_path / "data/servers/alone/inbox").iterdir())


def test_a_server_of_another_name_takes_over_what_nothing_has_come_for_in_an_hour(tiny: Path, tmp_path: Path):
    data = tmp_path / "data"
    with served(_options(tiny, data, "old")) as service:
        send(service, images(tmp_path / "a"))
    (folder,) = (data / "servers/old/inbox").iterdir()
    with served(_options(tiny, data, "new")) as service:
        _age(folder, 3500)
        service.desk.keep_house()
        assert jobs_of(service, "1.2.3") == []
        _age(folder, 3700)
        service.desk.keep_house()
        service.desk.keep_house()
        job = ended_study(service, "1.2.3")
        assert (job["state"], job["source"]) == ("done", "cstore")
        send(service, images(tmp_path / "b", StudyInstanceUID="1.2.3.5"))
        service.desk.keep_house()
        assert len(list((data / "servers/new/inbox").iterdir())) == 1  # that one is coming in


def test_two_servers_that_keep_house_at_the_same_time_take_each_study_once(tiny: Path, tmp_path: Path):
    data, slices = tmp_path / "data", images(tmp_path / "a")
    with served(_options(tiny, data, "one")) as one, served(_options(tiny, data, "two")) as two:
        folders = [_deserted(data, slices, number) for number in range(12)]
        start = threading.Barrier(2)

        def keep_house(service: Any) -> None:
            start.wait()
            service.desk.keep_house()

        threads = [threading.Thread(target=keep_house, args=(service,)) for service in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        jobs = wait_for(lambda: (found := get(one, "/api/jobs").json()) and all(j["finished"] for j in found) and found)
        assert len(jobs) == len(folders)
        taken = [read_record(folder)["study"] for folder in (data / "jobs").iterdir()]
        assert sorted(taken) == [folder.name for folder in folders]
        assert {job["state"] for job in jobs} == {"done"}
        assert not list(data.glob("servers/*/inbox/*"))


def test_deserted_studies_that_are_incomplete_are_reported_and_marks_without_objects_removed(
    tiny: Path, tmp_path: Path
):
    data, slices = tmp_path / "data", images(tmp_path / "a")
    with served(_options(tiny, data, "one")) as service:
        _deserted(data, slices, 1, mark="m")
        _deserted(data, [], 2)
        (data / "servers/gone/inbox/no study").touch()
        service.desk.keep_house()
        (job,) = wait_for(lambda: (found := get(service, "/api/jobs").json()) and found[0]["finished"] and found)
        assert job["reason"] == "incomplete-study"
        assert [path.name for path in data.glob("servers/*/inbox/*")] == ["no study"]


def test_a_study_that_cannot_be_handed_in_does_not_keep_the_others(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data, slices = tmp_path / "data", images(tmp_path / "a")
    with served(_options(tiny, data, "one")) as service:
        for number in (1, 2):
            _deserted(data, slices, number)
        hand_in, failed = service.desk.hand_in, []

        def broken(folder: Path, *living: Any) -> None:
            if not failed:
                failed.append(folder)
                raise OSError(28, "No space left on device")
            hand_in(folder, *living)

        monkeypatch.setattr(service.desk, "hand_in", broken)
        service.desk.keep_house()
        assert len(get(service, "/api/jobs").json()) == 1
        (left,) = data.glob("servers/*/inbox/*")
        _age(left, 3700)
        service.desk.keep_house()
        assert len(get(service, "/api/jobs").json()) == 2
        assert not list(data.glob("servers/*/inbox/*"))
