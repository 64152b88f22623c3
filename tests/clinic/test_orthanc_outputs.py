"""A real PACS (Orthanc) takes every DICOM result by C-STORE and gives it back by DICOMweb as it was."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from dicom_phantom import ramp, write_series
from tiny_bundle import write_bundle

from medssl.__main__ import main

pytestmark = pytest.mark.clinic

_FORMATS = "dicom-seg,dicom-seg-labelmap,dicom-seg-fractional,rtstruct,dicom-sr,dicom-sc,json"
_FILES = ("seg.dcm", "seg_labelmap.dcm", "seg_fractional.dcm", "rtstruct.dcm", "sr.dcm", "sc.dcm")
_COMPANION = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101"}
# DCMTK's, not the one of the same name that pynetdicom installs
_STORESCU = shutil.which("storescu", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
_ORTHANC = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")  # where Debian puts it
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Orthanc:
    """An Orthanc of its own, on loopback, with its data below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.http, self.dicom = _free_port(), _free_port()
        folder.mkdir()
        config = {
            "Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
            "HttpPort": self.http, "DicomPort": self.dicom, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "UnknownSopClassAccepted": True, "Plugins": [str(_PLUGIN)],
            "DicomWeb": {"Enable": True}, "DicomAlwaysAllowStore": True,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(config))
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [str(_ORTHANC), str(folder / "orthanc.json")], stdout=self.log, stderr=subprocess.STDOUT
        )
        for _ in range(100):
            try:
                self.get("/system")
                return
            except OSError:
                time.sleep(0.2)
        self.stop()
        raise RuntimeError((folder / "log").read_text())

    def get(self, path: str) -> object:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=60) as answer:
            return json.loads(answer.read())

    def file(self, instance: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/instances/{instance}/file", timeout=60) as answer:
            return answer.read()

    def store(self, *files: Path) -> None:
        """C-STORE by DCMTK; an answer other than success fails."""
        offer = ["-xf", str(_profile(files[0].parent)), "Default"]
        done = subprocess.run(
            [str(_STORESCU), "-v", "-aec", "ORTHANC", *offer, "127.0.0.1", str(self.dicom), *map(str, files)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        assert (done.stderr + done.stdout).count("Received Store Response (Success)") == len(files)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        self.log.close()


def _profile(folder: Path) -> Path:
    """storescu proposes what this says: its own list of storage classes ends before LABELMAP."""
    classes = ("CTImageStorage", "SegmentationStorage", "1.2.840.10008.5.1.4.1.1.66.7", "RTStructureSetStorage",
               "Comprehensive3DSRStorage", "SecondaryCaptureImageStorage")  # fmt: skip
    lines = ["[[TransferSyntaxes]]", "[Plain]", "TransferSyntax1 = LittleEndianExplicit",
             "TransferSyntax2 = LittleEndianImplicit", "[[PresentationContexts]]", "[All]"]  # fmt: skip
    lines += [f"PresentationContext{k} = {name}\\Plain" for k, name in enumerate(classes, start=1)]
    lines += ["[[Profiles]]", "[Default]", "PresentationContexts = All", ""]
    path = folder / "storescu.cfg"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Orthanc]:
    if _ORTHANC is None or _STORESCU is None or not _PLUGIN.exists():
        pytest.fail("Orthanc, its DICOMweb plugin or DCMTK is missing: apt-get install orthanc orthanc-dicomweb dcmtk")
    running = _Orthanc(tmp_path_factory.mktemp("pacs") / "orthanc")
    yield running
    running.stop()


def _predict(folder: Path, series: Path, formats: str = _FORMATS) -> Path:
    bundle = folder / "bundle"
    if not bundle.exists():
        write_bundle(bundle)
    out = folder / f"out{len(list(folder.iterdir()))}"
    assert main(["predict", str(bundle), str(series), "--out", str(out), "--format", formats]) == 0
    return next(p for p in out.iterdir() if p.is_dir())


@pytest.mark.parametrize(("study", "orientation", "step"), [
    ("1.2.3", (1, 0, 0, 0, 1, 0), (0.0, 0.0, 2.5)),
    ("1.2.5", (0.8, 0.6, 0.0, -0.6, 0.8, 0.0), (0.3, -0.4, -2.5)),
], ids=["ascending", "oblique and tilted"])  # fmt: skip
def test_every_result_is_stored_found_by_qido_and_given_back_unchanged(
    orthanc: _Orthanc, tmp_path: Path, study: str, orientation: tuple[float, ...], step: tuple[float, ...]
):
    places = [tuple(k * part for part in step) for k in range(4)]
    series = write_series(
        tmp_path / "series", (ramp(4) % 40).astype("int16"), positions=places, orientation=orientation,
        series=f"{study}.1", StudyInstanceUID=study, **_COMPANION,
    )  # fmt: skip
    orthanc.store(*sorted(series.glob("*.dcm")))
    results = _predict(tmp_path, series)
    orthanc.store(*(results / name for name in _FILES))
    found = orthanc.get(f"/dicom-web/studies/{study}/series")
    modalities = sorted(item["00080060"]["Value"][0] for item in found)
    assert modalities == sorted(["CT", "SEG", "SEG", "SEG", "RTSTRUCT", "SR", "OT"])
    for name in _FILES:
        own = pydicom.dcmread(results / name)
        (instance,) = orthanc.get(f"/dicom-web/studies/{study}/instances?SOPInstanceUID={own.SOPInstanceUID}")
        assert instance["00080016"]["Value"][0] == own.SOPClassUID
        (key,) = [
            i["ID"]
            for i in orthanc.get("/instances?expand")
            if i["MainDicomTags"]["SOPInstanceUID"] == own.SOPInstanceUID
        ]
        (tmp_path / "back.dcm").write_bytes(orthanc.file(key))
        back = pydicom.dcmread(tmp_path / "back.dcm")
        assert back == own, name


def test_a_result_made_again_replaces_itself(orthanc: _Orthanc, tmp_path: Path):
    series = write_series(tmp_path / "series", (ramp(4) % 40).astype("int16"), StudyInstanceUID="1.2.77", **_COMPANION)
    for _ in range(2):
        results = _predict(tmp_path, series)
        orthanc.store(*(results / name for name in _FILES))
    assert len(orthanc.get("/dicom-web/studies/1.2.77/instances")) == len(_FILES)


def test_results_of_a_real_series(orthanc: _Orthanc, real_data: Path, tmp_path: Path):
    formats = _FORMATS.replace("rtstruct,", "")  # the toy bundle's mask of a real scan is noise
    results = _predict(tmp_path, real_data / "dicom_ct_seg_dcmqi" / "ct-3slice", formats)
    files = [results / name for name in _FILES if name != "rtstruct.dcm"]
    orthanc.store(*files)
    study = pydicom.dcmread(results / "sr.dcm").StudyInstanceUID
    assert len(orthanc.get(f"/dicom-web/studies/{study}/instances")) == len(files)
