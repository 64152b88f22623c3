"""Nothing that was accepted is lost, torn, stored twice or stored in part, whenever the server is killed."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra serve")

from kill_fate import Fate, count
from killing import kill_run
from serving import ended, options_for, post, served, write_scan


def test_25_kills_lose_nothing_and_double_nothing(tmp_path: Path):
    """A bounded run; `tests/benchmarks/server_kills.py` does a thousand."""
    fate = kill_run(tmp_path, kills=25, pause_s=0.4)
    assert fate.faults == {}
    assert fate.uploads > 3
    assert fate.studies > 3
    assert fate.interrupted > 0  # some kills met a job at work
    assert fate.stages.get("predicting", 0) > 0  # in its network
    assert fate.stages.keys() & {"writing", "storing"}  # and after it
    assert fate.incomplete > 0  # some studies were broken off by their sender or by a kill


def test_results_that_are_missing_torn_or_changed_are_counted(tiny: Path, tmp_path: Path):
    """The judge of the kills is judged: of four jobs that are done three get other results."""
    scan = write_scan(tmp_path / "a.nii.gz", (6, 6, 6)).read_bytes()
    with served(options_for(tiny, tmp_path / "data")) as service:
        ids = [ended(service, post(service, [("a.nii.gz", scan)]))["id"] for _ in range(4)]
    _, torn, missing, changed = (tmp_path / "data" / "jobs" / job_id / "results" for job_id in ids)
    seg = (torn / "seg.nii.gz").read_bytes()
    (torn / "seg.nii.gz").write_bytes(seg[: len(seg) // 2])
    (missing / "report.json").unlink()
    (changed / "seg.nii.gz").write_bytes((changed.parent / "image.nii.gz").read_bytes())
    fate = Fate(0)
    count(fate, tmp_path / "data", [*ids, "0" * 32], {"1.2.3": 2}, {}, SimpleNamespace(objects={}, times={}))
    assert sorted(line.split(":")[0] for line in fate.broken) == sorted(ids[1:])
    assert fate.faults == {"lost": ["0" * 32, "1.2.3"], "broken": fate.broken}
