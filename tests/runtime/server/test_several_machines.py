"""Two servers that share a database and a folder: each job is done once, and those of a dead server by the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra serve")
pytest.importorskip("psycopg", reason="PostgreSQL needs the extra postgres")

from postgres_server import postgres
from serving import get, options_for, post, served, wait_for, write_scan

from medssl.runtime.server.ledger import Job, Ledger, open_database
from medssl.runtime.server.options import QueueOptions

pytestmark = pytest.mark.clinic


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres() as running:
        yield running


def test_two_servers_share_jobs_and_a_dead_ones_are_taken_over(url: str, tiny: Path, tmp_path: Path):
    content = write_scan(tmp_path / "a.nii.gz").read_bytes()
    options = [options_for(tiny, tmp_path / "data", queue=QueueOptions(url=url, node=node, threads=1)) for node in "ab"]
    with served(options[0]) as first, served(options[1]) as second:
        ids = [post(server, [("a.nii.gz", content)]).json()["id"] for _ in range(6) for server in (first, second)]
        wait_for(lambda: get(first, "/api/jobs?state=queued,running").json() == [])
        assert {job["id"]: job["reason"] for job in get(second, "/api/jobs").json()} == dict.fromkeys(ids, "")
        logs = sorted((tmp_path / "data").glob("audit-*.jsonl"))
        done = [log.read_text().count('"action": "done"') for log in logs]
        assert sum(done) == len(ids)
        assert min(done) > 0  # both worked
        dead = Ledger(open_database(url), "c")  # a third server takes a job and is never heard of again
        dead.add(Job("d" * 32, "s", "tiny", "rest", "local", 1.0))
        assert dead.claim("d" * 32) is not None
        first.desk.keep_house()
        assert get(first, f"/api/jobs/{'d' * 32}").json()["state"] == "running"  # it may still be alive
        assert dead.release(unseen_s=0) == 1
        first.desk.keep_house()
        wait_for(lambda: get(first, f"/api/jobs/{'d' * 32}").json()["state"] == "failed")  # by a server that looked
