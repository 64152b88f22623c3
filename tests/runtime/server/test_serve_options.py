"""A server that strangers could reach, or that would fail later, does not start, and says all that is wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medssl.imaging.errors import ConfigError
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


def test_dicom_beyond_loopback_needs_client_certificates_and_known_callers(tmp_path: Path):
    pem = _file(tmp_path / "a.pem")
    listening = DicomOptions(listen=True, host="10.0.0.7")
    with pytest.raises(ConfigError) as error:
        check_options(_options(dicom=listening, tls=TlsOptions(certificate=pem, key=pem)))
    assert len(error.value.problems) == 2
    assert "client_ca" in error.value.problems[0]
    assert "dicom.callers" in error.value.problems[1]
    safe = replace(listening, callers=("PACS",))
    check_options(_options(dicom=safe, tls=TlsOptions(certificate=pem, key=pem, client_ca=pem)))
    check_options(_options(dicom=replace(listening, listen=False)))


def test_with_tokens_and_a_certificate_any_address_is_allowed(tmp_path: Path):
    pem, tokens = _file(tmp_path / "a.pem"), _file(tmp_path / "tokens")
    http = HttpOptions(host="0.0.0.0", tokens=tokens)  # noqa: S104
    check_options(_options(http=http, tls=TlsOptions(certificate=pem, key=pem)))
    tokens.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        check_options(_options(http=http, tls=TlsOptions(certificate=pem, key=pem)))


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
        ({"limits": LimitOptions(upload_mb=-1)}, "limits.upload_mb = -1"),
        ({"dicom": DicomOptions(ae_title="A" * 17)}, "1 to 16"),
        ({"http": HttpOptions(tokens=Path("absent"))}, "http.tokens = absent does not exist"),
    ],
)
def test_mistakes_are_told_before_a_port_is_opened(groups: dict[str, Any], part: str):
    with pytest.raises(ConfigError, match=part.replace("(", "\\(")):
        check_options(_options(**groups))


def test_the_private_key_is_for_its_owner_alone_and_an_archive_elsewhere_is_reached_over_tls(tmp_path: Path):
    pem, key = _file(tmp_path / "a.pem"), _file(tmp_path / "a.key", 0o640)
    pacs = PacsOptions(store="cstore", host="10.0.0.7", tls=True)
    with pytest.raises(ConfigError, match=r"tls\.key = .* can be read by others"):
        check_options(_options(tls=TlsOptions(certificate=pem, key=key), pacs=pacs))
    key.chmod(0o600)
    check_options(_options(tls=TlsOptions(certificate=pem, key=key), pacs=pacs))


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        check_options(_options(pacs=PacsOptions(store="stow", user="x"), queue=QueueOptions(timeout_s=0)))
    assert len(error.value.problems) == 3
