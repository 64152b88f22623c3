"""What became of studies whose server was killed: in its data base, its folders, its audit logs and in the archive."""

import contextlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import Comprehensive3DSRStorage, SegmentationStorage

from medssl.imaging.errors import MedsslError
from medssl.imaging.files import sha256
from medssl.imaging.readers.open import read_volume
from medssl.runtime.server.secret import Secret

_DUE = ("report.json", "seg.nii.gz", "image.nii.gz")
_DUE_OF_DICOM = (*_DUE, "seg.dcm", "sr.dcm")
_CUTS = (10, 20)
"""Where the tiny bundle's classes begin."""


@dataclass
class Fate:
    """What became of everything that the server said it had accepted.

    Args:
        kills: Times that the server was killed.
        uploads: Accepted by REST.
        studies: Sent whole by C-STORE.
        lost: Not in the ledger, not ended there, or not in the archive.
        failed: Reported failed, but for broken-off studies.
        broken: Done, with results that are missing, torn, wrong, or not those of the audit log.
        doubled: Twice in the archive.
        partial: In the archive, of a part of the study.
        unaudited: Without its lines in the audit log.
        incomplete: Broken off by their sender or by a kill, and told so.
        settled_late: Those of them that were then sent whole, over a new association that was released, too late to
            settle it: by the order in which the server saw ends, or after the study had been quiet for `quiet_s`.
        interrupted: Jobs that a kill met at work.
        stages: What these were at.
        stored_again: Times that the archive got an object that it had.
        seconds: What the run took.
    """

    kills: int
    uploads: int = 0
    studies: int = 0
    lost: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    unaudited: list[str] = field(default_factory=list)
    incomplete: int = 0
    settled_late: list[str] = field(default_factory=list)
    interrupted: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    stored_again: int = 0
    seconds: float = 0.0

    @property
    def faults(self) -> dict[str, list[str]]:
        """What must not be, where it is."""
        names = ("lost", "failed", "broken", "doubled", "partial", "unaudited")
        return {name: found for name in names if (found := getattr(self, name))}


class Archive:
    """A PACS that remembers which objects came, how often, and which images they refer to."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[str, str, frozenset[str]]] = {}
        self.times: dict[str, int] = defaultdict(int)
        entity = ApplicationEntity("ARCHIVE")
        for kind in (SegmentationStorage, Comprehensive3DSRStorage):
            entity.add_supported_context(kind)
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep)])
        self.port = int(self._server.server_address[1])

    def _keep(self, event: Any) -> int:
        dataset = event.dataset
        if dataset.SOPClassUID == SegmentationStorage:
            sources = list(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence)
        else:  # a report names the images and the segmentation
            series = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
            sources = [item for part in series for item in part.ReferencedSOPSequence]
        refers = frozenset(str(item.ReferencedSOPInstanceUID) for item in sources)
        about = (str(dataset.StudyInstanceUID), str(dataset.SOPClassUID), refers)
        self.objects[str(dataset.SOPInstanceUID)] = about
        self.times[str(dataset.SOPInstanceUID)] += 1
        return 0

    def close(self) -> None:
        self._server.shutdown()


def at_work(data: Path) -> dict[tuple[str, int], str]:
    """What the tries of jobs are at that the ledger has as running, by id and number of the try."""
    try:
        return {(row[0], row[6]): row[2] for row in _rows(data) if row[1] == "running"}
    except sqlite3.OperationalError:  # it was not made yet
        return {}


def count(
    fate: Fate,
    data: Path,
    uploads: list[str],
    studies: Mapping[str, int],
    begun: Mapping[str, frozenset[str]],
    archive: Archive,
) -> None:
    """Compare what was accepted with what the server left.

    Args:
        fate: Filled in.
        data: DATA of the server, which has stopped.
        uploads: Ids of jobs that it accepted by REST.
        studies: That it took by C-STORE, whole, with the number of associations that this took.
        begun: Studies that were sent, whole or in part, and the objects of the whole ones.
        archive: Where it stored.
    """
    rows = _rows(data)
    ids = {row[0] for row in rows}
    fate.uploads, fate.studies = len(uploads), len(studies)
    fate.lost += [job_id for job_id in uploads if job_id not in ids]
    fate.lost += [row[0] for row in rows if row[1] not in ("done", "failed")]
    fate.failed += [f"{row[0]} {row[3]}" for row in rows if row[1] == "failed" and row[3] != "incomplete-study"]
    fate.incomplete = sum(row[3] == "incomplete-study" for row in rows)
    results = defaultdict(list)
    for uid, (study, kind, refers) in archive.objects.items():
        results[study, kind].append(uid)
        if not begun[study] <= refers:
            fate.partial.append(f"{study}: {uid}")
    for study in studies:
        if (study, SegmentationStorage) not in results:
            told = [row[3] for row in rows if row[5] == Secret(data / "secret.key").name(study)]
            late = studies[study] > 1 and bool(told) and set(told) == {"incomplete-study"}
            (fate.settled_late if late else fate.lost).append(study)
    fate.doubled += [f"{study}: {uids}" for (study, _), uids in results.items() if len(uids) > 1]
    fate.stored_again = sum(times - 1 for times in archive.times.values())
    lines = [json.loads(line) for log in data.glob("audit-*.jsonl") for line in log.read_text().splitlines()]
    lines.sort(key=lambda line: float(line["time"]))
    fate.interrupted = sum(line.get("interrupted", 0) for line in lines)
    accepted = {line["job"] for line in lines if line["action"] == "accept"}
    ends = {line["job"]: line for line in lines if line["action"] in ("done", "fail")}
    fate.unaudited = sorted(ids - accepted | ids - set(ends))
    for job_id, state, _, _, source, *_ in rows:
        if state == "done" and job_id in ends:
            due = _DUE if source == "rest" else _DUE_OF_DICOM
            fate.broken += [f"{job_id}: {why}" for why in _complaints(data / "jobs" / job_id, due, ends[job_id])]


def _complaints(folder: Path, due: tuple[str, ...], end: Mapping[str, Any]) -> list[str]:
    """What is wrong with the results of a job that is done."""
    found = {path.name: path for path in (folder / "image.nii.gz", *(folder / "results").glob("*")) if path.is_file()}
    missing = [f"{name} is missing" for name in due if name not in found]
    if missing:
        return missing
    if end["action"] != "done" or end["results"] != {name: sha256(path) for name, path in found.items()}:
        return ["the results are not those of the last line of the audit log"]
    try:
        told = json.loads(found["report.json"].read_text(encoding="utf-8"))
        mask, image = read_volume(found["seg.nii.gz"]), read_volume(found["image.nii.gz"])
    except (MedsslError, ValueError) as error:
        return [f"the results cannot be read: {error}"]
    if told["bundle_sha256"] != end["bundle_sha256"]:
        return ["the report is another bundle's"]
    return [] if np.array_equal(mask.array, np.digitize(image.array, _CUTS)) else ["the mask is not the image's"]


def _rows(data: Path) -> list[Any]:
    """Entries of the ledger; a reader does not clear up its log, which after a kill is the next server's part."""
    with contextlib.closing(sqlite3.connect(f"file:{data / 'jobs.db'}?mode=ro", uri=True)) as database:
        return database.execute("select id, state, stage, reason, source, study, attempts from medssl_jobs").fetchall()
