"""A server whose networks are computed by another: one of the KServe v2 protocol, and, slow, tritonserver."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra serve")
pytest.importorskip("tritonclient.http", reason="the extra triton is not installed")

from serving import ended, get, options_for, post, served, write_scan

from medssl.__main__ import main
from medssl.imaging.errors import MedsslError
from medssl.runtime.server.options import QueueOptions


def test_studies_are_computed_at_the_endpoint(tiny: Path, tmp_path: Path, serve: Callable):
    assert main(["triton", str(tiny), "--out", str(tmp_path / "repository")]) == 0
    scan = write_scan(tmp_path / "a.nii.gz")
    with serve(tmp_path / "repository") as url:
        options = options_for(tiny, tmp_path / "data", queue=QueueOptions(endpoint=url))
        with served(options) as service:
            job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
            report = get(service, f"/api/jobs/{job['id']}/results/report.json").json()
    assert job["state"] == "done"
    assert report["providers"] == [f"Triton at {url}"]


def test_an_endpoint_that_is_not_there_stops_the_start(tiny: Path, tmp_path: Path):
    options = options_for(tiny, tmp_path / "data", queue=QueueOptions(endpoint="http://127.0.0.1:9"))
    with pytest.raises(MedsslError, match="is it running, and is the model loaded"), served(options):
        pass
