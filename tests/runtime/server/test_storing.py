"""Results on their way to an archive by C-STORE: who we say we are, over TLS where the way is not our own machine's."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_phantom import write_series

pytest.importorskip("pynetdicom", reason="the server needs the extra serve")

from pem_files import certificates
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import CTImageStorage
from serving import COMPANION, answering

from medssl.imaging.errors import MedsslError
from medssl.runtime.server.options import PacsOptions
from medssl.runtime.server.pacs import Caller, _tls, store_results

pytestmark = pytest.mark.usefixtures("sockets_of_pynetdicom")


@contextmanager
def _archive(context: ssl.SSLContext | None = None, status: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Port of an archive, and the AE titles of those who stored."""
    callers: list[str] = []

    def keep(event: Any) -> int:
        callers.append(str(event.assoc.requestor.ae_title).strip())
        return status

    entity = ApplicationEntity("ORTHANC")
    entity.add_supported_context(CTImageStorage)
    handlers: Any = [(evt.EVT_C_STORE, keep)]
    server = entity.start_server(("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=handlers)
    try:
        yield int(server.server_address[1]), callers
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pems")
    certificates(folder)
    return folder


def _objects(folder: Path) -> list[Path]:
    return sorted(write_series(folder, np.zeros((1, 4, 4), np.int16), **COMPANION).iterdir())


def test_the_archive_is_told_our_own_title(tmp_path: Path):
    with _archive() as (port, callers):
        store_results(_objects(tmp_path / "a"), PacsOptions(store="cstore", port=port), Caller("CLINIC7"))
    assert callers == ["CLINIC7"]


def test_over_tls_both_sides_show_certificates(tmp_path: Path, pems: Path):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pems / "ca.pem"))
    context.load_cert_chain(pems / "own.pem", pems / "own.key")
    context.verify_mode = ssl.CERT_REQUIRED
    us = Caller("MEDSSL", pems / "own.pem", pems / "own.key")
    objects = _objects(tmp_path / "a")
    with _archive(context) as (port, callers):
        pacs = {"store": "cstore", "host": "localhost", "port": port, "tries": 1, "certificate": pems / "ca.pem"}
        store_results(objects, PacsOptions(**pacs, tls=True), us)
    assert callers == ["MEDSSL"]
    checks = _tls(PacsOptions(**pacs, tls=True), us)
    assert (checks.verify_mode, checks.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("status", [0x0000, 0x0001, 0x0107, 0x0111, 0x0116, 0xB000, 0xB007])
def test_what_the_archive_took_or_holds_already_is_stored(tmp_path: Path, status: int):
    with _archive(status=status) as (port, callers):
        store_results(_objects(tmp_path / "a"), PacsOptions(store="cstore", port=port, tries=1), Caller("MEDSSL"))
    assert callers == ["MEDSSL"]


@pytest.mark.parametrize("status", [0x0110, 0x0117, 0x0122, 0x0124, 0xA700, 0xA900, 0xC000, 0x1234])
def test_what_the_archive_refused_is_not_taken_for_stored(tmp_path: Path, status: int):
    with _archive(status=status) as (port, _), pytest.raises(MedsslError, match=f"0x{status:04X}") as raised:
        store_results(_objects(tmp_path / "a"), PacsOptions(store="cstore", port=port, tries=1), Caller("MEDSSL"))
    assert raised.value.reason == "store-failed"


@contextmanager
def _dicomweb(status: int, content: bytes) -> Iterator[str]:
    """Address of an archive that answers every STOW request in this way."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    with answering(Handler) as address:
        yield address


def _failed(*reasons: int) -> bytes:
    items = [{"00081197": {"vr": "US", "Value": [reason]}} for reason in reasons]
    return json.dumps({"00081198": {"vr": "SQ", "Value": items}}).encode()


@pytest.mark.parametrize("status", [202, 409])
def test_objects_that_a_dicomweb_archive_holds_already_are_stored(tmp_path: Path, status: int):
    with _dicomweb(status, _failed(0x0111, 0x0111)) as address:
        store_results(_objects(tmp_path / "a"), PacsOptions(store="stow", dicomweb=address, tries=1), Caller("MEDSSL"))


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (202, _failed(0x0111, 0x0110), "refused 1 object"),
        (409, _failed(0x0110), "refused 1 object"),
        (409, b"{}", "HTTP 409"),
        (409, b"no", "not DICOM JSON"),
        (500, _failed(0x0111), "HTTP 500"),
    ],
)
def test_what_a_dicomweb_archive_refused_is_not_taken_for_stored(
    tmp_path: Path, status: int, content: bytes, told: str
):
    with _dicomweb(status, content) as address, pytest.raises(MedsslError, match=told):
        store_results(_objects(tmp_path / "a"), PacsOptions(store="stow", dicomweb=address, tries=1), Caller("MEDSSL"))
