"""Reasons not to use a result are told with the job, whoever asks and whenever."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server needs the extra serve")

from serving import ended, get, options_for, post, served, write_scan

from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.runtime.server.folders import flags_of


def _coarse(path: Path) -> bytes:
    """Voxels of three times the size that the bundle's training images had."""
    values = np.full((1, 8, 8, 8), 15, np.float32)
    write_nifti(Volume(values, Geometry(np.diag([3.0, 3.0, 9.0, 1]), (8, 8, 8))), path)
    return path.read_bytes()


def test_the_flags_of_a_result_are_told_with_its_job_after_a_restart_too(tiny: Path, tmp_path: Path):
    """The ledger holds none: one of an older version is as good."""
    scan = write_scan(tmp_path / "a.nii.gz").read_bytes()
    options = options_for(tiny, tmp_path / "data")
    with served(options) as service:
        given = [("coarse.nii.gz", _coarse(tmp_path / "coarse.nii.gz")), ("a.nii.gz", scan), ("b.nii.gz", scan[:100])]
        jobs = [ended(service, post(service, [file])) for file in given]
        assert [job["flags"] for job in jobs] == [["voxel-size"], [], []]
        assert [job["results"] for job in jobs] == [True, True, False]
        assert 'medssl_jobs_flagged_total{flag="voxel-size",model="tiny"} 1.0' in get(service, "/metrics").text
    with served(options) as service:
        listed = {job["id"]: job["flags"] for job in get(service, "/api/jobs").json()}
        assert listed == {jobs[0]["id"]: ["voxel-size"], jobs[1]["id"]: [], jobs[2]["id"]: []}
        assert get(service, f"/api/jobs/{jobs[0]['id']}").json()["flags"] == ["voxel-size"]


def test_flags_follow_the_report_and_a_damaged_one_is_no_result(tmp_path: Path):
    report = tmp_path / "results" / "report.json"
    report.parent.mkdir()
    assert flags_of(tmp_path) is None
    for number, codes in enumerate((["voxel-size", "damaged-files"], [])):
        report.write_text(json.dumps({"flags": [{"code": code, "text": "t"} for code in codes]}))
        os.utime(report, ns=(number, number))
        assert flags_of(tmp_path) == tuple(codes)
    report.write_text("{")
    assert flags_of(tmp_path) is None
