"""A study of which the server knows that something is missing is reported, not computed as if it were whole."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantom import write_series

pytest.importorskip("pynetdicom", reason="the server needs the extra serve")

from scanner import associate, ended_study, images, jobs_of, send, store
from serving import COMPANION, get, options_for, served, wait_for

from medssl.runtime.server.desk import RefusedError
from medssl.runtime.server.dicom_listener import _under_way
from medssl.runtime.server.options import DicomOptions, LimitOptions, ServeOptions

pytestmark = pytest.mark.usefixtures("sockets_of_pynetdicom")

_SLOW = DicomOptions(listen=True, port=0, quiet_s=60.0, released_quiet_s=60.0)


@pytest.fixture(scope="module")
def slow(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that waits until a test says that the time is over."""
    with served(options_for(tiny, tmp_path_factory.mktemp("slow"), dicom=_SLOW)) as running:
        yield running


@pytest.fixture(scope="module")
def quick(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with served(options_for(tiny, tmp_path_factory.mktemp("quick"))) as running:
        yield running


def _end(association: Any, how: str) -> None:
    if how == "aborted":
        association.abort()
    else:
        association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: not association.is_established)


def _begin(association: Any, dataset: pydicom.Dataset, pdus: int = 3) -> None:
    """Send the first parts of an object and no more."""
    send_pdu, left = association.dul.send_pdu, list(range(pdus))

    def some(pdu: Any) -> None:
        if not left:
            raise InterruptedError
        left.pop()
        send_pdu(pdu)

    association.dul.send_pdu = some
    with suppress(InterruptedError):
        association.send_c_store(dataset)
    association.dul.send_pdu = send_pdu


def _time_is_over(service: Any, study: str) -> None:
    """Nothing more came of a study for long."""
    state = service.dicom._studies[service.desk.secret.name(study)]
    wait_for(lambda: not state.living())
    state.last -= 61


def _large(folder: Path, study: str, side: int = 200) -> pydicom.Dataset:
    series = write_series(folder, np.zeros((1, side, side), np.int16), StudyInstanceUID=study, **COMPANION)
    return pydicom.dcmread(next(series.iterdir()))


def _failed(service: Any, study: str, number: int = 1) -> str:
    """Message of the newest job of a study, which must have made nothing."""
    job = ended_study(service, study, number)
    assert (job["state"], job["reason"]) == ("failed", "incomplete-study"), job
    assert get(service, f"/api/jobs/{job['id']}/results").json() == []
    return str(job["message"])


@pytest.mark.parametrize("how", ["aborted", "lost"])
def test_a_study_whose_association_broke_off_fails_until_its_sender_sends_again(quick: Any, tmp_path: Path, how: str):
    study = f"1.2.3.20.{len(how)}"
    slices = images(tmp_path / "a", slices=6, StudyInstanceUID=study)
    association = associate(quick)
    assert store(association, slices[:3]) == [0] * 3
    _end(association, how)
    message = _failed(quick, study)
    assert message.startswith("3 object(s) of this study came, and more are missing or may be: a connection was broken")
    assert "send the whole study again" in message
    assert 'medssl_jobs_finished_total{model="tiny",reason="incomplete-study"}' in get(quick, "/metrics").text
    assert '"reason": "incomplete-study"' in quick.desk.audit.path.read_text()
    send(quick, slices[3:5], calling="OTHER")  # who did not break off cannot say that all is there
    _failed(quick, study, number=2)
    assert send(quick, slices[5:]) == [0]
    done = ended_study(quick, study, number=3)
    assert done["state"] == "done", done
    assert len(list((quick.options.data / "jobs" / done["id"] / "input").iterdir())) == 6
    report = (quick.options.data / "jobs" / done["id"] / "results" / "report.json").read_text()
    assert "replaces it" not in report, "no result was made before"


def test_a_sender_that_begins_again_at_once_makes_one_whole_job(slow: Any, tmp_path: Path):
    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.21")
    association = associate(slow)
    store(association, slices[:2])
    association.abort()
    send(slow, slices)
    _time_is_over(slow, "1.2.3.21")
    assert ended_study(slow, "1.2.3.21")["state"] == "done"


