"""What `medssl serve` may be told; every rule about it is checked before a port is opened."""

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from medssl.imaging.errors import ConfigError
from medssl.runtime.server.certificates import authority_problems, own_problems


@dataclass(frozen=True)
class HttpOptions:
    """The REST interface and the viewer page."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but this machine's own loopback needs `tokens` and a certificate."""

    port: int = 8050
    """TCP port; 0 takes a free one. Orthanc, which often is on the same machine, has 8042."""

    names: tuple[str, ...] = ()
    """Further host names under which the server is called; others are refused, so that a web page elsewhere cannot
    reach it through a name of its own."""

    tokens: Path | None = None
    """File of `NAME SHA256` lines, made by `medssl token`; without it nobody has to show a token."""

    requests_per_minute: int = 1200
    """Requests that one token, or one address where there are no tokens, may make in a minute."""


@dataclass(frozen=True)
class TlsOptions:
    """The server's own certificate, for REST and DICOM alike."""

    certificate: Path | None = None
    """PEM file with the certificate and its chain."""

    key: Path | None = None
    """PEM file with the private key."""

    client_ca: Path | None = None
    """PEM file of the authority whose certificates DICOM callers must show; needed for DICOM beyond loopback."""


@dataclass(frozen=True)
class DicomOptions:
    """The C-STORE listener."""

    listen: bool = False
    """Accept studies by C-STORE."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs TLS with client certificates, and `callers`."""

    port: int = 11112
    """TCP port; 0 takes a free one."""

    ae_title: str = "MEDSSL"
    """Application entity title that callers must name."""

    callers: tuple[str, ...] = ()
    """Calling AE titles that are let in; empty lets in all."""

    model: str = ""
    """Model for what arrives; empty takes the only one there is."""

    quiet_s: float = 30.0
    """A study is complete when nothing of it came for so many seconds."""

    released_quiet_s: float = 30.0
    """The same, once every association that sent it was released; a sender that opens one a series may pause between
    them, and what comes later makes a second result."""

    aborted: Literal["refuse", "accept"] = "refuse"
    """A study of which an association was aborted or lost: `refuse` reports it failed (`incomplete-study`) until its
    sender sends again, `accept` computes what came; for senders that never release their associations."""


@dataclass(frozen=True)
class PacsOptions:
    """The archive that studies are pulled from and results are stored to."""

    dicomweb: str = ""
    """URL of its DICOMweb service, for pulling and for `store: stow`."""

    user: str = ""
    """User name for DICOMweb."""

    password: Path | None = None
    """File with the password, readable by its owner alone."""

    certificate: Path | None = None
    """PEM file of the authority that signed the archive's certificate; None takes the machine's own list."""

    check_complete: bool = True
    """Whether a study that was pulled is compared with the archive's own list of its objects (QIDO-RS); one that lacks
    some is not computed. False for an archive that has no such list."""

    store: Literal["none", "stow", "cstore"] = "none"
    """How DICOM results are stored there."""

    host: str = "127.0.0.1"
    """Address for C-STORE."""

    port: int = 4242
    """Port for C-STORE."""

    ae_title: str = "ORTHANC"
    """AE title of the archive for C-STORE; ours is `dicom.ae_title`."""

    tls: bool = False
    """C-STORE over TLS, needed beyond loopback: the archive shows a certificate of `pacs.certificate`'s authority for
    `pacs.host`, and is shown `tls.certificate` where there is one."""

    tries: int = 3
    """How often storing is tried, with a pause that doubles from a second on."""

    retry_h: float = 24.0
    """Results that were not taken then are offered again after ten minutes, and each time after as long again as the
    job is old, until it is so many hours old; their job is `store-failed` meanwhile. 0: not."""


@dataclass(frozen=True)
class QueueOptions:
    """Jobs, and who computes them."""

    url: str = ""
    """Database of jobs where several machines serve one DATA folder, for instance
    `postgresql://host/medssl?sslmode=verify-full&sslrootcert=/etc/medssl/ca.pem`; empty keeps an SQLite file in DATA.
    What follows the question mark is the driver's, which without `sslmode` falls back to a connection in the clear."""

    node: str = ""
    """Name of this machine among several that share `url`, the same at every start; empty takes the host name."""

    workers: int = 1
    """Studies computed at once, each in a process of its own."""

    threads: int = 0
    """Threads of a worker; 0 shares the processors among the workers."""

    device: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"] = "auto"
    """What computes, as for `medssl predict`."""

    endpoint: str = ""
    """URL of a Triton server with the bundles' repositories (`medssl triton`) that computes instead of this machine;
    https beyond loopback, by an authority that the machine trusts (or `SSL_CERT_FILE`)."""

    memory_mb: int = 2000
    """What image, masks and scores of a study may take in a worker, as for `medssl predict`."""

    waiting: int = 100
    """Jobs that may wait; beyond, uploads get 429 and C-STORE gets out-of-resources."""

    timeout_s: float = 3600.0
    """A job that takes longer is stopped and reported failed."""

    attempts: int = 3
    """A job during which the whole server died so often is reported failed, not tried again."""


