"""What is made of a study on the server: every format that can be named is written, or it is told why not."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, write_series

pytest.importorskip("fastapi", reason="the server needs the extra serve")

from serving import COMPANION, ended, files_of, get, options_for, post, served, write_scan

from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.files import write_json
from medssl.runtime import shares
from medssl.runtime.predictor import Predictor
from medssl.runtime.results import FORMATS, FRACTIONAL
from medssl.runtime.server import work
from medssl.runtime.server.options import PacsOptions, ResultOptions, check_options
from medssl.runtime.server.pool import worker_settings

_FILES = {
    "nifti": "seg.nii.gz", "dicom-seg": "seg.dcm", "dicom-seg-labelmap": "seg_labelmap.dcm",
    FRACTIONAL: "seg_fractional.dcm", "rtstruct": "rtstruct.dcm", "dicom-sr": "sr.dcm", "dicom-sc": "sc.dcm",
    "png": "overlay.png", "json": "report.json",
}  # fmt: skip


def _series(folder: Path) -> Path:
    return write_series(folder, (ramp(4) % 30).astype(np.int16), **COMPANION)


def test_every_format_is_written_fractional_among_them(tiny: Path, tmp_path: Path):
    options = options_for(tiny, tmp_path / "data", results=ResultOptions(formats=tuple(FORMATS)))
    with served(options) as service:
        job = ended(service, post(service, files_of(_series(tmp_path / "series"))))
        assert job["state"] == "done", job
        names = {item["name"] for item in get(service, f"/api/jobs/{job['id']}/results").json()}
        assert names == {*(_FILES[name] for name in FORMATS), "image.nii.gz"}
        stored = pydicom.dcmread(service.desk.results(job["id"])["seg_fractional.dcm"])
        assert stored.SegmentationType == "FRACTIONAL"
        report = get(service, f"/api/jobs/{job['id']}/results/report.json").text
        assert "was not written" not in report
        scan = write_scan(tmp_path / "a.nii.gz")  # of which no probabilities are asked for
        assert ended(service, post(service, [(scan.name, scan.read_bytes())]))["state"] == "done"


@pytest.mark.parametrize("store", ["none", "stow"])
def test_where_probabilities_would_be_too_many_the_rest_is_written_and_it_is_told(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
):
    monkeypatch.setattr(shares, "_MOST", 1)
    folder = tmp_path / "job"
    folder.mkdir()
    _series(folder / "input")
    write_json(folder / "job.json", {"model": "tiny"})
    options = options_for(
        tiny, tmp_path / "data", pacs=PacsOptions(store=store), results=ResultOptions(formats=(FRACTIONAL, "json"))
    )
    nothing_stored = pytest.raises(ImageError, match="nothing is in the archive") if store != "none" else nullcontext()
    for _ in range(2):  # a second try, after a kill, says the same as the first
        with nothing_stored:
            work.work(folder, {"tiny": Predictor(tiny)}, worker_settings(options, [tiny]), lambda *_: None)
    assert {path.name for path in (folder / "results").iterdir()} == {"report.json"}
    assert "dicom-seg-fractional was not written" in (folder / "results" / "report.json").read_text()


@pytest.mark.parametrize(
    ("formats", "store", "told"),
    [
        (("nifti", "dicom_seg", "dicomsr"), "none", ["results.formats: 'dicom_seg', 'dicomsr'; choose from nifti, "]),
        ((), "none", ["results.formats: empty; choose from nifti, "]),
        (("nifti", "json"), "cstore", ["pacs.store = cstore: an archive takes DICOM alone"]),
        (("sr",), "cstore", ["results.formats: 'sr'", "pacs.store = cstore"]),
        (("dicom-sr",), "cstore", []),
        (("nifti", "json"), "none", []),
    ],
)
def test_formats_are_checked_with_all_other_options(
    tiny: Path, tmp_path: Path, formats: tuple[str, ...], store: Any, told: list[str]
):
    groups = {"results": ResultOptions(formats=formats), "pacs": PacsOptions(store=store, user="x")}
    with pytest.raises(ConfigError) as error:
        check_options(options_for(tiny, tmp_path / "data", **groups))
    problems = sorted(error.value.problems, key=lambda text: not text.startswith("pacs.user"))
    assert problems[0].startswith("pacs.user and pacs.password")
    assert len(problems) == 1 + len(told)
    assert all(problem.startswith(start) for problem, start in zip(problems[1:], told, strict=True))
