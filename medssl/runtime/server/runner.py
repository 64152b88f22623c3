"""What is done with a job id from the queue: claim it, have it computed, write down how it ended."""

import time
from pathlib import Path

from medssl.imaging.errors import MedsslError
from medssl.imaging.files import sha256
from medssl.runtime.server.desk import Desk
from medssl.runtime.server.folders import flags_of
from medssl.runtime.server.ledger import Job
from medssl.runtime.server.logs import LOG
from medssl.runtime.server.pool import OnStage, Stopped, WorkerPool


class Runner:
    """Runs jobs in a pool of workers.

    Args:
        desk: Account of jobs.
        pool: Workers.
    """

    def __init__(self, desk: Desk, pool: WorkerPool) -> None:
        self._desk, self._pool = desk, pool

    def run(self, job_id: str) -> None:
        """Run a job, unless another has it."""
        job = self._desk.ledger.claim(job_id)
        if job is None:
            return
        folder = self._desk.folders.job(job.id)

        def on_stage(stage: str, progress: float, study_uid: str) -> None:
            study = self._desk.secret.name(study_uid) if study_uid else ""
            try:
                self._desk.ledger.advance(job.id, stage, progress, study)
            except Exception as error:  # where a job is matters less than the job
                LOG.error("job %s: stage %s is not in the ledger: %s", job.id, stage, type(error).__name__)

        try:
            self._compute(job, folder, on_stage)
        finally:
            self._desk.ledger.let_go(job.id)  # what could not be ended is taken for dead, and done again

    def _compute(self, job: Job, folder: Path, on_stage: OnStage) -> None:
        try:
            self._pool.run(folder, on_stage)
        except Stopped:
            self._desk.ledger.give_back(job.id)
        except MedsslError as error:
            self._end(job, error.reason, self._desk.secret.public(error.message, folder))
        except Exception as error:  # whatever happens, the job must not stay running for ever
            self._end(job, "internal", f"internal error of the server ({type(error).__name__})")
        else:
            self._end(job, "", "")

    def _end(self, job: Job, reason: str, message: str) -> None:
        """The audit log comes first, as for acceptance; where it cannot be written the job ends all the same."""
        desk = self._desk
        try:
            self._note(job, reason)
        except Exception as error:
            LOG.error("job %s: its end is not in the audit log: %s", job.id, type(error).__name__)
        if not desk.ledger.finish(job.id, reason, message):
            return  # another server took this one for dead and has the job now
        desk.metrics.finished.labels(job.model, reason).inc()
        for flag in () if reason else flags_of(desk.folders.job(job.id)) or ():
            desk.metrics.flagged.labels(job.model, flag).inc()
        desk.metrics.took.labels(job.model).observe(time.time() - (job.started or time.time()))
        desk.metrics.waited.observe((job.started or time.time()) - job.accepted)
        LOG.info("job %s %s", job.id, f"failed: {reason}" if reason else "done")

    def _note(self, job: Job, reason: str) -> None:
        desk = self._desk
        now = desk.ledger.get(job.id) or job
        results = {name: sha256(path) for name, path in desk.results(job.id).items()}
        desk.audit.write(
            "server", "fail" if reason else "done", job=job.id, study=now.study, model=job.model,
            bundle_sha256=desk.bundle_sha256(job.model), reason=reason, results=results,
        )  # fmt: skip
