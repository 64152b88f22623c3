"""Serve bundles in a clinic: REST, DICOM C-STORE, DICOMweb and a viewer page; needs no torch."""

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.commands.console import say
from medssl.runtime.server.options import (
    DicomOptions,
    HttpOptions,
    LimitOptions,
    PacsOptions,
    QueueOptions,
    ResultOptions,
    ServeOptions,
    TlsOptions,
)

if TYPE_CHECKING:
    from medssl.runtime.server.service import Service

POSITIONAL = ("bundles",)


def serve(
    bundles: list[Path],
    data: Path,
    http: HttpOptions = HttpOptions(),
    tls: TlsOptions = TlsOptions(),
    dicom: DicomOptions = DicomOptions(),
    pacs: PacsOptions = PacsOptions(),
    queue: QueueOptions = QueueOptions(),
    limits: LimitOptions = LimitOptions(),
    results: ResultOptions = ResultOptions(),
    public_key: Path | None = None,
    new_audit_log: str = "",
) -> None:
    """Serve bundles until Ctrl-C or SIGTERM; jobs that were accepted are finished after the next start.

    Not a medical device: for research only.

    Args:
        bundles: Bundle folders or .zip files made by `medssl export`, of different names.
        data: Folder of jobs, results, audit log and keys; holds patients' data while jobs are kept.
        http: REST and the viewer page.
        tls: Certificates, needed beyond loopback.
        dicom: C-STORE listener.
        pacs: Archive to pull from and to store to.
        queue: Jobs and workers.
        limits: Caps.
        results: What is made of a study.
        public_key: Public key (PEM) that every bundle must be signed with, checked before anything is computed; without
            it signatures are not checked.
        new_audit_log: Code that the server gave when it refused a damaged audit log: the log is set aside and a new one
            begun, which says so; it fits that damage alone.

    Raises:
        ConfigError: Mistakes in the options, unsafe ones among them.
        MedsslError: A bundle must not be used, or DATA is in use, the audit log is damaged.
    """
    options = ServeOptions(
        tuple(bundles), data, http, tls, dicom, pacs, queue, limits, results, public_key, new_audit_log
    )
    from medssl.runtime.server.logs import set_up_logs
    from medssl.runtime.server.service import Service

    set_up_logs()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    service = Service(options)
    tempfile.tempdir = str(service.desk.folders.temporary())  # parts of studies lie nowhere else, not even for a moment
    try:
        service.start()
        _greet(service)
        service.serve()
    finally:
        service.stop()


def _greet(service: "Service") -> None:
    from medssl.runtime.predictor import NOT_A_DEVICE

    names = ", ".join(service.desk.bundles)
    say(f"serving {names} at {service.url} (data in {service.options.data}). {NOT_A_DEVICE}")
    if service.dicom is not None:
        say(f"C-STORE at {service.options.dicom.host}:{service.dicom.port}, AE title {service.options.dicom.ae_title}")
