"""Which file is which channel is said by its sender, whatever order files come in; nothing is guessed."""

import gzip
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_phantom import ramp, write_series
from tiny_bundle import write_bundle

pytest.importorskip("fastapi", reason="the server needs the extra serve")

import requests
from serving import COMPANION, ended, files_of, get, options_for, served

from medssl.runtime.server.channels import channel_of
from medssl.runtime.server.options import DicomOptions

_CHANNELS = ("T1", "T1 Gd", "flair")


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("brains")
    bundles = (
        write_bundle(folder / "brain", name="brain", channels=_CHANNELS),
        write_bundle(folder / "plain", name="plain"),
        write_bundle(folder / "twins", name="twins", channels=("MR", "MR")),
    )
    with served(options_for(bundles[0], folder / "data", bundles=bundles, dicom=DicomOptions())) as running:
        yield running


def _scan(folder: Path, value: float) -> bytes:
    """A NIfTI file of one value."""
    path = folder / "x.nii.gz"
    image = nib.Nifti1Image(np.full((6, 6, 6), value, np.float32), np.eye(4))
    image.set_sform(np.eye(4), code="scanner")
    nib.save(image, path)
    return path.read_bytes()


def _post(service: Any, names: Sequence[str], contents: Sequence[bytes], model: str = "brain", **fields: str) -> Any:
    parts = [("files", part) for part in zip(names, contents, strict=True)]
    return requests.post(f"{service.url}/api/jobs", files=parts, data={"model": model, **fields}, timeout=60)


def _zip(names: Sequence[str], contents: Sequence[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in zip(names, contents, strict=True):
            archive.writestr(name, content)
    return buffer.getvalue()


def _read_as(service: Any, job: dict[str, Any]) -> tuple[float, list[tuple[str, int]]]:
    """Value of the first channel as the network got it, and what the report says of the files."""
    assert job["state"] == "done", job
    raw = get(service, f"/api/jobs/{job['id']}/results/image.nii.gz").content
    image = nib.Nifti1Image.from_bytes(gzip.decompress(raw))
    report = get(service, f"/api/jobs/{job['id']}/results/report.json").json()
    return float(image.get_fdata().mean()), [(row["channel"], row["file"]) for row in report["image"]["files"]]


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (["Doe_T1_Gd.nii.gz", "Doe_FLAIR.nii.gz", "Doe_t1.nii.gz"], ""),
        (["Doe_0001.nii.gz", "Doe_0002.nii.gz", "Doe_0000.nii.gz"], ""),
        (["Doe_0001.nii.gz", "Doe-flair.nii.gz", "Doe.T1.nii.gz"], ""),
        (["Doe.nii.gz", "Doe.nii.gz", "Doe.nii.gz"], "T1 Gd, flair,T1"),
        (["Doe_0000.nii.gz", "Doe_0001.nii.gz", "Doe_0002.nii.gz"], "T1 Gd,flair,T1"),  # what is said counts
    ],
)
def test_files_go_to_the_channels_that_are_said_in_any_order_and_their_names_nowhere(
    brains: Any, tmp_path: Path, names: list[str], channels: str, caplog: pytest.LogCaptureFixture
):
    contents = [_scan(tmp_path, value) for value in (2.0, 3.0, 1.0)]
    job = ended(brains, _post(brains, names, contents, **({"channels": channels} if channels else {})))
    assert _read_as(brains, job) == (1.0, [("T1", 3), ("T1 Gd", 1), ("flair", 2)])
    kept = [path.name for path in sorted((brains.options.data / "jobs" / job["id"] / "input").iterdir())]
    assert kept == ["000001.c1.nii.gz", "000002.c2.nii.gz", "000003.c0.nii.gz"]
    told = get(brains, f"/api/jobs/{job['id']}/results/report.json").text + json.dumps(job) + caplog.text
    assert "Doe" not in told + brains.desk.audit.path.read_text()


def test_names_in_a_zip_file_say_the_channels_too(brains: Any, tmp_path: Path):
    contents = [_scan(tmp_path, value) for value in (2.0, 3.0, 1.0)]
    zipped = _zip(["Doe/b_T1 Gd.nii.gz", "Doe/a_flair.nii.gz", "Doe/c_T1.nii.gz"], contents)
    job = ended(brains, _post(brains, ["study.zip"], [zipped]))
    assert _read_as(brains, job) == (1.0, [("T1", 3), ("T1 Gd", 2), ("flair", 1)])
    job = ended(brains, _post(brains, ["study.zip"], [_zip(["Doe1.nii.gz", "Doe2.nii.gz", "Doe3.nii.gz"], contents)]))
    assert (job["state"], job["reason"]) == ("failed", "channel-unnamed")
    assert "T1, T1 Gd, flair" in job["message"]
    assert "Doe" not in job["message"]


