"""Results on their way to an archive by C-STORE: who we say we are, over TLS where the way is not our own machine's."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
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
from serving import COMPANION

from medssl.runtime.server.options import PacsOptions
from medssl.runtime.server.pacs import Caller, _tls, store_results

pytestmark = pytest.mark.usefixtures("sockets_of_pynetdicom")


@contextmanager
def _archive(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[str]]]:
    """Port of an archive, and the AE titles of those who stored."""
    callers: list[str] = []

    def keep(event: Any) -> int:
        callers.append(str(event.assoc.requestor.ae_title).strip())
        return 0

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
