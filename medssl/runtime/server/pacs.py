"""The hospital's archive: studies are pulled from it and results stored to it, the same result never as two objects.

UIDs of results are derived from the source objects, the bundle and their content, and finished results are not computed
again, so storing after a kill repeats an object that the archive knows.
"""

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.imaging.dicom_transfer import (
    DUPLICATE,
    from_dicom_json,
    identity,
    read_object,
    refused_instances,
    save_objects,
)
from medssl.imaging.errors import MedsslError
from medssl.imaging.files import DISK_FULL
from medssl.runtime.server.options import LimitOptions, PacsOptions

_TIMEOUT_S = 60
_CONFLICT = 409


@dataclass(frozen=True)
class Caller:
    """Who we are to an archive that is called by C-STORE.

    Args:
        ae_title: Our AE title.
        certificate: PEM file of our certificate, shown where TLS is used.
        key: Its private key.
    """

    ae_title: str
    certificate: Path | None = None
    key: Path | None = None


def pull_study(study_uid: str, folder: Path, pacs: PacsOptions, limits: LimitOptions, *, series_uid: str = "") -> None:
    """Fetch a study, or one series of it, by DICOMweb (WADO-RS) into numbered files; results of medssl are left out.

    Args:
        study_uid: StudyInstanceUID.
        folder: Where to write.
        pacs: Archive.
        limits: Caps.
        series_uid: SeriesInstanceUID; empty takes the whole study.

    Raises:
        MedsslError: The archive does not answer, refuses, has no such study or series, or gave fewer objects of it than
            it lists (`incomplete-study`).
    """
    most, free = int(limits.upload_mb * 2**20), int(limits.free_disk_mb * 2**20)
    asked = "series" if series_uid else "study"
    with _answers(f"give the {asked}", "its password and the UIDs"):
        client, kinds = _client(pacs), (("application/dicom", "*"),)
        found = (
            client.iter_series(study_uid, series_uid, media_types=kinds)
            if series_uid
            else client.iter_study(study_uid, media_types=kinds)
        )
        came = save_objects(found, folder, max_files=limits.files, max_bytes=most, keep_free=free)
    if not any(folder.iterdir()):
        but = " but results of medssl" if came else ""
        raise MedsslError(f"the archive has no object of this {asked}{but}", reason="pull-failed")
    if pacs.check_complete:
        with _answers(f"list the objects of the {asked}", "or give pacs.check_complete: false if it has no lists"):
            listed = _listed(client, study_uid, series_uid, limits.files)
        if missing := listed - came:
            raise MedsslError(
                f"the archive lists {len(listed)} objects of this {asked}, and {len(missing)} of them did not come: it "
                "may be receiving them still, then pull again; or it cannot read them",
                reason="incomplete-study",
            )


def store_results(paths: Sequence[Path], pacs: PacsOptions, caller: Caller) -> None:
    """Store DICOM files to the archive; tried several times.

    Args:
        paths: The files.
        pacs: Archive; `store` says how.
        caller: Who we are.

    Raises:
        MedsslError: The archive did not take them.
    """
    for attempt in range(pacs.tries):
        try:
            if pacs.store == "stow":
                _stow(paths, pacs)
            else:
                _cstore(paths, pacs, caller)
        except Exception as error:  # as above
            if attempt == pacs.tries - 1:
                detail = error.message if isinstance(error, MedsslError) else _kind(error)
                again = (
                    f"they are offered to it again until {pacs.retry_h:g} hours after the study came"
                    if pacs.retry_h
                    else "they are not offered to it again (pacs.retry_h)"
                )
                raise MedsslError(
                    f"the archive did not take the results ({detail}); they can be fetched here, and {again}",
                    reason="store-failed",
                ) from error
            time.sleep(2**attempt)
        else:
            return


