"""A server that strangers could reach, or that would fail later, does not start, and says all that is wrong."""

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pem_files import certificates, openssl

from medssl.imaging.errors import ConfigError
from medssl.runtime.server.listening import cannot_listen
from medssl.runtime.server.options import (
    DicomOptions,
    HttpOptions,
    LimitOptions,
    PacsOptions,
    QueueOptions,
    ServeOptions,
    TlsOptions,
    check_options,
    is_loopback,
)


def _options(**groups: Any) -> ServeOptions:
    return replace(ServeOptions((), Path("data")), **groups)


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """own.pem with own.key, ca.pem, and what goes wrong: another key, an encrypted one, no PEM."""
    folder = tmp_path_factory.mktemp("pems")
    certificates(folder)
    openssl(folder, "genpkey", "-algorithm", "ed25519", "-out", "other.key")
    openssl(folder, "pkey", "-in", "own.key", "-aes256", "-passout", "pass:secret", "-out", "encrypted.key")
    (folder / "garbage.pem").write_text("garbage")
    for key in folder.glob("*.key"):
        key.chmod(0o600)
    (folder / "garbage.pem").chmod(0o600)
    return folder


def _tls(pems: Path, certificate: str = "own.pem", key: str = "own.key", client_ca: str = "") -> TlsOptions:
    return TlsOptions(pems / certificate, pems / key, pems / client_ca if client_ca else None)


def _file(path: Path, mode: int = 0o600) -> Path:
    path.write_text("x")
    path.chmod(mode)
    return path


def test_the_defaults_are_safe_and_start():
    options = _options()
    assert is_loopback(options.http.host)
    assert is_loopback(options.dicom.host)
    check_options(options)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),  # noqa: S104
     ("10.0.0.7", False), ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool):
    assert is_loopback(host) is expected


def test_beyond_loopback_tokens_and_a_certificate_are_due():
    with pytest.raises(ConfigError) as error:
        check_options(_options(http=HttpOptions(host="0.0.0.0")))  # noqa: S104
    assert len(error.value.problems) == 2
    assert "http.tokens" in error.value.problems[0]
    assert "tls.certificate" in error.value.problems[1]


def test_dicom_beyond_loopback_needs_client_certificates_and_known_callers(pems: Path):
    listening = DicomOptions(listen=True, host="10.0.0.7")
    with pytest.raises(ConfigError) as error:
        check_options(_options(dicom=listening, tls=_tls(pems)))
    assert len(error.value.problems) == 2
    assert "client_ca" in error.value.problems[0]
    assert "dicom.callers" in error.value.problems[1]
    safe = replace(listening, callers=("PACS",))
    check_options(_options(dicom=safe, tls=_tls(pems, client_ca="ca.pem")))
    check_options(_options(dicom=replace(listening, listen=False)))


def test_with_tokens_and_a_certificate_any_address_is_allowed(tmp_path: Path, pems: Path):
    tokens = _file(tmp_path / "tokens")
    http = HttpOptions(host="0.0.0.0", tokens=tokens)  # noqa: S104
    check_options(_options(http=http, tls=_tls(pems)))
    tokens.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        check_options(_options(http=http, tls=_tls(pems)))


@pytest.mark.parametrize(
    ("groups", "part"),
    [
        ({"pacs": PacsOptions(store="stow")}, "give pacs.dicomweb"),
        ({"pacs": PacsOptions(dicomweb="http://pacs.example.org/dicom-web")}, "in the clear"),
        ({"pacs": PacsOptions(dicomweb="ftp://127.0.0.1/")}, "a http or https URL is due"),
        ({"pacs": PacsOptions(store="cstore", host="10.0.0.7")}, "give pacs.tls"),
        ({"public_key": Path("absent.pem")}, "public_key = absent.pem does not exist"),
        ({"pacs": PacsOptions(user="medssl")}, "belong together"),
        ({"tls": TlsOptions(certificate=Path("absent.pem"))}, "belong together"),
        ({"tls": TlsOptions(certificate=Path("absent.pem"))}, "absent.pem does not exist"),
        ({"queue": QueueOptions(workers=0)}, "queue.workers = 0"),
        ({"http": HttpOptions(port=65536)}, "http.port = 65536: ports go up to 65535"),
        ({"dicom": DicomOptions(port=104_104)}, "dicom.port = 104104: ports go up to 65535"),
        ({"limits": LimitOptions(upload_mb=-1)}, "limits.upload_mb = -1"),
        ({"dicom": DicomOptions(ae_title="A" * 17)}, "1 to 16"),
        ({"http": HttpOptions(tokens=Path("absent"))}, "http.tokens = absent does not exist"),
    ],
)
def test_mistakes_are_told_before_a_port_is_opened(groups: dict[str, Any], part: str):
    with pytest.raises(ConfigError, match=part.replace("(", "\\(")):
        check_options(_options(**groups))