def test_an_association_beside_the_broken_one_does_not_settle_it(slow: Any, tmp_path: Path):
    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.22")
    one, two = associate(slow), associate(slow)
    store(one, slices[:1])
    store(two, slices[1:2])
    store(one, slices[2:3])
    one.abort()
    store(two, slices[3:])
    two.release()
    _time_is_over(slow, "1.2.3.22")
    _failed(slow, "1.2.3.22")


@pytest.mark.parametrize("beside", [False, True])
def test_a_release_after_the_study_was_handed_in_settles_what_it_would_have_settled(
    slow: Any, tmp_path: Path, beside: bool
):
    study = f"1.2.3.31.{int(beside)}"
    slices = images(tmp_path / "a", StudyInstanceUID=study)
    one, two = associate(slow), associate(slow) if beside else None
    store(one, slices[:2])
    state = slow.dicom._studies[slow.desk.secret.name(study)]
    one.abort()
    wait_for(lambda: not state.living())
    two = two or associate(slow)
    store(two, slices)
    state.last -= 61
    _failed(slow, study)
    two.release()
    wait_for(lambda: not two.is_alive())
    if beside:  # what it brought may be its own part
        assert slow.desk.secret.name(study) not in slow.dicom._studies
    else:
        _time_is_over(slow, study)
        assert ended_study(slow, study, number=2)["state"] == "done"


def test_the_release_of_one_sender_leaves_another_at_work(slow: Any, tmp_path: Path):
    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.26")
    one, two = associate(slow, calling="ONE"), associate(slow, calling="TWO")
    store(one, slices[:2])
    store(two, slices[2:])
    two.release()
    (living,) = slow.dicom._studies[slow.desk.secret.name("1.2.3.26")].living()
    assert living
    one.release()
    _time_is_over(slow, "1.2.3.26")
    assert ended_study(slow, "1.2.3.26")["state"] == "done"


def test_a_broken_association_does_not_shorten_the_wait(tiny: Path, tmp_path: Path):
    dicom = DicomOptions(listen=True, port=0, quiet_s=60.0, released_quiet_s=0.2)
    with served(options_for(tiny, tmp_path / "data", dicom=dicom)) as service:
        association = associate(service)
        store(association, images(tmp_path / "a"))
        association.abort()
        (state,) = service.dicom._studies.values()
        wait_for(lambda: not state.living())
        state.last -= 1
        assert service.dicom._complete() == []
        _time_is_over(service, "1.2.3")
        _failed(service, "1.2.3")


def test_what_came_of_broken_associations_is_computed_where_the_site_wants_it(tiny: Path, tmp_path: Path):
    dicom = DicomOptions(listen=True, port=0, quiet_s=1.0, released_quiet_s=0.2, aborted="accept")
    with served(options_for(tiny, tmp_path / "data", dicom=dicom)) as service:
        association = associate(service)
        store(association, images(tmp_path / "a"))
        association.abort()
        assert ended_study(service, "1.2.3")["state"] == "done"


