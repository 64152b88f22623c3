"""Folders of jobs: what is accepted is on the disk, whole, before anyone is told so.

DATA/jobs/ID/                       an accepted job: job.json, input/, image.nii.gz, results/
DATA/servers/NODE/incoming/ID/      an upload under way; removed at the next start
DATA/servers/NODE/inbox/STUDY/      a study that arrives by C-STORE, until it is handed in
DATA/servers/NODE/temporary/        objects under way, removed at the next start
DATA/servers/NODE/bundles/          the bundles that are served, as they were checked at the start
DATA/servers/NODE/trash/            removed as soon as possible

A folder moves by one rename, so a kill leaves it in one place or the other. Names are job ids, pseudonyms and numbers:
nothing that a caller sends becomes a name.
"""

import fcntl
import filecmp
import json
import os
import secrets
import shutil
import time
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import sync_file, sync_folder, write_json
from medssl.runtime.server.ledger import Job

_PLACES = ("incoming", "inbox", "temporary", "bundles", "trash")
LOOK_BYTES = 64 * 2**20
"""The disk is looked at whenever so much more came in."""
SUFFIXES = (".nii.gz", ".nii", ".zip", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Endings of uploaded files that say how to read them; whatever else is DICOM or refused."""


def new_id() -> str:
    """Id of a job: 32 hexadecimal digits that cannot be guessed."""
    return secrets.token_hex(16)


class Folders:
    """The DATA folder.

    Args:
        root: The folder; made where it is absent, closed to other users.
        node: Name of this server among those that share the folder.

    Raises:
        ConfigError: The folder cannot be made, or other users can read it and it is not ours to close.
        MedsslError: Another server of this name uses the folder.
    """

    def __init__(self, root: Path, node: str) -> None:
        self.root, self._own = root, root / "servers" / node
        try:
            root.mkdir(parents=True, exist_ok=True)
            if root.stat().st_mode & 0o077:
                root.chmod(0o700)
            for folder in (root / "jobs", *(self._own / place for place in _PLACES)):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                [
                    f"data = {root} cannot be made a folder of this user alone ({error.strerror}): the root of a "
                    f"volume often belongs to another user, so name a folder in it (data: {root / 'medssl'}), or "
                    "have it owned by the user of medssl with mode 700"
                ]
            ) from error
        self._lock = _lock(self._own / "lock")

    def close(self) -> None:
        """Let another server use the folder."""
        self._lock.close()

    def incoming(self) -> tuple[str, Path]:
        """Id of a new job and the folder to fill; its files go into `input`."""
        job_id = new_id()
        folder = self._own / "incoming" / job_id
        (folder / "input").mkdir(parents=True)
        return job_id, folder

    def inbox(self) -> Path:
        """Folder of the studies that arrive."""
        return self._own / "inbox"

    def deserted(self, own_s: float, others_s: float) -> list[Path]:
        """Studies in the inboxes of all servers that nothing has come for.

        Args:
            own_s: For so long, of this server's.
            others_s: Of the others', which may be at work.
        """
        found = []
        for study in self.root.glob("servers/*/inbox/*"):
            seconds = own_s if study.parent == self.inbox() else others_s
            try:
                changed = max(path.stat().st_mtime for path in (study, *study.iterdir()))
            except (FileNotFoundError, NotADirectoryError):  # its server has just handed it in; no study
                continue
            if time.time() - changed >= seconds:
                found.append(study)
        return found

    def claim(self, study: Path) -> Path | None:
        """Make a study of any inbox this server's own, under a name that no listener uses; None if it is gone.

        It counts as changed, so that no other server takes it from here.
        """
        target = self.inbox() / f"{study.name.split('-')[0]}-{new_id()[:8]}"
        try:
            os.utime(study)
            study.rename(target)
        except FileNotFoundError:
            return None
        sync_folder(target.parent)
        return target

    def bundles(self) -> Path:
        """Folder of the bundles that are served, emptied of an earlier server's."""
        folder = self._own / "bundles"
        shutil.rmtree(folder)
        folder.mkdir()
        return folder

    def temporary(self) -> Path:
        """Folder of files that are being received."""
        return self._own / "temporary"

    def job(self, job_id: str) -> Path:
        """Folder of an accepted job."""
        return self.root / "jobs" / job_id

    def accept(self, folder: Path, job_id: str, content: dict[str, Any]) -> Job:
        """Make a filled folder an accepted job.

        Args:
            folder: Folder with `input`.
            job_id: Id of the job.
            content: `study`, `model`, `source`, `caller`; what else the worker needs.
        """
        content = {"accepted": time.time(), **content}
        for path in (folder / "input").iterdir():
            sync_file(path)
        write_json(folder / "job.json", content)
        sync_folder(folder / "input")
        sync_folder(folder)
        target = self.job(job_id)
        folder.rename(target)
        sync_folder(target.parent)
        return _job(job_id, content)

    def accepted(self) -> list[Job]:
        """Every accepted job that is on the disk."""
        jobs = []
        for folder in (self.root / "jobs").iterdir():
            content = read_record(folder)
            if content:
                jobs.append(_job(folder.name, content))
        return jobs

    def unaccept(self, job_id: str) -> None:
        """Mark an accepted job as removed, before its entry is taken out of the ledger."""
        (self.job(job_id) / "job.json").unlink(missing_ok=True)

    def unaccepted(self) -> list[str]:
        """Ids of jobs whose removal was begun: their folders are still there."""
        return [folder.name for folder in (self.root / "jobs").iterdir() if not (folder / "job.json").exists()]

    def discard(self, folder: Path) -> None:
        """Remove a folder: at once from its place, then from the disk."""
        target = self._own / "trash" / f"{folder.name}-{secrets.token_hex(4)}"
        try:
            folder.rename(target)
        except FileNotFoundError:
            return
        shutil.rmtree(target, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what an earlier server left under way: uploads that nobody was told of, and trash."""
        for place in ("incoming", "temporary", "trash"):
            for entry in (self._own / place).iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def sweep_old(self, seconds: float) -> None:
        """Remove what has lain among the files being received for so long."""
        for entry in self.temporary().iterdir():
            if entry.stat().st_mtime < time.time() - seconds:
                entry.unlink(missing_ok=True)

    def free_mb(self) -> float:
        """Free space of the disk, in MiB."""
        return shutil.disk_usage(self.root).free / 2**20


def read_record(folder: Path) -> dict[str, Any]:
    """Content of job.json; empty where it is not there."""
    try:
        content = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def results_of(folder: Path) -> dict[str, Path]:
    """Names and files of a job's results."""
    found = [folder / "image.nii.gz", *sorted((folder / "results").glob("*"))]
    return {path.name: path for path in found if path.is_file() and not path.is_symlink()}


def flags_of(folder: Path) -> tuple[str, ...] | None:
    """Codes of the flags of a job's results; None where it has none that are whole, which a failed job may have too.

    They are those of the report, which all servers see and every older version wrote.
    """
    report = folder / "results" / "report.json"
    try:
        state = report.stat()
        return _flags(report, state.st_ino, state.st_mtime_ns)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=4096)
def _flags(report: Path, _inode: int, _changed_ns: int) -> tuple[str, ...]:
    """Read once, not whenever somebody lists jobs."""
    content = json.loads(report.read_text(encoding="utf-8"))
    return tuple(flag["code"] for flag in content.get("flags", ()))


def suffix_of(name: str) -> str:
    """Ending of an uploaded file's name that says how to read it; `.dcm` for any other."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), ".dcm")


def link_files(source: Path, target: Path) -> None:
    """Give a folder the files of another that it lacks, without copying them."""
    for path in source.iterdir():
        if not (target / path.name).exists():
            os.link(path, target / path.name)


def share_file(path: Path, other: Path) -> None:
    """Make a file another name of one that holds the same bytes: it takes no room, and is known as unchanged by it."""
    link = path.with_name(f"{path.name}-shared")
    try:
        if filecmp.cmp(path, other, shallow=False):
            os.link(other, link)
            link.replace(path)
    except OSError:  # there is none, or its job was just removed: the file stays one of its own
        return


def unchanged(folder: Path, earlier: Path) -> bool:
    """Whether every file of a folder is one of an earlier folder's too; see `share_file`."""
    pairs = [(path, earlier / path.name) for path in folder.iterdir()]
    return all(other.exists() and path.samefile(other) for path, other in pairs)


def _job(job_id: str, content: dict[str, Any]) -> Job:
    return Job(
        job_id,
        study=str(content.get("study", "")),
        model=str(content.get("model", "")),
        source=str(content.get("source", "")),
        caller=str(content.get("caller", "")),
        accepted=float(content.get("accepted", 0.0)),
    )


def _lock(path: Path) -> IO[str]:
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise MedsslError(
            f"{path.parents[2]} is in use by another medssl serve: stop it, or give this one a folder of its own",
            reason="data-in-use",
        ) from error
    return handle
