"""The C-STORE listener: groups what comes by study, and hands a study in once it is complete.

An object is acknowledged when it is on the disk; studies that were coming in when the server was killed are still there
after the next start.
"""

import shutil
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import _config as pynetdicom_config
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import AllStoragePresentationContexts, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from medssl.imaging.dicom_transfer import TRANSFER_SYNTAXES, identity
from medssl.imaging.errors import MedsslError
from medssl.imaging.files import sync_file, sync_folder, write_json
from medssl.runtime.server.certificates import server_context
from medssl.runtime.server.desk import Desk, RefusedError
from medssl.runtime.server.folders import LOOK_BYTES, link_files, new_id, read_record
from medssl.runtime.server.listening import cannot_listen
from medssl.runtime.server.logs import LOG

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
_ASSOCIATIONS = 10
_IDLE_S = 60


@dataclass
class _Incoming:
    """A study that is coming in."""

    last: float
    files: int = 0
    size: int = 0
    senders: set[int] = field(default_factory=set)


class DicomListener:
    """C-STORE and C-ECHO service.

    Args:
        desk: Where complete studies are handed in.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk, self._options = desk, desk.options.dicom
        self._model = desk.model(self._options.model)
        self._lock = threading.Lock()
        self._studies: dict[str, _Incoming] = {}
        self._received: dict[int, int] = {}
        self._stop = threading.Event()
        self._server: Any = None
        self._thread = threading.Thread(target=self._watch, name="studies", daemon=True)

    @property
    def port(self) -> int:
        """Port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen; studies that were coming in at the last stop go on."""
        self._resume()
        pynetdicom_config.STORE_RECV_CHUNKED_DATASET = True  # to the disk, not to memory
        entity = ApplicationEntity(self._options.ae_title)
        entity.require_called_aet = True
        if self._options.callers:
            entity.require_calling_aet = list(self._options.callers)
        entity.maximum_associations = _ASSOCIATIONS
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _IDLE_S
        syntaxes = list(TRANSFER_SYNTAXES)
        entity.supported_contexts = [
            build_context(context.abstract_syntax or "", syntaxes) for context in AllStoragePresentationContexts
        ]
        entity.add_supported_context(Verification)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_RELEASED, self._ended),
            (evt.EVT_ABORTED, self._ended),  # more of the object may come until the connection closes
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        where, tls = (self._options.host, self._options.port), self._tls()
        try:
            self._server = entity.start_server(where, block=False, ssl_context=tls, evt_handlers=handlers)
        except OSError as error:
            raise cannot_listen("dicom", *where, error) from error
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stop.set()
        if self._server is not None:
            self._server.shutdown()
        if self._thread.is_alive():
            self._thread.join()

    def _tls(self) -> ssl.SSLContext | None:
        tls = self._desk.options.tls
        if tls.certificate is None or tls.key is None or tls.client_ca is None:
            return None
        return server_context(tls.certificate, tls.key, tls.client_ca)

    def _count(self, event: Any) -> None:
        """Cut off who sends more in one object than a study may have, or than the disk has room for."""
        key = id(event.assoc)
        before = self._received.get(key, 0)
        self._received[key] = size = before + len(event.data)
        try:
            if size > self._desk.options.limits.upload_mb * 2**20:
                raise RefusedError("the object is beyond the limits", reason="too-large", status=413)
            if size // LOOK_BYTES > before // LOOK_BYTES:
                self._desk.check_disk()
        except RefusedError as error:
            self._desk.metrics.refused.labels(error.reason).inc()
            event.assoc.abort()

    def _closed(self, event: Any) -> None:
        """Remove what came of an object whose sender is gone: pynetdicom leaves it behind."""
        part = getattr(event.assoc.dimse.message, "_data_set_file", None)
        if part is not None:
            part.close()
            Path(part.name).unlink(missing_ok=True)
        self._ended(event)

    def _ended(self, event: Any) -> None:
        """Forget a sender; which of the three events comes depends on who hangs up, and how."""
        with self._lock:
            self._received.pop(id(event.assoc), None)
            for study in self._studies.values():
                study.senders.discard(id(event.assoc))

    def _store(self, event: Any) -> int:
        """Keep an object; the answer is DICOM's status (PS3.4 B.2.3)."""
        path = Path(event.dataset_path)
        self._received[id(event.assoc)] = 0
        try:
            return self._keep(path, event)
        except RefusedError as error:
            self._desk.metrics.refused.labels(error.reason).inc()
            LOG.warning("an object was refused: %s", error.reason)
            return OUT_OF_RESOURCES
        except MedsslError as error:
            self._desk.metrics.refused.labels(error.reason).inc()
            LOG.warning("an object was refused: %s", error.reason)
            return CANNOT_UNDERSTAND
        except OSError as error:
            LOG.error("an object could not be kept: %s", type(error).__name__)
            return OUT_OF_RESOURCES
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, path: Path, event: Any) -> int:
        found = identity(path)
        name = self._desk.secret.name
        study = name(found.study_uid)
        size = path.stat().st_size
        self._check_room(study, size)
        temporary = self._desk.folders.temporary() / new_id()
        shutil.copyfile(path, temporary)
        sync_file(temporary)
        folder = self._desk.folders.inbox() / study
        with self._lock:
            if not (folder / "job.json").exists():
                (folder / "input").mkdir(parents=True, exist_ok=True)
                caller = str(event.assoc.requestor.ae_title).strip()
                write_json(folder / "job.json", {"study": study, "model": self._model, "caller": caller})
            target = folder / "input" / f"{name(found.sop_instance_uid)}.dcm"
            known = target.exists()
            temporary.replace(target)
            sync_folder(target.parent)
            state = self._studies.setdefault(study, _Incoming(time.monotonic()))
            state.last = time.monotonic()
            state.senders.add(id(event.assoc))
            if not known:
                state.files, state.size = state.files + 1, state.size + size
            self._desk.arriving = len(self._studies)
        self._desk.metrics.instances.inc()
        return SUCCESS

    def _check_room(self, study: str, size: int) -> None:
        limits = self._desk.options.limits
        with self._lock:
            state = self._studies.get(study)
        if state is None:
            self._desk.check_room()
        elif state.files >= limits.files or state.size + size > limits.upload_mb * 2**20:
            raise RefusedError("the study is beyond the limits", reason="too-large", status=413)
        else:
            self._desk.check_disk()

    def _resume(self) -> None:
        for folder in self._desk.folders.inbox().iterdir():
            files = list((folder / "input").glob("*.dcm"))
            if read_record(folder) and files:
                size = sum(path.stat().st_size for path in files)
                self._studies[folder.name] = _Incoming(time.monotonic(), len(files), size)
            else:
                self._desk.folders.discard(folder)

    def _watch(self) -> None:
        pause = min(1.0, self._options.quiet_s / 4, self._options.released_quiet_s / 4)
        while not self._stop.wait(pause):
            for study in self._complete():
                try:
                    self._hand_in(study)
                except Exception as error:  # the other studies must not wait for this one; it is tried again
                    self._retry(study)
                    LOG.error("study %s could not be handed in: %s", study, type(error).__name__)

    def _retry(self, study: str) -> None:
        """Hand a study in later; what was accepted before the fault is not handed in again."""
        with self._lock:
            if (self._desk.folders.inbox() / study).exists():
                self._studies[study].last = time.monotonic()
            else:
                self._forget(study)

    def _forget(self, study: str) -> None:
        self._studies.pop(study, None)
        self._desk.arriving = len(self._studies)

    def _complete(self) -> list[str]:
        now = time.monotonic()
        options = self._options
        with self._lock:
            return [
                study
                for study, state in self._studies.items()
                if now - state.last >= (options.quiet_s if state.senders else options.released_quiet_s)
            ]

    def _hand_in(self, study: str) -> None:
        """Make the folder of a study a job; objects that come later start another, which has these too."""
        folder = self._desk.folders.inbox() / study
        with self._lock:
            record = read_record(folder)
            earlier = self._desk.earlier(study, record["model"])
            if earlier is not None:
                link_files(earlier / "input", folder / "input")
            self._desk.accept(
                folder, new_id(), model=record["model"], source="cstore", caller=record["caller"], study=study
            )
            self._forget(study)
