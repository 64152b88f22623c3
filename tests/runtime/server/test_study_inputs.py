"""Whole studies as archives and discs give them: several series, pictures of a viewer, files that are no images."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_phantom import ramp, write_series
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs the extra serve")

import requests
from serving import COMPANION, ended, files_of, get, options_for, post, served, write_scan
from tiny_bundle import write_bundle

from medssl.imaging.errors import ImageError
from medssl.imaging.series import SeriesRule
from medssl.runtime.bundle import Bundle
from medssl.runtime.server.inputs import read_input
from medssl.runtime.server.options import DicomOptions, LimitOptions, PacsOptions

_ONE, _TWO = "1.2.3.77.1", "1.2.3.77.2"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of two series of 4 and 5 slices, as files of one folder."""
    folder = tmp_path / "study"
    for uid, slices in ((_ONE, 4), (_TWO, 5)):
        part = write_series(tmp_path / uid, (ramp(slices) % 30).astype(np.int16), series=uid, **COMPANION)
        folder.mkdir(exist_ok=True)
        for path in part.iterdir():
            path.rename(folder / f"{slices}{path.name}")
    return folder


def _job(folder: Path, source: Path) -> Path:
    (folder / "input").mkdir(parents=True)
    for path in source.iterdir():
        shutil.copy(path, folder / "input")
    return folder


def _disc(folder: Path, images: Path, *more: str) -> Path:
    """A zip file as archives export for a disc: images without endings, a picture and a page of the viewer."""
    picture = folder / "logo.png"
    Image.new("L", (4, 4)).save(picture)
    (folder / "disc").mkdir()
    with zipfile.ZipFile(folder / "disc" / "disc.zip", "w") as archive:
        for number, path in enumerate(sorted(images.iterdir())):
            archive.write(path, f"DICOM/IM{number}")
        archive.write(picture, "VIEWER/logo.png")
        for name in ("VIEWER/index.html", "AUTORUN.INF", *more):
            archive.writestr(name, "no image")
    return folder / "disc"


def test_a_named_series_of_a_study_is_taken(service: Any, study: Path):
    answers = {}
    for series in ("", _ONE, _TWO, "1.2.3.77.9", "../../etc"):
        parts, url = [("files", file) for file in files_of(study)], f"{service.url}/api/jobs"
        answers[series] = requests.post(url, files=parts, data={"series": series}, timeout=60)
    refused = answers.pop("../../etc")
    assert (refused.status_code, refused.json()["reason"]) == (400, "bad-uid")
    jobs = {series: ended(service, answer) for series, answer in answers.items()}
    assert jobs[""]["reason"] == "several-series"
    assert "in the field `series`, or" in jobs[""]["message"]
    assert "--series" in jobs[""]["message"]
    assert jobs["1.2.3.77.9"]["reason"] == "no-images"
    for series, slices in ((_ONE, 4), (_TWO, 5)):
        report = get(service, f"/api/jobs/{jobs[series]['id']}/results/report.json").json()
        assert report["image"]["shape"][2] == slices


def test_a_series_is_named_for_bundles_without_rules_and_for_dicom_alone(tiny: Path, tmp_path: Path, study: Path):
    spec, limits = Bundle.open(tiny).spec, LimitOptions(free_disk_mb=0)
    scan = tmp_path / "scan"
    scan.mkdir()
    write_scan(scan / "a.nii.gz")
    with pytest.raises(ImageError, match="no DICOM files") as error:
        read_input(_job(tmp_path / "nifti", scan), spec, limits, series=_ONE)
    assert error.value.reason == "no-such-series"
    (study / "damaged.dcm").write_bytes((study / "4000.dcm").read_bytes()[:300])
    with pytest.raises(ImageError, match="send that series alone") as error:
        read_input(_job(tmp_path / "damaged", study), spec, limits, series=_TWO)
    assert error.value.reason == "truncated"


def test_an_operator_is_told_of_bundles_that_cannot_choose_among_series(
    tiny: Path, tmp_path: Path, study: Path, caplog: pytest.LogCaptureFixture
):
    with_rules = write_bundle(tmp_path / "ruled", name="ruled", series=(SeriesRule(modality="CT"),))
    options = options_for(tiny, tmp_path / "data", bundles=(tiny, with_rules), dicom=DicomOptions(model="tiny", port=0))
    told = {
        "rest alone": (DicomOptions(), PacsOptions(), []),
        "listener": (DicomOptions(listen=True, model="tiny", port=0), PacsOptions(), ["tiny"]),
        "listener of the other": (DicomOptions(listen=True, model="ruled", port=0), PacsOptions(), []),
        "archive": (DicomOptions(), PacsOptions(dicomweb="http://127.0.0.1:1/dicom-web"), ["tiny"]),
    }
    with served(replace(options, dicom=told["listener"][0])) as service:
        assert "tiny has no rules for series" in caplog.text
        assert {m["name"]: m["chooses_series"] for m in get(service, "/api/models").json()} == {
            "tiny": False,
            "ruled": True,
        }
        for dicom, pacs, names in told.values():
            service.desk.options = replace(options, dicom=dicom, pacs=pacs)
            assert [text.split(" ", 1)[0] for text in service.desk.cautions()] == names
        answer = requests.post(
            f"{service.url}/api/jobs",
            files=[("files", file) for file in files_of(study)],
            data={"model": "ruled", "series": _ONE},
            timeout=60,
        )
        assert (answer.status_code, answer.json()["reason"]) == (400, "bad-upload")


def test_pictures_and_pages_of_a_viewer_are_left_out_of_a_disc_and_it_is_told(service: Any, tmp_path: Path):
    images = write_series(tmp_path / "series", (ramp(4) % 30).astype(np.int16), **COMPANION)
    job = ended(service, post(service, files_of(_disc(tmp_path, images))))
    assert job["state"] == "done", job
    report = json.loads(get(service, f"/api/jobs/{job['id']}/results/report.json").text)
    told = [warning for warning in report["warnings"] if warning.startswith("left out")]
    assert told == ["left out: 2 file(s), not-an-image", "left out: 1 file(s), picture"]


@pytest.mark.parametrize("ruled", [False, True])
def test_pictures_sent_beside_a_study_are_left_out_and_kept_with_the_job(tmp_path: Path, ruled: bool):
    rules = (SeriesRule(modality="CT"),) if ruled else ()
    spec = Bundle.open(write_bundle(tmp_path / "bundle", series=rules)).spec
    images = write_series(tmp_path / "series", (ramp(4) % 30).astype(np.int16), **COMPANION)
    Image.new("L", (4, 4)).save(images / "logo.png")
    job = _job(tmp_path / "job", images)
    volume = read_input(job, spec, LimitOptions(free_disk_mb=0))
    assert volume.array.shape[-1] == 4
    assert volume.source.notes[-1] == "left out: 1 file(s), picture"
    assert (job / "input" / "logo.png").exists()


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nrrd"])
def test_volumes_of_another_format_beside_a_study_are_still_refused(tiny: Path, tmp_path: Path, name: str):
    images = write_series(tmp_path / "series", (ramp(4) % 30).astype(np.int16), **COMPANION)
    with pytest.raises(ImageError, match="came together") as error:
        read_input(
            _job(tmp_path / "job", _disc(tmp_path, images, name)), Bundle.open(tiny).spec, LimitOptions(free_disk_mb=0)
        )
    assert error.value.reason == "mixed-upload"
