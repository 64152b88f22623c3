"""The ledger gives a job to one worker, and none is forgotten whatever dies."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peewee", reason="the server needs the extra serve")

import peewee
import yaml

from medssl.imaging.errors import ConfigError
from medssl.runtime.server.ledger import Job, Ledger, open_database
from medssl.runtime.server.queue import JobQueue


@pytest.fixture
def database(tmp_path: Path) -> Any:
    return open_database(tmp_path / "jobs.db")


@pytest.fixture
def ledger(database: Any) -> Ledger:
    return Ledger(database, "here")


def _job(job_id: str, accepted: float = 1.0) -> Job:
    return Job(job_id, study="s", model="m", source="rest", caller="local", accepted=accepted)


def test_a_job_is_entered_once_and_claimed_once(ledger: Ledger):
    assert ledger.add(_job("a"))
    assert not ledger.add(_job("a", accepted=9.0))
    claimed = ledger.claim("a")
    assert claimed is not None
    assert (claimed.state, claimed.attempts, claimed.accepted) == ("running", 1, 1.0)
    assert ledger.claim("a") is None
    assert ledger.claim("b") is None


def test_progress_and_end_are_kept_with_the_reason(ledger: Ledger):
    ledger.add(_job("a"))
    ledger.claim("a")
    ledger.advance("a", "reading", 0.25, "pseudonym")
    running = ledger.get("a")
    assert running is not None
    assert (running.stage, running.progress, running.study) == ("reading", 0.25, "pseudonym")
    assert ledger.finish("a", "truncated", "it is cut")
    failed = ledger.get("a")
    assert failed is not None
    assert (failed.state, failed.reason, failed.message, failed.stage) == (
        "failed",
        "truncated",
        "it is cut",
        "reading",
    )
    assert not ledger.finish("a")  # what has ended does not end again


def test_a_job_whose_end_could_not_be_written_gives_no_sign_of_life_and_is_released(ledger: Ledger):
    for job_id in ("a", "b"):
        ledger.add(_job(job_id))
        ledger.claim(job_id)
    ledger.let_go("a")
    time.sleep(0.05)
    ledger.sign()
    assert ledger.release(unseen_s=0.04) == 1
    assert [job.id for job in ledger.jobs(states=["queued"])] == ["a"]


def test_a_server_that_was_taken_for_dead_cannot_end_a_job_of_another(database: Any, ledger: Ledger):
    other = Ledger(database, "there")
    ledger.add(_job("a"))
    ledger.claim("a")
    assert other.release() == 0  # not its own
    assert other.release(unseen_s=60) == 0  # seen a moment ago
    time.sleep(0.01)
    assert other.release(unseen_s=0.001) == 1
    assert other.claim("a") is not None
    assert not ledger.finish("a")
    assert other.finish("a")


def test_signs_of_life_keep_the_jobs_of_a_server(database: Any, ledger: Ledger):
    ledger.add(_job("a"))
    ledger.claim("a")
    time.sleep(0.3)
    ledger.sign()
    assert Ledger(database, "there").release(unseen_s=0.25) == 0


def test_a_planned_stop_does_not_count_as_an_attempt(ledger: Ledger):
    ledger.add(_job("a"))
    ledger.claim("a")
    assert ledger.give_back("a")
    ledger.claim("a")
    ledger.release()
    again = ledger.claim("a")
    assert again is not None
    assert again.attempts == 2  # the first was given back, the second died


def test_lists_counts_and_removal(ledger: Ledger):
    for number, job_id in enumerate("abc"):
        ledger.add(_job(job_id, accepted=number))
    ledger.claim("b")
    assert [job.id for job in ledger.jobs()] == ["c", "b", "a"]
    assert [job.id for job in ledger.jobs(limit=1, states=["queued"])] == ["c"]
    assert ledger.counts() == {"queued": 2, "running": 1, "done": 0, "failed": 0}
    assert not ledger.remove("b")
    assert ledger.remove("a")
    assert ledger.get("a") is None
    ledger.finish("b")
    assert ledger.ended_before(time.time() - 60) == []
    assert [job.id for job in ledger.ended_before(time.time() + 1)] == ["b"]


@pytest.mark.parametrize("url", ["oracle://host/db", "no url"])
def test_a_url_of_no_known_database_is_refused(url: str):
    with pytest.raises(ConfigError, match=r"queue\.url"):
        open_database(url)


def test_the_queue_outlives_its_process_and_holds_no_pickle(tmp_path: Path, database: Any):
    queue = JobQueue(database, lambda _: None, workers=1)
    for job_id in ("a", "b", "c"):
        queue.put(job_id)
    rows = database.execute_sql("select data from task order by id").fetchall()
    assert [b'"args": ["' in bytes(row[0]) for row in rows] == [True] * 3
    database.close()
    seen: list[str] = []
    again = JobQueue(open_database(tmp_path / "jobs.db"), seen.append, workers=1)
    again.refill(["x"])  # it is not empty, so nothing is added
    again.start()
    deadline = time.monotonic() + 20
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    again.refill(["d"])
    while len(seen) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    again.stop()
    assert seen == ["a", "b", "c", "d"]


def test_results_that_the_archive_did_not_take_are_offered_again_after_ever_longer_pauses(ledger: Ledger):
    """Accepted at 1000 and refused at 1100: due after 60 s at the earliest, and once it is 200 s old."""
    for job_id, reason in (("a", "store-failed"), ("b", "truncated")):
        ledger.add(_job(job_id, accepted=1000.0))
        ledger.claim(job_id)
        ledger.finish(job_id, reason, "the archive is away")
    row = ledger._row
    row.update(finished=1100.0).execute()
    assert ledger.offer_again(1150.0, 60, 1e9) == 0, "too soon after the try"
    assert ledger.offer_again(1199.0, 60, 1e9) == 0, "not as long again as it is old"
    assert ledger.offer_again(1201.0, 60, 100) == 0, "too old"
    assert ledger.offer_again(1201.0, 60, 1e9) == 1
    waiting = ledger.get("a")
    assert waiting is not None
    assert (waiting.state, waiting.reason, waiting.attempts, waiting.finished) == ("queued", "", 0, None)
    assert [job.id for job in ledger.jobs(states=["failed"])] == ["b"], "other failures stay"


def test_a_data_base_elsewhere_that_does_not_speak_tls_is_left_alone():
    """The URL of the example: what it says of TLS reaches the driver."""
    pytest.importorskip("psycopg", reason="PostgreSQL needs the extra postgres")
    example = Path(__file__).parents[3] / "configs" / "serve" / "several_machines.yaml"
    url = yaml.safe_load(example.read_text(encoding="utf-8"))["queue"]["url"]
    asked: list[bytes] = []

    def refuse(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            asked.append(connection.recv(8))
            connection.sendall(b"N")  # no TLS here
            asked.append(connection.recv(64))  # to which a careless driver says who it is

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=refuse, args=(server,))
        thread.start()
        database = open_database(url.replace("db.hospital.example", f"127.0.0.1:{server.getsockname()[1]}"))
        with pytest.raises(peewee.OperationalError, match="does not support SSL"):
            database.connect()
        thread.join()
    assert asked == [bytes.fromhex("0000000804d2162f"), b""]  # whether it speaks TLS, and nothing else
    assert database.connect_params["sslmode"] == "verify-full"
    assert database.connect_params["sslrootcert"] == "/etc/medssl/ca.pem"
