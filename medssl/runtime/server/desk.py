"""The desk where studies are handed in: what there is room for is accepted, and then neither lost nor doubled."""

import shutil
import threading
import time
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medssl.imaging.errors import BundleError, ConfigError, MedsslError
from medssl.runtime.bundle import Bundle, summed_files
from medssl.runtime.server import arrivals
from medssl.runtime.server.audit import AuditLog
from medssl.runtime.server.folders import Folders, link_files, new_id, read_record, results_of, unchanged
from medssl.runtime.server.ledger import Job, Ledger
from medssl.runtime.server.logs import LOG
from medssl.runtime.server.metrics import Metrics
from medssl.runtime.server.options import ServeOptions
from medssl.runtime.server.queue import JobQueue
from medssl.runtime.server.secret import Secret
from medssl.runtime.signature import SIGNATURE, check_signature

_LEASE_S = 300.0
"""A server that gave no sign for so long has died; others take its jobs."""

_OFFER_S = 600.0
"""Results that the archive did not take are not offered to it again sooner."""

_ENTRY_S = 10.0
"""An accepted job that is not in the ledger after so long met a fault, not a slow disk."""

_DESERTED_S = 3600.0
"""A study in an inbox that nothing has come for so long has no server any more that would hand it in."""


class RefusedError(MedsslError):
    """Something that is not accepted; `status` is the HTTP status that says so."""

    def __init__(self, message: str, *, reason: str, status: int) -> None:
        super().__init__(message, reason=reason)
        self.status = status