@contextmanager
def _answers(what: str, check: str) -> Iterator[None]:
    """Whatever goes wrong when the archive is asked, in words and without what names a patient."""
    try:
        yield
    except MedsslError:
        raise
    except Exception as error:  # requests, its adapters and the client raise kinds of their own
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise MedsslError(
            f"the archive did not {what} ({_kind(error)}): check pacs.dicomweb, {check}", reason="pull-failed"
        ) from error


def _listed(client: Any, study_uid: str, series_uid: str, most: int) -> set[str]:
    """SOP instance UIDs that the archive lists of a study or series (QIDO-RS), page by page where it has a limit.

    No page is asked for beyond `most` objects, more than can have come.

    Raises:
        LookupError: It lists none.
    """
    listed: set[str] = set()
    while len(listed) <= most:
        page = client.search_for_instances(study_uid, series_uid or None, offset=len(listed))
        new = {str(item["00080018"]["Value"][0]) for item in page} - listed
        if not new:  # the end, or an archive that knows no pages
            break
        listed |= new
    if not listed:
        raise LookupError("no objects")
    return listed


def _client(pacs: PacsOptions) -> Any:
    import requests  # noqa: PLC0415 (slow to import, as is the client)
    from dicomweb_client.api import DICOMwebClient  # noqa: PLC0415

    session = requests.Session()
    session.headers["Accept"] = "application/dicom+json"  # where the client does not ask for something itself
    session.trust_env = False  # no proxy and no password that the options do not name
    if pacs.user and pacs.password is not None:
        session.auth = (pacs.user, pacs.password.read_text(encoding="utf-8").strip())
    if pacs.certificate is not None:
        session.verify = str(pacs.certificate)
    client = DICOMwebClient(pacs.dicomweb.rstrip("/"), session=session, timeout=_TIMEOUT_S)
    client.set_http_retry_params(retry=False)  # `store_results` tries again
    return client


def _stow(paths: Sequence[Path], pacs: PacsOptions) -> None:
    from requests import HTTPError  # noqa: PLC0415 (slow to import)

    try:
        answer = _client(pacs).store_instances([read_object(path) for path in paths])
    except HTTPError as error:
        if error.response is None or error.response.status_code != _CONFLICT:
            raise
        answer = from_dicom_json(error.response.text)  # it took none, and says why: it may hold all of them already
        if "FailedSOPSequence" not in answer:
            raise
    refused = refused_instances(answer)
    if refused:
        raise MedsslError(f"it refused {len(refused)} object(s)", reason="store-failed")


def _cstore(paths: Sequence[Path], pacs: PacsOptions, caller: Caller) -> None:
    from pynetdicom.ae import ApplicationEntity  # noqa: PLC0415 (slow to import)
    from pynetdicom.status import code_to_category  # noqa: PLC0415

    entity = ApplicationEntity(caller.ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
    for kind, syntax in {((found := identity(path)).sop_class_uid, found.transfer_syntax_uid) for path in paths}:
        entity.add_requested_context(kind, syntax)
    tls = (_tls(pacs, caller), pacs.host) if pacs.tls else None
    association = entity.associate(pacs.host, pacs.port, ae_title=pacs.ae_title, tls_args=tls)
    if not association.is_established:
        raise MedsslError("it did not accept an association", reason="store-failed")
    try:
        for path in paths:
            status = association.send_c_store(read_object(path))
            code = int(status.Status) if status else None
            if code is None or not (code == DUPLICATE or code_to_category(code) in ("Success", "Warning")):
                told = "no answer" if code is None else f"0x{code:04X}"
                raise MedsslError(f"C-STORE was answered {told}", reason="store-failed")
    finally:
        association.release()


def _tls(pacs: PacsOptions, caller: Caller) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pacs.certificate) if pacs.certificate else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if caller.certificate is not None:
        context.load_cert_chain(caller.certificate, caller.key)
    return context


def _kind(error: Exception) -> str:
    """Kind of an error and its HTTP status: its text may name a patient's study."""
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    return f"HTTP {status}" if status else type(error).__name__