@dataclass(frozen=True)
class LimitOptions:
    """How much one request or study may ask for."""

    upload_mb: float = 4096.0
    """Bytes of an upload or of a study received by DICOM, in MiB."""

    files: int = 20_000
    """Files of an upload, of a zip file, or of a study."""

    unpacked_mb: float = 16384.0
    """Bytes a zip file may unpack to, and bytes of voxels that the headers of a study may promise, in MiB."""

    frames: int = 20_000
    """Image planes of a study."""

    worker_memory_mb: float = 0.0
    """Address space of a worker, in MiB; 0 sets no limit."""

    free_disk_mb: float = 1024.0
    """Nothing is accepted while DATA has less free, in MiB."""

    keep_hours: float = 24.0
    """Inputs and results are removed so long after a job ended."""


@dataclass(frozen=True)
class ResultOptions:
    """What is made of a study."""

    formats: tuple[str, ...] = ("nifti", "dicom-seg", "dicom-sr", "png", "json")
    """Formats of `medssl predict`; those that need DICOM are left out for other images, those that need a mask for a
    bundle that classifies."""

    resample_irregular: bool = False
    """Resample DICOM series with uneven slices instead of refusing them. DICOM-SEG and RTSTRUCT, whose planes are those
    of the files, are then left out, which the report says; the structured report is still stored."""


@dataclass(frozen=True)
class ServeOptions:
    """Everything a server needs to know.

    Args:
        bundles: Bundle folders or .zip files.
        data: Folder of jobs, audit log and keys.
        http: REST.
        tls: Certificates.
        dicom: C-STORE listener.
        pacs: Archive.
        queue: Jobs.
        limits: Caps.
        results: Formats.
        public_key: Public key (PEM) that every bundle must be signed with; None checks no signature.
        new_audit_log: Code of a damaged audit log that the operator has seen, to begin a new one.
    """

    bundles: tuple[Path, ...]
    data: Path
    http: HttpOptions = field(default_factory=HttpOptions)
    tls: TlsOptions = field(default_factory=TlsOptions)
    dicom: DicomOptions = field(default_factory=DicomOptions)
    pacs: PacsOptions = field(default_factory=PacsOptions)
    queue: QueueOptions = field(default_factory=QueueOptions)
    limits: LimitOptions = field(default_factory=LimitOptions)
    results: ResultOptions = field(default_factory=ResultOptions)
    public_key: Path | None = None
    new_audit_log: str = ""


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_options(options: ServeOptions) -> None:
    """Refuse what is unsafe or makes no sense.

    Raises:
        ConfigError: Every mistake, all at once.
    """
    rules = (_numbers, _addresses, _exposure, _files, _certificates, _archive, _results)
    problems = [problem for rule in rules for problem in rule(options)]
    if problems:
        raise ConfigError(problems)


_MAY_BE_ZERO = ("port", "threads", "worker_memory_mb", "free_disk_mb", "retry_h")


