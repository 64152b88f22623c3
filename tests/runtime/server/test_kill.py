"""Nothing that was accepted is lost, nothing is stored twice or of a part of a study, whenever the server is killed."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra serve")

from killing import kill_run


def test_25_kills_lose_nothing_and_double_nothing(tiny: Path, tmp_path: Path):
    """A bounded run; `tests/benchmarks/server_kills.py` does a thousand."""
    fate = kill_run(tmp_path, tiny, kills=25, pause_s=0.4)
    assert {name: fate[name] for name in ("lost", "failed", "doubled", "partial", "unaudited") if fate[name]} == {}
    assert fate["uploads"] + fate["studies"] > 10
    assert fate["interrupted"] > 0  # some kills met a job at work
    assert fate["incomplete"] > 0  # some studies were broken off by their sender or by a kill
