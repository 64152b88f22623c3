"""The server as it is started: TLS and tokens, and not a word about a patient where it does not belong."""

import gc
import signal
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import yaml
from dicom_phantom import ramp, write_series

pytest.importorskip("fastapi", reason="the server needs the extra serve")

import requests
from pem_files import certificates
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import CTImageStorage
from serving import COMPANION, files_of, wait_for

from medssl.__main__ import main
from medssl.runtime.server.audit import verify
from medssl.runtime.server.secret import Secret

_PATIENT = {"PatientName": "Doe^Jane", "PatientID": "ZZ4711", "StudyInstanceUID": "1.2.826.55.4711"}
_SECRETS = ("Doe", "Jane", "ZZ4711", "1.2.826.55", "Brains")


@dataclass(frozen=True)
class Site:
    """A server with its files."""

    folder: Path
    url: str
    dicom: int
    token: str

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.request(
            method, f"{self.url}{path}", headers=headers, verify=str(self.folder / "ca.pem"), timeout=60, **more
        )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def site(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    certificates(folder)
    ports = [_free_port(), _free_port()]
    options = {
        "http": {"port": ports[0], "tokens": str(folder / "tokens")},
        "tls": {name: str(folder / file) for name, file in
                (("certificate", "own.pem"), ("key", "own.key"), ("client_ca", "ca.pem"))},
        "dicom": {"listen": True, "port": ports[1], "quiet_s": 1.0, "released_quiet_s": 0.2},
        "queue": {"threads": 1},
        "limits": {"free_disk_mb": 0},
    }  # fmt: skip
    (folder / "serve.yaml").write_text(yaml.safe_dump(options))
    program = [sys.executable, "-m", "medssl"]
    made = subprocess.run(
        [*program, "token", "alice", "--file", str(folder / "tokens")], check=True, capture_output=True, text=True
    )
    command = [*program, "serve", str(tiny), "--data", str(folder / "data"), "--config", str(folder / "serve.yaml")]
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            running = Site(folder, f"https://127.0.0.1:{ports[0]}", ports[1], made.stdout.split()[-1])
            wait_for(lambda: _up(running, process))
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 143
            assert b'"action": "stop"' in next((folder / "data").glob("audit-*")).read_bytes().splitlines()[-1]


def _up(site: Site, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, (site.folder / "output.txt").read_text()
    try:
        return site.ask("GET", "/health").ok
    except requests.ConnectionError:
        return False


def _send(site: Site, datasets: list[pydicom.Dataset], *, client: bool) -> bool:
    context = ssl.create_default_context(cafile=str(site.folder / "ca.pem"))
    if client:
        context.load_cert_chain(site.folder / "own.pem", site.folder / "own.key")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on the phantom's values, and of a socket that pynetdicom leaves open
        sent = _associate(site, datasets, context)
        gc.collect()
    return sent


def _associate(site: Site, datasets: list[pydicom.Dataset], context: ssl.SSLContext) -> bool:
    entity = ApplicationEntity("SCANNER")
    entity.acse_timeout = entity.dimse_timeout = 20
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", site.dicom, ae_title="MEDSSL", tls_args=(context, "localhost"))
    if not association.is_established:
        return False
    answers = [association.send_c_store(dataset) for dataset in datasets]
    association.release()
    return all("Status" in answer and answer.Status == 0 for answer in answers)


def test_without_a_token_or_without_tls_nobody_gets_in(site: Site):
    bare = requests.get(f"{site.url}/api/jobs", verify=str(site.folder / "ca.pem"), timeout=30)
    assert bare.status_code == 401
    with pytest.raises(requests.ConnectionError):
        requests.get(site.url.replace("https", "http") + "/api/jobs", timeout=30)
    assert site.ask("GET", "/api/jobs").status_code == 200


def test_dicom_callers_without_a_certificate_are_turned_away(site: Site, tmp_path: Path):
    series = write_series(tmp_path / "a", (ramp(2) % 30).astype(np.int16), **COMPANION)
    datasets = [pydicom.dcmread(path) for path in series.iterdir()]
    assert not _send(site, datasets, client=False)
    assert _send(site, datasets, client=True)


def test_logs_ledger_audit_and_file_names_say_nothing_of_a_patient(site: Site, tmp_path: Path):
    pixels = (ramp(4) % 30).astype(np.int16)
    one = write_series(tmp_path / "a", pixels, series="1.2.826.55.1", **COMPANION, **_PATIENT)
    two = write_series(
        tmp_path / "b", pixels, series="1.2.826.55.2", SeriesDescription="Brains", **COMPANION, **_PATIENT
    )
    assert _send(site, [pydicom.dcmread(path) for path in one.iterdir()], client=True)
    mixed = [("files", (f"Doe^Jane_{path.parent.name}{path.name}", path.read_bytes())) for path in
             (*one.iterdir(), *two.iterdir())]  # fmt: skip
    assert site.ask("POST", "/api/jobs", files=mixed).status_code == 202
    name, content = files_of(two)[0]
    assert site.ask("POST", "/api/jobs", files=[("files", (name, content[:-40]))]).status_code == 202
    site.ask("POST", "/api/dicomweb/pull", json={"study_uid": "1.2.826.55.4711"})
    site.ask("GET", "/api/jobs/Doe^Jane/results/ZZ4711")

    def ended() -> Any:
        jobs = site.ask("GET", "/api/jobs").json()
        under_way = {job["state"] for job in jobs} & {"queued", "running"}
        return {"", "several-series", "truncated"} <= {job["reason"] for job in jobs} and not under_way and jobs

    jobs = wait_for(ended)
    done = next(job for job in jobs if not job["reason"] and job["source"] == "cstore")
    found = {item["name"] for item in site.ask("GET", f"/api/jobs/{done['id']}/results").json()}
    assert "seg.dcm" in found
    assert site.ask("GET", f"/api/jobs/{done['id']}/results/seg.dcm").ok
    data = site.folder / "data"
    audit = next(data.glob("audit-*.jsonl"))
    told = {
        "console": (site.folder / "output.txt").read_bytes(),
        "audit": audit.read_bytes(),
        "ledger": b"".join(path.read_bytes() for path in data.glob("jobs.db*")),
        "jobs": site.ask("GET", "/api/jobs").content,
        "metrics": site.ask("GET", "/metrics").content,
        "names": "\n".join(str(path.relative_to(data)) for path in data.rglob("*")).encode(),
    }
    for where, text in told.items():
        assert [secret for secret in _SECRETS if secret.encode() in text] == [], where
    assert b'"who": "alice", "action": "fetch"' in told["audit"]
    assert verify(audit, Secret(data / "secret.key"))[0] > 5
    assert site.token.encode() not in b"".join(told.values())
    assert data.stat().st_mode & 0o077 == 0


def test_a_server_that_strangers_could_reach_does_not_start(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["serve", str(tiny), "--data", str(tmp_path / "data"), "--http.host", "0.0.0.0"]) == 2  # noqa: S104
    error = capsys.readouterr().err
    assert "http.tokens" in error
    assert "tls.certificate" in error
    assert not (tmp_path / "data").exists()