class Desk:
    """Accepts jobs and keeps account of them.

    Args:
        options: Of the server.
        folders: DATA.
        ledger: Accepted jobs.
        secret: Key of pseudonyms.
        audit: Who did what.
    """

    def __init__(
        self, options: ServeOptions, folders: Folders, ledger: Ledger, secret: Secret, audit: AuditLog
    ) -> None:
        self.options, self.folders, self.ledger, self.secret, self.audit = options, folders, ledger, secret, audit
        self.bundles = open_bundles(options.bundles, options.public_key, folders.bundles())
        self.metrics = Metrics(ledger.counts, folders.free_mb)
        self.queue: JobQueue | None = None
        self._entering = threading.Lock()
        self.underway = 0
        """Uploads that are coming in; they take a place in the queue."""
        self.arriving = 0
        """Studies that are coming in by C-STORE; so do they."""

    def model(self, name: str) -> str:
        """Name of a model that is served; the only one where none is named.

        Raises:
            RefusedError: There is none of that name, or several and none is named.
        """
        if not name and len(self.bundles) == 1:
            return next(iter(self.bundles))
        if name not in self.bundles:
            wrong = "no model of that name is served" if name else "several models are served: say which model"
            raise RefusedError(f"{wrong}; choose from: {', '.join(self.bundles)}", reason="no-model", status=404)
        return name

    def bundle_sha256(self, model: str) -> str:
        """Hash of a model's bundle; empty where it is served no longer."""
        return self.bundles[model].sha256 if model in self.bundles else ""

    def cautions(self) -> list[str]:
        """What an operator should know before the first study comes."""
        options = self.options
        arriving = [self.model(options.dicom.model)] if options.dicom.listen else []
        names = dict.fromkeys([*arriving, *(self.bundles if options.pacs.dicomweb else ())])
        return [
            f"{name} has no rules for series: studies that come by C-STORE or from the archive fail where they hold "
            "several series; have the bundle exported with --series, or send one series of each study"
            for name in names
            if not self.bundles[name].spec.series
        ]

    def check_room(self) -> None:
        """Back-pressure.

        Raises:
            RefusedError: The queue or the disk is full.
        """
        waiting = self.ledger.counts()["queued"] + self.underway + self.arriving
        if waiting >= self.options.queue.waiting:
            raise RefusedError(f"{waiting} jobs are waiting: try again later", reason="queue-full", status=429)
        self.check_disk()

    def check_disk(self) -> None:
        """Refuse before the disk is full, also what is coming in: the account of what was accepted needs room too.

        Raises:
            RefusedError: Less than `limits.free_disk_mb` is free.
        """
        if self.folders.free_mb() < self.options.limits.free_disk_mb:
            raise RefusedError("the server's disk is full: tell its operator", reason="disk-full", status=429)

    def accept(self, folder: Path, job_id: str, **content: Any) -> Job:
        """Accept a filled folder: on the disk first, then in the ledger, then in the queue.

        Args:
            folder: Folder with `input`.
            job_id: Id of the job.
            content: `model`, `source`, `caller`, and `study`, `study_uid` or `series_uid` where they are known;
                `incomplete`, why the study must not be computed.
        """
        content.setdefault("study", self.secret.name(f"job:{job_id}"))
        job = self.folders.accept(folder, job_id, content)
        try:
            self._enter(job)
        except Exception as error:  # it is accepted: who heard of the fault would send it again
            LOG.error("job %s is on the disk, its entry is tried again: %s", job.id, type(error).__name__)
        return job

    def hand_in(self, folder: Path, living: Collection[str] = ()) -> None:
        """Make a study of an inbox a job, with what came of it by C-STORE before; one known to be incomplete will fail.

        A study of which nothing new came makes none where its newest job stands: archives send a study again when our
        results have changed it, and would do so for ever.

        Args:
            folder: Folder of the study.
            living: Marks of its associations that are there still.
        """
        record = read_record(folder)
        study, model = record["study"], record["model"]
        earlier, replaces = self.earlier(study, model), False
        if earlier is not None:
            link_files(earlier / "input", folder / "input")
            replaces = self._replaces(earlier, folder)
            if earlier.name != record.get("earlier", ""):
                arrivals.take_over(earlier, folder)
        arrivals.close(folder, living)
        why = arrivals.complaint(folder, living, lost_counts=self.options.dicom.aborted == "refuse")
        if not why and earlier is not None and self._stands(earlier, folder, model):
            self.audit.write(
                record["caller"], "unchanged", job=earlier.name, study=study, model=model,
                bundle_sha256=self.bundle_sha256(model),
            )  # fmt: skip
            LOG.info("study %s came again without anything new: job %s stands", study, earlier.name)
            self.folders.discard(folder)
            return
        told = {"incomplete": why} if why else {"replaces": replaces, "made": self._made(model)}
        self.accept(folder, new_id(), model=model, source="cstore", caller=record["caller"], study=study, **told)

    def _replaces(self, earlier: Path, folder: Path) -> bool:
        """Whether a result of fewer or other objects was or will be made; of the same ones it says what it said."""
        if read_record(earlier).get("replaces", False):
            return True
        job = self.ledger.get(earlier.name)
        without = job is not None and job.state == "failed" and not self.results(job.id)
        return not without and not unchanged(folder / "input", earlier / "input")

    def _stands(self, earlier: Path, folder: Path, model: str) -> bool:
        """Whether a job was made, or will be, of the same objects in the same way as one of this folder would be."""
        job, record = self.ledger.get(earlier.name), read_record(earlier)
        if job is None or record.get("made") != self._made(model):
            return False
        offered = job.reason == "store-failed" and time.time() - job.accepted < 3600 * self.options.pacs.retry_h
        return (job.state != "failed" or offered) and unchanged(folder / "input", earlier / "input")

    def _made(self, model: str) -> dict[str, Any]:
        """What a result follows from beside the images; where it is another, a study that comes again is done again."""
        results = self.options.results
        return {
            "bundle_sha256": self.bundle_sha256(model),
            "medssl": version("medssl"),
            "formats": list(results.formats),
            "resample_irregular": results.resample_irregular,
            "store": self.options.pacs.store,
        }

    def _adopt(self) -> None:
        """Hand in what lies in an inbox for nobody: its server is gone, has another name now, or listens no longer."""
        dicom = self.options.dicom
        seconds = max(_DESERTED_S, 2 * dicom.quiet_s, 2 * dicom.released_quiet_s)
        for found in self.folders.deserted(seconds if dicom.listen else 0, seconds):
            try:
                folder = self.folders.claim(found)
                if folder is None:
                    continue  # another server was faster
                if read_record(folder) and any((folder / "input").glob("*.dcm")):
                    LOG.warning("study %s lay in an inbox for nobody and is handed in", found.name)
                    self.hand_in(folder)
                else:
                    self.folders.discard(folder)
            except Exception as error:  # the others must not wait for this one; it is tried again
                LOG.error("study %s of an inbox could not be handed in: %s", found.name, type(error).__name__)

    def _enter(self, job: Job) -> None:
        with self._entering:
            self._enter_once(job)

    def _enter_once(self, job: Job) -> None:
        """The audit log comes before the ledger: after a kill in between a line is there twice, never missing."""
        if self.ledger.get(job.id) is not None or not read_record(self.folders.job(job.id)):
            return  # the second: it was removed since
        self.audit.write(
            job.caller, "accept", job=job.id, study=job.study, source=job.source, model=job.model,
            bundle_sha256=self.bundle_sha256(job.model),
        )  # fmt: skip
        self.ledger.add(job)
        self.metrics.accepted.labels(job.source).inc()
        LOG.info("job %s accepted from %s", job.id, job.source)
        if self.queue is not None:
            self.queue.put(job.id)

    def recover(self) -> None:
        """After a start: what was accepted and not ended is done; what cannot be is reported failed."""
        self.folders.sweep()
        released = self.ledger.release(all_owners=not self.options.queue.url)
        self._reconcile(0)
        self._adopt()
        most = self.options.queue.attempts
        for job in self.ledger.jobs(limit=1_000_000, states=["queued"]):
            if not read_record(self.folders.job(job.id)):
                self._give_up(job, "lost-input", "the files of this job are gone from the server's DATA folder")
            elif job.attempts >= most:
                text = f"the server died {job.attempts} times during this job, so it is not tried again"
                self._give_up(job, "server-died", text)
        if released:
            self.audit.write("server", "recover", interrupted=released)
            LOG.warning("%d job(s) were interrupted and are done again", released)
        self.refill()

    def _reconcile(self, seconds: float) -> None:
        """Enter accepted jobs that the ledger lacks after so long, and end removals that were broken off."""
        for job in self.folders.accepted():
            if abs(time.time() - job.accepted) >= seconds:  # younger ones may be on their way, at another server too
                self._enter(job)
        for job_id in self.folders.unaccepted():
            if self.ledger.get(job_id) is None:
                self.folders.discard(self.folders.job(job_id))

    def _give_up(self, job: Job, reason: str, message: str) -> None:
        self.audit.write(
            "server", "fail", job=job.id, study=job.study, model=job.model,
            bundle_sha256=self.bundle_sha256(job.model), reason=reason,
        )  # fmt: skip
        self.ledger.reject(job.id, reason, message)

    def refill(self) -> None:
        """Put waiting jobs into an empty queue, oldest first."""
        if self.queue is not None:
            waiting = self.ledger.jobs(limit=1_000_000, states=["queued"])
            self.queue.refill([job.id for job in reversed(waiting)])

    def keep_house(self) -> None:
        """What is due now and then: signs of life, jobs and studies of dead servers, data past its time."""
        self.ledger.sign()
        if self.ledger.release(unseen_s=_LEASE_S):
            LOG.warning("jobs of a server that gave no sign are done again")
        again = self.ledger.offer_again(time.time(), _OFFER_S, 3600 * self.options.pacs.retry_h)
        if again:
            LOG.info("the results of %d job(s) are offered to the archive again", again)
        self._adopt()
        self._reconcile(_ENTRY_S)
        self.refill()
        self.folders.sweep_old(_LEASE_S)
        for job in self.ledger.ended_before(time.time() - 3600 * self.options.limits.keep_hours):
            self.remove(job.id, "retention")

    def remove(self, job_id: str, who: str) -> bool:
        """Remove a job with its data; False where it runs or is not there.

        It is marked as removed first: after a kill the ledger's entry must not be made again from the folder. The line
        is written before anything goes: after a kill it may be there twice, a removal without one may not be.
        """
        self.ledger.reject(job_id, "removed", "the job was removed before it was begun")  # so that none begins it now
        job = self.ledger.get(job_id)
        if job is None or job.state == "running":
            return False
        self.folders.unaccept(job_id)
        self.audit.write(who, "remove", job=job_id)
        if not self.ledger.remove(job_id):
            return False
        self.folders.discard(self.folders.job(job_id))
        return True

    def earlier(self, study: str, model: str) -> Path | None:
        """Folder of the newest job of a study that came by C-STORE, whose objects belong to it too."""
        for job in self.ledger.jobs(limit=100, study=study):
            if job.source == "cstore" and job.model == model and (self.folders.job(job.id) / "input").is_dir():
                return self.folders.job(job.id)
        return None

    def results(self, job_id: str) -> dict[str, Path]:
        """Names and files of a job's results."""
        return results_of(self.folders.job(job_id))