def test_a_study_that_lacks_a_refused_object_fails_until_it_comes(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.23")
    check, refused = quick.dicom._check_room, []

    def full_for_the_first(*args: Any) -> None:
        if not refused:
            refused.append(args)
            raise RefusedError("full", reason="queue-full", status=429)
        check(*args)

    monkeypatch.setattr(quick.dicom, "_check_room", full_for_the_first)
    assert send(quick, slices) == [0xA700, 0, 0, 0]
    assert "1 object(s) were refused" in _failed(quick, "1.2.3.23")
    send(quick, slices[1:2])  # from the same sender, in peace, but not the one that is missing
    _failed(quick, "1.2.3.23", number=2)
    send(quick, slices[:1])
    done = ended_study(quick, "1.2.3.23", number=3)
    assert done["state"] == "done", done
    assert len(list((quick.options.data / "jobs" / done["id"] / "input").iterdir())) == 4


def test_a_study_beyond_the_caps_is_not_computed_from_what_there_was_room_for(tiny: Path, tmp_path: Path):
    with served(options_for(tiny, tmp_path / "data", limits=LimitOptions(files=3, free_disk_mb=0))) as service:
        assert send(service, images(tmp_path / "a", slices=5)) == [0, 0, 0, 0xA700, 0xA700]
        assert _failed(service, "1.2.3").startswith("3 object(s) of this study came")


def test_a_study_lacks_an_object_that_was_cut_off_whoever_sent_the_others(tiny: Path, tmp_path: Path):
    limits = LimitOptions(upload_mb=0.2, free_disk_mb=0)
    with served(options_for(tiny, tmp_path / "data", limits=limits)) as service:
        big = associate(service, calling="BIG")
        assert "Status" not in big.send_c_store(_large(tmp_path / "b", "1.2.3", side=1000))
        send(service, images(tmp_path / "a"))
        assert "1 object(s) were refused" in _failed(service, "1.2.3")


def test_an_object_that_could_not_be_kept_nor_marked_makes_the_release_worthless(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    slices = images(tmp_path / "a", StudyInstanceUID="1.2.3.24")
    association = associate(quick)
    store(association, slices[:2])
    with monkeypatch.context() as patch:
        patch.setattr("medssl.runtime.server.dicom_listener.sync_file", full)
        patch.setattr("medssl.runtime.server.arrivals.note_refused", full)
        assert store(association, slices[2:3]) == [0xA700]
    store(association, slices[3:])
    association.release()
    assert "a connection was broken off" in _failed(quick, "1.2.3.24")


def test_a_study_whose_sender_was_lost_within_another_of_its_objects_is_incomplete(slow: Any, tmp_path: Path):
    send(slow, images(tmp_path / "a", StudyInstanceUID="1.2.3.25"))
    late = associate(slow, calling="LATE")
    _begin(late, _large(tmp_path / "b", "1.2.3.25"))
    late.abort()
    state = slow.dicom._studies[slow.desk.secret.name("1.2.3.25")]
    wait_for(lambda: state.senders)
    _time_is_over(slow, "1.2.3.25")
    _failed(slow, "1.2.3.25")


@pytest.mark.parametrize("same", [True, False])
def test_a_study_waits_for_an_object_that_is_under_way_if_it_is_its_own(slow: Any, tmp_path: Path, same: bool):
    study, other = ("1.2.3.27", "1.2.3.27") if same else ("1.2.3.28", "1.2.3.29")
    association = associate(slow)
    store(association, images(tmp_path / "a", StudyInstanceUID=study))
    state = slow.dicom._studies[slow.desk.secret.name(study)]
    (sender,) = state.senders.values()
    _begin(association, _large(tmp_path / "b", other))
    wait_for(lambda: _under_way(sender.association()))
    state.last -= 61
    if same:
        assert slow.dicom._complete() == []
        association.abort()
        _failed(slow, study)
    else:
        assert ended_study(slow, study)["state"] == "done"
        association.abort()


def _restarted(options: ServeOptions, other: ServeOptions, datasets: list[pydicom.Dataset], *, clean: bool) -> Any:
    """The job of a study that was coming in when its server ended, before or after the release."""
    with served(options) as service:
        association = associate(service)
        store(association, datasets)
        if clean:
            association.release()
        assert jobs_of(service, "1.2.3") == []
    association.abort()
    with served(other) as service:
        return ended_study(service, "1.2.3")


@pytest.mark.parametrize(("clean", "state"), [(True, "done"), (False, "failed")])
def test_after_a_restart_it_is_known_whether_the_sender_had_ended(tiny: Path, tmp_path: Path, clean: bool, state: str):
    options = options_for(tiny, tmp_path / "data", dicom=_SLOW)
    job = _restarted(options, options_for(tiny, tmp_path / "data"), images(tmp_path / "a"), clean=clean)
    assert job["state"] == state
    assert job["reason"] == ("" if clean else "incomplete-study")


def test_marks_of_refused_objects_outlive_a_restart_and_half_written_ones_count_for_nothing(tiny: Path, tmp_path: Path):
    slices = images(tmp_path / "a")
    with served(options_for(tiny, tmp_path / "data", limits=LimitOptions(free_disk_mb=1e12))) as service:
        assert send(service, slices[:1]) == [0xA700]
    (folder,) = (tmp_path / "data/servers/alone/inbox").iterdir()
    (folder / "lost").mkdir()
    (folder / "lost" / ".partial-0-x").touch()
    with served(options_for(tiny, tmp_path / "data")) as service:
        send(service, slices[1:])
        assert "1 object(s) were refused" in (message := _failed(service, "1.2.3"))
        assert "broken off" not in message
        send(service, slices[:1])
        assert ended_study(service, "1.2.3", number=2)["state"] == "done"
