"""A real Orthanc on free ports of loopback, with a configuration and a folder of its own."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from serving import wait_for

USER, PASSWORD = "medssl", "clinic-test"
_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")


@dataclass(frozen=True)
class Orthanc:
    """Where it listens."""

    http: int
    dicom: int
    log: Path

    @property
    def dicomweb(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"

    def qido(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Answer of a search, as DICOM JSON."""
        answer = requests.get(
            f"{self.dicomweb}/{path}",
            params=query,
            auth=(USER, PASSWORD),
            headers={"accept": "application/dicom+json"},
            timeout=30,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else []

    def modalities(self, study: str) -> dict[str, int]:
        """Number of instances a modality in a study."""
        found: dict[str, int] = {}
        for series in self.qido(f"studies/{study}/series", includefield="00201209"):
            kind = series["00080060"]["Value"][0]
            number = len(self.qido(f"studies/{study}/series/{series['0020000E']['Value'][0]}/instances"))
            found[kind] = found.get(kind, 0) + number
        return found


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc; stopped at the end by its process id."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")  # where Debian puts it
    plugins = [path for root in _PLUGINS for path in Path(root).glob("**/libOrthancDicomWeb.so")]
    if program is None or not plugins:
        pytest.skip("orthanc or orthanc-dicomweb is not installed: make test-clinic does it")
    folder.mkdir()
    ports = [_free_port(), _free_port()]
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "medssl clinic test",
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "HttpPort": ports[0],
                "DicomPort": ports[1],
                "DicomAet": "ORTHANC",
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": True,
                "RegisteredUsers": {USER: PASSWORD},
                "DicomAlwaysAllowStore": True,
                "DicomAlwaysAllowEcho": True,
                "Plugins": [str(plugins[0])],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            }
        )
    )
    log = folder / "orthanc.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=stream, stderr=stream)
        try:
            running = Orthanc(*ports, log)
            wait_for(lambda: process.poll() is None and _answers(running))
            yield running
        finally:
            process.terminate()
            process.wait(timeout=60)


def _answers(running: Orthanc) -> bool:
    try:
        running.qido("studies")
    except requests.RequestException:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