def _numbers(options: ServeOptions) -> Iterator[str]:
    for group in ("http", "dicom", "pacs", "queue", "limits"):
        part = getattr(options, group)
        for item in fields(part):
            value = getattr(part, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if value < 0 or (value == 0 and item.name not in _MAY_BE_ZERO):
                yield f"{group}.{item.name} = {value}: must be positive"
            if item.name == "port" and value > 65535:
                yield f"{group}.port = {value}: ports go up to 65535"
    title = options.dicom.ae_title
    if not 1 <= len(title.strip()) <= 16 or not title.isascii():
        yield f"dicom.ae_title = {title!r}: 1 to 16 ASCII characters are due"


def _addresses(options: ServeOptions) -> Iterator[str]:
    hosts = {"http.host": options.http.host} | ({"dicom.host": options.dicom.host} if options.dicom.listen else {})
    for name, host in hosts.items():
        try:
            socket.getaddrinfo(host or None, 0)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "no host name"
            yield f"{name} = {host!r} is no address ({why}): give one of this machine"


def _exposure(options: ServeOptions) -> Iterator[str]:
    """Beyond loopback nobody without a secret gets in, and nobody on the way reads along."""
    tls = options.tls
    paired = tls.certificate is not None and tls.key is not None
    if (tls.certificate is None) != (tls.key is None):
        yield "tls.certificate and tls.key belong together: give both or neither"
    if tls.client_ca is not None and not paired:
        yield "tls.client_ca asks callers for certificates over TLS alone: give tls.certificate and tls.key too"
    if not is_loopback(options.http.host):
        where = f"http.host = {options.http.host} can be reached from other machines"
        if options.http.tokens is None:
            yield f"{where}: give http.tokens (medssl token NAME --file FILE makes one), or listen on 127.0.0.1"
        if not paired:
            yield f"{where}: give tls.certificate and tls.key, or listen on 127.0.0.1"
    if options.dicom.listen and not is_loopback(options.dicom.host):
        where = f"dicom.host = {options.dicom.host} can be reached from other machines, and DICOM knows no tokens"
        if not paired or tls.client_ca is None:
            yield (
                f"{where}: give tls.certificate, tls.key and tls.client_ca, so that callers show a certificate; an "
                "archive without TLS reaches 127.0.0.1 through a tunnel"
            )
        if not options.dicom.callers:
            yield f"{where}: name the calling AE titles in dicom.callers"


def _files(options: ServeOptions) -> Iterator[str]:
    for name, path in _paths(options):
        if not path.exists():
            yield f"{name} = {path} does not exist"
    secrets = {
        "http.tokens": options.http.tokens, "pacs.password": options.pacs.password, "tls.key": options.tls.key
    }  # fmt: skip
    for name, secret in secrets.items():
        if secret is not None and secret.exists() and secret.stat().st_mode & 0o077:
            yield f"{name} = {secret} can be read by others: chmod 600 {secret}"


def _certificates(options: ServeOptions) -> Iterator[str]:
    tls, authority = options.tls, options.pacs.certificate
    if tls.certificate is not None and tls.key is not None and tls.certificate.exists() and tls.key.exists():
        yield from own_problems(tls.certificate, tls.key)
    for name, path in (("tls.client_ca", tls.client_ca), ("pacs.certificate", authority)):
        if path is not None and path.exists():
            yield from authority_problems(name, path)


def _paths(part: Any, prefix: str = "") -> Iterator[tuple[str, Path]]:
    for item in fields(part):
        value = getattr(part, item.name)
        if is_dataclass(value):
            yield from _paths(value, f"{item.name}.")
        elif isinstance(value, Path) and item.name != "data":
            yield f"{prefix}{item.name}", value


def _archive(options: ServeOptions) -> Iterator[str]:
    pacs = options.pacs
    if pacs.store == "stow" and not pacs.dicomweb:
        yield "pacs.store = stow: give pacs.dicomweb, the URL to store to"
    if pacs.dicomweb and not pacs.dicomweb.startswith(("http://", "https://")):
        yield f"pacs.dicomweb = {pacs.dicomweb!r}: a http or https URL is due"
    if pacs.dicomweb.startswith("http://") and not is_loopback(_host(pacs.dicomweb)):
        yield f"pacs.dicomweb = {pacs.dicomweb!r}: patients' data would cross the network in the clear; use https"
    if pacs.store == "cstore" and not pacs.tls and not is_loopback(pacs.host):
        yield (
            f"pacs.host = {pacs.host}: patients' data would cross the network in the clear; give pacs.tls: true and "
            "pacs.certificate, or reach the archive at 127.0.0.1 through a tunnel"
        )
    if bool(pacs.user) != (pacs.password is not None):
        yield "pacs.user and pacs.password belong together: give both or neither"


def _results(options: ServeOptions) -> Iterator[str]:
    from medssl.runtime.results import DICOM_FORMATS, FORMATS  # noqa: PLC0415 (slow to import)

    formats = options.results.formats
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        yield f"results.formats: {', '.join(map(repr, unknown)) or 'empty'}; choose from {', '.join(FORMATS)}"
    if options.pacs.store != "none" and not DICOM_FORMATS & set(formats):
        yield (
            f"pacs.store = {options.pacs.store}: an archive takes DICOM alone, and results.formats names none of "
            f"{', '.join(name for name in FORMATS if name in DICOM_FORMATS)}; name one, or leave pacs.store out"
        )


def _host(url: str) -> str:
    return url.split("//", 1)[-1].split("/", 1)[0].rsplit("@", 1)[-1].rsplit(":", 1)[0].strip("[]")
