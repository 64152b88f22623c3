"""How many trainings of a study ran at a time while one did, kept beside its folder: what their times are worth."""

import json
from pathlib import Path

from medssl.imaging.files import write_json


def ran_at_a_time(folder: Path) -> int:
    """The most that ran at a time while the training in a folder did, itself included; 0 if that was not kept."""
    record = _record(folder)
    return int(json.loads(record.read_text(encoding="utf-8"))["jobs"]) if record.is_file() else 0


def keep_jobs(folder: Path, jobs: int) -> int:
    """Keep how many run at a time now, where it is more than before; returns the most."""
    most = max(ran_at_a_time(folder), jobs)
    write_json(_record(folder), {"jobs": most})
    return most


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-jobs.json")