def test_the_private_key_is_for_its_owner_alone_and_an_archive_elsewhere_is_reached_over_tls(
    tmp_path: Path, pems: Path
):
    key = tmp_path / "own.key"
    key.write_bytes((pems / "own.key").read_bytes())
    key.chmod(0o640)
    pacs = PacsOptions(store="cstore", host="10.0.0.7", tls=True)
    with pytest.raises(ConfigError, match=r"tls\.key = .* can be read by others"):
        check_options(_options(tls=TlsOptions(pems / "own.pem", key), pacs=pacs))
    key.chmod(0o600)
    check_options(_options(tls=TlsOptions(pems / "own.pem", key), pacs=pacs))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"certificate": "garbage.pem"}, ["tls.certificate = .*garbage.pem holds no certificate"]),
        ({"key": "garbage.pem"}, ["tls.key = .*garbage.pem holds no private key"]),
        ({"key": "other.key"}, ["tls.key = .*other.key is not the key of tls.certificate = .*own.pem"]),
        ({"key": "ca.key"}, ["tls.key = .*ca.key is not the key of tls.certificate = .*own.pem"]),
        ({"key": "encrypted.key"}, ["tls.key = .*encrypted.key is encrypted"]),
        ({"client_ca": "garbage.pem"}, ["tls.client_ca = .*garbage.pem holds no certificate"]),
        ({"client_ca": "own.key"}, ["tls.client_ca = .*own.key holds no certificate"]),
        (
            {"certificate": "garbage.pem", "key": "own.key", "client_ca": "garbage.pem"},
            ["tls.certificate = ", "tls.client_ca = "],
        ),
    ],
)
def test_certificates_are_loaded_when_the_options_are_checked_and_nobody_is_asked_for_a_pass_phrase(
    pems: Path, files: dict[str, str], told: list[str]
):
    check_options(_options(tls=_tls(pems, client_ca="ca.pem")))
    with pytest.raises(ConfigError) as error:
        check_options(_options(tls=_tls(pems, **files)))
    assert len(error.value.problems) == len(told)
    for problem, expected in zip(error.value.problems, told, strict=True):
        assert re.match(expected, problem)


def test_the_archives_authority_and_one_that_nobody_would_be_asked_by_are_told(pems: Path):
    with pytest.raises(ConfigError, match=r"pacs\.certificate = .*garbage\.pem holds no certificate"):
        check_options(_options(pacs=PacsOptions(certificate=pems / "garbage.pem")))
    with pytest.raises(ConfigError, match=r"tls\.client_ca asks callers for certificates over TLS alone"):
        check_options(_options(tls=TlsOptions(client_ca=pems / "ca.pem")))


@pytest.mark.parametrize("group", ["http", "dicom"])
def test_a_host_that_is_none_is_told_by_its_option(group: str):
    groups = {"http": HttpOptions(host="nowhere.invalid"), "dicom": DicomOptions(listen=True, host="nowhere.invalid")}
    with pytest.raises(ConfigError, match=rf"{group}\.host = 'nowhere\.invalid' is no address"):
        check_options(_options(**{group: groups[group]}))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EADDRINUSE, "choose another dicom.port"),
        (errno.EACCES, "dicom.port below 1024"),
        (errno.EADDRNOTAVAIL, "dicom.host is no address of this machine"),
        (errno.EINVAL, "check dicom.host and dicom.port"),
    ],
)
def test_why_a_port_cannot_be_had_names_the_option_to_change(number: int, remedy: str):
    error = OSError(number, os.strerror(number))
    assert remedy in cannot_listen("dicom", "10.0.0.7", 104, error).message


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        check_options(_options(pacs=PacsOptions(store="stow", user="x"), queue=QueueOptions(timeout_s=0)))
    assert len(error.value.problems) == 3