def open_bundles(paths: tuple[Path, ...], public_key: Path | None, folder: Path) -> dict[str, Bundle]:
    """Bundles by their names, hashes checked, and signatures where there is a key.

    What is opened are copies: workers load them at any time, and what lies where the operator put it may be another
    version by then.

    Args:
        paths: Folders or zip files.
        public_key: That they must be signed with.
        folder: An empty folder for the copies.

    Raises:
        ConfigError: Two of one name.
        BundleError: One must not be used: changed, or not signed with the key.
    """
    bundles: dict[str, Bundle] = {}
    for number, path in enumerate(paths):
        bundle = Bundle.open(_copied(Bundle.open(path).folder, folder / str(number)))
        if public_key is not None:
            _check_signature(bundle, path, public_key)
        if bundle.spec.name in bundles:
            raise ConfigError([f"bundle {path}: another is named {bundle.spec.name!r} too; serve one of them"])
        bundles[bundle.spec.name] = bundle
    return bundles


def _copied(bundle: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in (*summed_files(bundle), "SHA256SUMS", SIGNATURE):
        if (bundle / name).exists():
            shutil.copyfile(bundle / name, folder / name)
    return folder


def _check_signature(bundle: Bundle, path: Path, public_key: Path) -> None:
    try:
        check_signature(bundle.folder, public_key)
    except BundleError as error:
        raise BundleError(f"bundle {path}: {error.message}", reason=error.reason) from error
