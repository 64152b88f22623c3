"""The ledger of accepted jobs: the one truth about what has to be computed, in a database that survives a kill.

The queue only carries job ids to whoever is free, and may lose or repeat them: `claim` lets one worker have a job.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import peewee
from playhouse.db_url import connect

from medssl.imaging.errors import ConfigError, how_to_install

State = Literal["queued", "running", "done", "failed"]
STATES: tuple[State, ...] = ("queued", "running", "done", "failed")


@dataclass(frozen=True)
class Job:
    """A job as the ledger has it; nothing in it names a patient.

    Args:
        id: 32 hexadecimal digits.
        study: Pseudonym of the StudyInstanceUID, empty until it is known.
        model: Name of the model.
        source: `rest`, `cstore` or `dicomweb`.
        caller: Name of the token or AE title that brought it.
        accepted: Seconds since 1970.
        state: Where it is.
        stage: What is being done.
        progress: From 0 to 1.
        started: Seconds since 1970, or None.
        finished: Seconds since 1970, or None.
        reason: Reason code of a failure.
        message: What failed, for a person.
        attempts: How often it was begun.
    """

    id: str
    study: str
    model: str
    source: str
    caller: str
    accepted: float
    state: str = "queued"
    stage: str = "waiting"
    progress: float = 0.0
    started: float | None = None
    finished: float | None = None
    reason: str = ""
    message: str = ""
    attempts: int = 0


def open_database(place: Path | str) -> Any:
    """An SQLite file, which waits for other writers and syncs every commit, or the database of a URL.

    Raises:
        ConfigError: The URL is none that is understood, or its driver is not installed.
    """
    if isinstance(place, Path):
        pragmas = {"journal_mode": "wal", "synchronous": "full", "busy_timeout": 60_000}
        return peewee.SqliteDatabase(str(place), pragmas=pragmas)
    try:
        return connect(place)
    except (RuntimeError, peewee.ImproperlyConfigured) as error:  # neither repeats the password of the URL
        raise ConfigError([f"queue.url: {error}; PostgreSQL needs {how_to_install('postgres')}"]) from error


class Ledger:
    """Jobs in a database.

    Args:
        database: Of `open_database`.
        node: Name of this server; jobs that run are its own.
    """

    def __init__(self, database: Any, node: str) -> None:
        self._database, self._node = database, node
        self._held: set[str] = set()

        class Row(peewee.Model):
            id = peewee.CharField(primary_key=True, max_length=32)
            study = peewee.CharField(index=True)
            model = peewee.CharField()
            source = peewee.CharField()
            caller = peewee.CharField()
            accepted = peewee.DoubleField(index=True)
            state = peewee.CharField(index=True)
            stage = peewee.CharField()
            progress = peewee.DoubleField()
            started = peewee.DoubleField(null=True)
            finished = peewee.DoubleField(null=True)
            reason = peewee.CharField()
            message = peewee.TextField()
            attempts = peewee.IntegerField()
            owner = peewee.CharField(default="")
            seen = peewee.DoubleField(default=0)

            class Meta:
                database = self._database
                table_name = "medssl_jobs"

        self._row: Any = Row
        with self._connected():
            self._database.create_tables([Row])

    @contextmanager
    def _connected(self) -> Iterator[None]:
        with self._database.connection_context():
            yield

    def add(self, job: Job) -> bool:
        """Enter a job; False where it is there already."""
        with self._connected():
            return bool(self._row.insert(**vars(job)).on_conflict_ignore().as_rowcount().execute())

    def get(self, job_id: str) -> Job | None:
        """A job, None where there is none of that id."""
        with self._connected():
            found = self._row.get_or_none(self._row.id == job_id)
        return None if found is None else _job(found)

    def jobs(self, limit: int = 100, states: Sequence[str] = STATES, study: str = "") -> list[Job]:
        """Jobs, newest first."""
        wanted = self._row.state.in_(list(states))
        if study:
            wanted &= self._row.study == study
        with self._connected():
            rows = list(self._row.select().where(wanted).order_by(self._row.accepted.desc()).limit(limit))
        return [_job(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        count = peewee.fn.COUNT(self._row.id)
        with self._connected():
            found = dict(self._row.select(self._row.state, count).group_by(self._row.state).tuples())
        return {state: int(found.get(state, 0)) for state in STATES}

    def claim(self, job_id: str) -> Job | None:
        """Take a waiting job; None where another has it, or it is no longer there."""
        row, now = self._row, time.time()
        taken = row.update(
            state="running", stage="starting", progress=0.0, started=now, attempts=row.attempts + 1,
            owner=self._node, seen=now,
        ).where((row.id == job_id) & (row.state == "queued"))  # fmt: skip
        if not self._changed(taken):
            return None
        self._held.add(job_id)
        return self.get(job_id)

    def let_go(self, job_id: str) -> None:
        """Give no more signs of life for a job that this server claimed: it ended, or its end could not be written."""
        self._held.discard(job_id)

    def advance(self, job_id: str, stage: str, progress: float, study: str = "") -> None:
        """Note how far a running job is, and its study once that is known."""
        values: dict[str, Any] = {"stage": stage, "progress": progress} | ({"study": study} if study else {})
        self._changed(self._row.update(**values).where(self._own(job_id)))

    def finish(self, job_id: str, reason: str = "", message: str = "") -> bool:
        """End a job that this server runs: done, or failed where a reason is given; False where it is not ours."""
        values: dict[str, Any] = {"state": "failed" if reason else "done", "finished": time.time()}
        values |= {"reason": reason, "message": message} if reason else {"stage": "done", "progress": 1.0}
        return self._changed(self._row.update(**values).where(self._own(job_id)))

    def reject(self, job_id: str, reason: str, message: str) -> bool:
        """Report a waiting job failed without running it."""
        row = self._row
        update = row.update(state="failed", reason=reason, message=message, finished=time.time())
        return self._changed(update.where((row.id == job_id) & (row.state == "queued")))

    def release(self, *, all_owners: bool = False, unseen_s: float | None = None) -> int:
        """Put running jobs back into the queue.

        Args:
            all_owners: Those of every server, not of this alone: only one uses the database.
            unseen_s: Of every server, those whose server gave no sign for so long.
        """
        row = self._row
        wanted = row.state == "running"
        if unseen_s is not None:
            wanted &= row.seen < time.time() - unseen_s
        elif not all_owners:
            wanted &= row.owner == self._node
        return self._rows(row.update(state="queued", stage="waiting", progress=0.0, owner="").where(wanted))

    def give_back(self, job_id: str) -> bool:
        """Put a job of this server back into the queue as if it had not been begun: the server was told to stop."""
        row = self._row
        update = row.update(state="queued", stage="waiting", progress=0.0, owner="", attempts=row.attempts - 1)
        return self._changed(update.where(self._own(job_id)))

    def offer_again(self, now: float, pause_s: float, most_s: float) -> int:
        """Put jobs back into the queue whose results an archive did not take; each waits as long again as it is old.

        Args:
            now: Time.
            pause_s: Shortest pause after a try.
            most_s: Age of a job from which it is left as it is.
        """
        row = self._row
        refused = (row.state == "failed") & (row.reason == "store-failed")
        due = (row.finished < now - pause_s) & (2 * row.finished - row.accepted < now) & (row.accepted > now - most_s)
        update = row.update(
            state="queued", stage="waiting", progress=0.0, owner="", finished=None, reason="", message="", attempts=0
        )
        return self._rows(update.where(refused & due))

    def sign(self) -> None:
        """Tell that the jobs that this server claimed and has not let go are alive."""
        row = self._row
        ours = (row.state == "running") & (row.owner == self._node) & row.id.in_(list(self._held))
        self._rows(row.update(seen=time.time()).where(ours))

    def ended_before(self, when: float) -> list[Job]:
        """Jobs that were done or failed before a time."""
        row = self._row
        with self._connected():
            rows = list(row.select().where(row.state.in_(["done", "failed"]) & (row.finished < when)))
        return [_job(found) for found in rows]

    def remove(self, job_id: str) -> bool:
        """Take out a job that does not run; False where it runs or is not there."""
        row = self._row
        return self._changed(row.delete().where((row.id == job_id) & (row.state != "running")))

    def _own(self, job_id: str) -> Any:
        row = self._row
        return (row.id == job_id) & (row.state == "running") & (row.owner == self._node)

    def _changed(self, query: Any) -> bool:
        return self._rows(query) == 1

    def _rows(self, query: Any) -> int:
        with self._connected(), self._database.atomic():
            return int(query.execute())


def _job(row: Any) -> Job:
    return Job(**{name: getattr(row, name) for name in Job.__dataclass_fields__})