@pytest.mark.parametrize(
    ("names", "model", "channels"),
    [
        (["a.nii.gz", "b.nii.gz", "c.nii.gz"], "brain", ""),
        (["a_T1.nii.gz", "b_T1.nii.gz", "c_flair.nii.gz"], "brain", ""),
        (["a_T1.nii.gz", "b_T1Gd.nii.gz", "c_flair.nii.gz"], "brain", ""),
        (["a_0000.nii.gz", "a_0001.nii.gz", "a_0003.nii.gz"], "brain", ""),
        (["T1_0001.nii.gz", "a_0000.nii.gz", "a_0002.nii.gz"], "brain", ""),
        (["a_T1.nii.gz", "a_flair.nii.gz"], "brain", ""),
        (["a.nii.gz", "b.nii.gz", "c.nii.gz"], "brain", "T1,flair"),
        (["a.nii.gz", "b.nii.gz", "c.nii.gz"], "brain", "T1,T1,flair"),
        (["a.nii.gz", "b.nii.gz", "c.nii.gz"], "brain", "T1,T2,flair"),
        (["a.nii.gz"], "brain", "T1"),
        (["a.nii.gz", "b.nii.gz"], "twins", "MR,MR"),
        (["a_mr.nii.gz", "b_mr.nii.gz"], "twins", ""),
        (["a.nii.gz"], "plain", "MR"),
    ],
)
def test_what_is_not_said_of_every_file_once_is_refused_with_the_channels(
    brains: Any, names: list[str], model: str, channels: str
):
    answer = _post(brains, names, [b"x"] * len(names), model, **({"channels": channels} if channels else {}))
    assert (answer.status_code, answer.json()["reason"]) == (422, "channel-unnamed")
    channels_of_model = {"brain": "T1, T1 Gd, flair", "twins": "MR, MR", "plain": "CT"}[model]
    assert f"channel(s): {channels_of_model}." in answer.json()["message"]
    assert list((brains.options.data / "servers/alone/incoming").iterdir()) == []


def test_channels_of_the_same_name_are_told_by_their_numbers(brains: Any, tmp_path: Path):
    contents = [_scan(tmp_path, value) for value in (2.0, 1.0)]
    job = ended(brains, _post(brains, ["a_0001.nii.gz", "a_0000.nii.gz"], contents, "twins"))
    assert _read_as(brains, job) == (1.0, [("MR", 2), ("MR", 1)])


def test_where_there_is_nothing_to_tell_apart_nothing_must_be_said(brains: Any, tmp_path: Path):
    for fields in ({}, {"channels": "CT"}):
        job = ended(brains, _post(brains, ["a.nii.gz"], [_scan(tmp_path, 1.0)], "plain", **fields))
        assert _read_as(brains, job) == (1.0, [])
    alone = ended(brains, _post(brains, ["a.nii.gz"], [_scan(tmp_path, 1.0)]))
    assert (alone["state"], alone["reason"]) == ("failed", "channels")


@pytest.mark.parametrize("form", ["files", "zip"])
def test_channels_of_dicom_files_are_not_named(brains: Any, tmp_path: Path, form: str):
    files = files_of(write_series(tmp_path / "series", (ramp(4) % 30).astype(np.int16), **COMPANION))
    names, contents = [name for name, _ in files], [content for _, content in files]
    given = (names, contents) if form == "files" else (["a.zip"], [_zip(names, contents)])
    answer = _post(brains, *given, channels="T1,T1 Gd,flair")
    assert (answer.status_code, answer.json()["reason"]) == (400, "bad-upload")
    assert "leave it out" in answer.json()["message"]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("sub-01_T1.nii.gz", 0), ("sub-01_t1-gd.nii.gz", 1), ("C:\\scans\\Flair.nii", 2), ("T1/x_0002.nrrd", 2),
        ("x_0001.png", 1), ("x_00001.png", None), ("T1w.nii.gz", None), ("T1_flair.nii.gz", None), ("x.nii.gz", None),
        ("T1_0000.nii.gz", 0), ("T1_0001.nii.gz", None),
    ],
)  # fmt: skip
def test_a_name_says_one_channel_by_a_whole_word_or_a_number(name: str, number: int | None):
    assert channel_of(name, _CHANNELS) == number
