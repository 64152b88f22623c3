"""Studies that come by C-STORE: grouped, complete before they are computed, refused where there is no room."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantom import write_series

pytest.importorskip("pynetdicom", reason="the server needs the extra serve")

from pynetdicom.sop_class import Verification
from scanner import associate, ended_study, images, jobs_of, send, store
from serving import COMPANION, ended, get, options_for, post, served

from medssl.runtime.server.ledger import Job
from medssl.runtime.server.options import DicomOptions, LimitOptions, QueueOptions

pytestmark = pytest.mark.usefixtures("sockets_of_pynetdicom")


def test_two_studies_of_one_association_become_two_jobs(service: Any, tmp_path: Path):
    one = images(tmp_path / "a", StudyInstanceUID="1.2.3.10")
    two = images(tmp_path / "b", StudyInstanceUID="1.2.3.11", series="1.2.3.2")
    mixed = [dataset for pair in zip(one, two, strict=True) for dataset in pair]
    assert send(service, mixed) == [0] * 8
    for study, sent in (("1.2.3.10", one), ("1.2.3.11", two)):
        job = ended_study(service, study)
        assert (job["state"], job["source"]) == ("done", "cstore"), job
        folder = service.options.data / "jobs" / job["id"]
        kept = [pydicom.dcmread(path) for path in (folder / "input").iterdir()]
        assert {d.SOPInstanceUID for d in kept} == {d.SOPInstanceUID for d in sent}
        originals = {d.SOPInstanceUID: d.PixelData for d in sent}
        assert all(originals[d.SOPInstanceUID] == d.PixelData for d in kept)
        assert all(part not in path.name for path in folder.rglob("*") for part in ("1.2.3", "patient"))
    assert not list((service.options.data / "servers/alone/inbox").iterdir())
    assert not list((service.options.data / "servers/alone/temporary").iterdir())


def test_objects_that_come_late_are_computed_with_the_study_they_belong_to(service: Any, tmp_path: Path):
    datasets = images(tmp_path / "a", slices=6, StudyInstanceUID="1.2.3.12")
    send(service, datasets[:4])
    first = ended_study(service, "1.2.3.12")
    send(service, datasets[4:])
    second = ended_study(service, "1.2.3.12", number=2)
    assert (first["state"], second["state"]) == ("done", "done")
    assert second["id"] != first["id"]
    folder = service.options.data / "jobs" / second["id"]
    assert len(list((folder / "input").iterdir())) == 6
    seg = pydicom.dcmread(folder / "results" / "seg.dcm")
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 6
    assert not _replaces(service, first["id"])
    assert _replaces(service, second["id"])
    assert "this one replaces it" in str(seg.SegmentSequence[0].SegmentDescription) + str(seg.ContentDescription)


def _replaces(service: Any, job_id: str) -> bool:
    """Whether the report of a job says that an earlier result is replaced."""
    report = json.loads((service.options.data / "jobs" / job_id / "results" / "report.json").read_text())
    return any(warning.endswith("this one replaces it") for warning in report["warnings"])


def test_a_study_that_was_uploaded_before_is_computed_from_what_came_by_c_store(service: Any, tmp_path: Path):
    datasets = images(tmp_path / "a", StudyInstanceUID="1.2.3.13")
    zipped = Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a"))
    assert ended(service, post(service, [(zipped.name, zipped.read_bytes())]))["state"] == "done"
    send(service, datasets)
    assert ended_study(service, "1.2.3.13", number=2)["state"] == "done"


def test_a_study_waits_while_its_sender_is_connected(tiny: Path, tmp_path: Path):
    dicom = DicomOptions(listen=True, port=0, quiet_s=60.0, released_quiet_s=0.2)
    with served(options_for(tiny, tmp_path / "data", dicom=dicom)) as service:
        association = associate(service)
        for dataset in images(tmp_path / "a", slices=2):
            association.send_c_store(dataset)
        assert jobs_of(service, "1.2.3") == []
        assert len(list((service.options.data / "servers/alone/inbox").iterdir())) == 1
        assert service.dicom._server.ae.network_timeout > dicom.quiet_s  # nobody is broken off for being quiet
        association.release()
        assert ended_study(service, "1.2.3")["state"] == "done"


def test_a_study_that_was_coming_in_at_a_stop_goes_on_after_the_start(tiny: Path, tmp_path: Path):
    slow = DicomOptions(listen=True, port=0, quiet_s=60.0, released_quiet_s=60.0)
    with served(options_for(tiny, tmp_path / "data", dicom=slow)) as service:
        assert send(service, images(tmp_path / "a")) == [0] * 4
    with served(options_for(tiny, tmp_path / "data")) as service:
        assert ended_study(service, "1.2.3")["state"] == "done"


def test_echo_answers_and_strangers_are_turned_away(tiny: Path, tmp_path: Path):
    dicom = DicomOptions(listen=True, port=0, callers=("SCANNER",))
    with served(options_for(tiny, tmp_path / "data", dicom=dicom)) as service:
        association = associate(service)
        assert int(association.send_c_echo().Status) == 0
        association.release()
        assert associate(service, called="OTHER").is_rejected
        assert associate(service, calling="STRANGER").is_rejected
        deflated = associate(service, syntax="1.2.840.10008.1.2.1.99")
        kinds = {context.abstract_syntax for context in deflated.accepted_contexts}
        deflated.release()
        assert kinds == {Verification}  # what unpacks to any size is not taken


def test_without_room_the_answer_is_out_of_resources_and_nothing_is_kept(tiny: Path, tmp_path: Path):
    limits = LimitOptions(free_disk_mb=1e12)
    with served(options_for(tiny, tmp_path / "data", limits=limits)) as service:
        assert send(service, images(tmp_path / "a", slices=2)) == [0xA700] * 2
        assert not list((service.options.data / "servers/alone/inbox").rglob("*.dcm"))
        assert 'medssl_refused_total{reason="disk-full"} 2.0' in get(service, "/metrics").text


def test_a_full_queue_is_out_of_resources_for_new_studies_while_those_that_began_go_on(tiny: Path, tmp_path: Path):
    first, second = (
        images(tmp_path / uid, StudyInstanceUID=uid, series=f"{uid}.1") for uid in ("1.2.3.20", "1.2.3.21")
    )
    options = options_for(tiny, tmp_path / "data", queue=QueueOptions(threads=1, waiting=2))
    with served(options) as service:
        service.desk.ledger.add(Job("a" * 32, "s", "tiny", "rest", "local", 1.0))  # in no queue: it waits
        association = associate(service)
        assert store(association, first[:2]) == [0, 0]  # with it two are waiting
        assert send(service, second) == [0xA700] * 4
        assert store(association, first[2:]) == [0, 0]
        association.release()
        inbox = service.options.data / "servers" / "alone" / "inbox"
        assert not list((inbox / service.desk.secret.name("1.2.3.21")).rglob("*.dcm"))
        assert 'medssl_refused_total{reason="queue-full"} 4.0' in get(service, "/metrics").text
        assert ended_study(service, "1.2.3.20")["state"] == "done"
        assert jobs_of(service, "1.2.3.21") == []
        assert send(service, second) == [0] * 4  # there is room again
        assert ended_study(service, "1.2.3.21")["state"] == "done"


def test_a_study_beyond_the_caps_is_cut_off(tiny: Path, tmp_path: Path):
    slow = DicomOptions(listen=True, port=0, quiet_s=60.0)
    few = LimitOptions(files=3, free_disk_mb=0)
    with served(options_for(tiny, tmp_path / "data", dicom=slow, limits=few)) as service:
        assert send(service, images(tmp_path / "a", slices=5)) == [0, 0, 0, 0xA700, 0xA700]
    small = LimitOptions(upload_mb=0.1, free_disk_mb=0)
    with served(options_for(tiny, tmp_path / "more", dicom=slow, limits=small)) as service:
        big = write_series(tmp_path / "b", np.zeros((1, 1000, 1000), np.int16), **COMPANION)
        association = associate(service)
        answer = association.send_c_store(pydicom.dcmread(next(big.iterdir())))
        assert "Status" not in answer  # cut off, not answered
        assert not list((service.options.data / "servers/alone/inbox").rglob("*.dcm"))


def test_an_object_without_a_study_is_not_understood(service: Any, tmp_path: Path):
    (dataset,) = images(tmp_path / "a", slices=1, StudyInstanceUID=None)
    assert send(service, [dataset]) == [0xC000]
