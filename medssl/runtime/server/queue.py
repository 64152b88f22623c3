"""The queue of job ids, by huey: embedded SQLite, or PostgreSQL where several machines serve.

huey takes a message out before the work begins, so a kill loses it. The ledger keeps what was accepted: `refill` puts
waiting jobs in again, and a message that comes twice finds the job claimed.
"""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from huey.api import Huey
from huey.consumer import Consumer
from huey.contrib.sql_huey import SqlStorage
from huey.registry import Message
from huey.serializer import Serializer

_POLL_S = 0.2


class _Json(Serializer):  # type: ignore[misc]  # huey has no types
    """Messages as JSON: huey's own are pickles, which may run code when they are read."""

    def _serialize(self, data: Any) -> bytes:
        return json.dumps({"id": data.id, "name": data.name, "args": list(data.args)}).encode()

    def _deserialize(self, data: bytes) -> Any:
        return Message(**json.loads(data))


class _Consumer(Consumer):  # type: ignore[misc]
    """huey's threads without its signal handlers: signals are the server's."""

    def _set_signal_handlers(self) -> None:
        return


class JobQueue:
    """Threads that take job ids from a durable queue.

    Args:
        database: Of `medssl.runtime.server.ledger.open_database`.
        run: What is done with an id.
        workers: Threads.
    """

    def __init__(self, database: Any, run: Callable[[str], None], workers: int) -> None:
        logging.getLogger("huey").setLevel(logging.CRITICAL)  # its tracebacks quote what they were called with
        self._huey = Huey("medssl", results=False, serializer=_Json(), storage_class=SqlStorage, database=database)
        self._task = self._huey.task(name="job")(run)
        self._workers = workers
        self._consumer: Any = None

    def put(self, job_id: str) -> None:
        """Add a job id."""
        with self._huey.storage.database.connection_context():
            self._task(job_id)

    def refill(self, job_ids: Sequence[str]) -> None:
        """Add the ids of waiting jobs where the queue is empty, so that none is forgotten."""
        with self._huey.storage.database.connection_context():
            empty = self._huey.storage.queue_size() == 0
        if empty:
            for job_id in job_ids:
                self.put(job_id)

    def start(self) -> None:
        """Begin to take ids."""
        self._consumer = _Consumer(
            self._huey, self._workers, periodic=False, initial_delay=_POLL_S / 2, max_delay=_POLL_S
        )
        self._consumer.start()

    def ask_to_stop(self) -> None:
        """Take no more ids; those in work go on."""
        if self._consumer is not None:
            self._consumer.stop_flag.set()

    def stop(self) -> None:
        """Take no more ids; returns when the threads are done with theirs."""
        if self._consumer is not None:
            self._consumer.stop(graceful=True)
