"""The C-STORE listener: groups what comes by study, and hands a study in once nothing more of it comes.

An object is acknowledged when it is on the disk; studies that were coming in when the server was killed are still there
after the next start. What is known to be missing of a study is marked beside it (`arrivals`).
"""

import shutil
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from pynetdicom import _config as pynetdicom_config
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.presentation import AllStoragePresentationContexts, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from medssl.imaging.dicom_transfer import TRANSFER_SYNTAXES, Identity, identity
from medssl.imaging.errors import ImageError
from medssl.imaging.files import sync_file, sync_folder, write_json
from medssl.runtime.server import arrivals
from medssl.runtime.server.certificates import server_context
from medssl.runtime.server.desk import Desk, RefusedError
from medssl.runtime.server.folders import LOOK_BYTES, link_files, new_id, read_record, share_file
from medssl.runtime.server.listening import cannot_listen
from medssl.runtime.server.logs import LOG

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
_ASSOCIATIONS = 10
_IDLE_S = 60


@dataclass
class _Sender:
    """An association, from its first byte on."""

    association: ReferenceType[Any]
    mark: str = field(default_factory=new_id)
    caller: str = ""
    began: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    size: int = 0
    """Bytes since the last object."""
    ended: bool = False
    unmarked: bool = False
    """An object was refused, and that could not be written down."""
    late: set[str] = field(default_factory=set)
    """Studies that were handed in before its release, which settles what others had left of them."""

    def replaces(self, other: "_Sender") -> bool:
        """Whether the release of this one settles what another left: itself, or one that fell silent before it came."""
        return other is self or (other.caller == self.caller and other.heard < self.began)


@dataclass
class _Incoming:
    """A study that is coming in, with those who brought it, by their marks."""

    last: float
    files: int = 0
    size: int = 0
    senders: dict[str, _Sender] = field(default_factory=dict)

    def living(self) -> list[str]:
        return [mark for mark, sender in self.senders.items() if not sender.ended]


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
        self._senders: WeakKeyDictionary[Any, _Sender] = WeakKeyDictionary()
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
        entity.acse_timeout = entity.dimse_timeout = _IDLE_S
        entity.network_timeout = max(_IDLE_S, 2 * self._options.quiet_s)  # it would break off who is only quiet
        syntaxes = list(TRANSFER_SYNTAXES)
        entity.supported_contexts = [
            build_context(context.abstract_syntax or "", syntaxes) for context in AllStoragePresentationContexts
        ]
        entity.add_supported_context(Verification)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_ACSE_RECV, self._released),
            (evt.EVT_RELEASED, self._ended),
            (evt.EVT_ABORTED, self._ended),
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

    def _sender(self, association: Any) -> _Sender:
        found = self._senders.get(association)
        return found or self._senders.setdefault(association, _Sender(ref(association)))

    def _count(self, event: Any) -> None:
        """Cut off who sends more in one object than a study may have, or than the disk has room for."""
        sender = self._sender(event.assoc)
        if sender.ended:  # more of an object may come until the connection closes
            return
        sender.heard, before = time.monotonic(), sender.size
        sender.size = size = before + len(event.data)
        try:
            if size > self._desk.options.limits.upload_mb * 2**20:
                raise RefusedError("the object is beyond the limits", reason="too-large", status=413)
            if size // LOOK_BYTES > before // LOOK_BYTES:
                self._desk.check_disk()
        except RefusedError as error:
            self._desk.metrics.refused.labels(error.reason).inc()
            found = _under_way(event.assoc)
            if found is not None:
                self._refuse(sender, found)
            event.assoc.abort()

    def _released(self, event: Any) -> None:
        """Take the marks of a release away before it is answered: who has the answer may forget the study."""
        if not isinstance(event.primitive, A_RELEASE):
            return
        sender = self._sender(event.assoc)
        with self._lock:
            for study, state in self._studies.items():
                if sender.mark in state.senders and not sender.unmarked:
                    state.senders = {mark: s for mark, s in state.senders.items() if not sender.replaces(s)}
                    arrivals.note_release(self._folder(study), sender.caller, state.senders)
            sender.ended = True
            for study in sender.late - self._studies.keys():
                self._settle(study, sender)

    def _closed(self, event: Any) -> None:
        """Remove what came of an object whose sender is gone: pynetdicom leaves it behind."""
        part = getattr(event.assoc.dimse.message, "_data_set_file", None)
        if part is not None:
            found = _under_way(event.assoc)
            part.close()
            Path(part.name).unlink(missing_ok=True)
            if found is not None and not found.own_result:
                self._lose(event, self._desk.secret.name(found.study_uid))
        self._ended(event)

    def _lose(self, event: Any, study: str) -> None:
        """Mark a study that is here for an association that ended within an object of it."""
        with self._lock:
            state = self._studies.get(study)
            if state is not None:
                self._note(event, study, state)

    def _ended(self, event: Any) -> None:
        """Take a sender for gone; which of the events comes, and when, depends on who hangs up, and how."""
        self._sender(event.assoc).ended = True

    def _store(self, event: Any) -> int:
        """Keep an object; the answer is DICOM's status (PS3.4 B.2.3)."""
        path, sender = Path(event.dataset_path), self._sender(event.assoc)
        sender.size = 0
        try:
            found = identity(path)
            if not found.own_result:  # an archive sends them again with their study, which they are no part of
                self._keep(path, found, event)
        except ImageError as error:  # nobody knows what it is
            self._desk.metrics.refused.labels(error.reason).inc()
            LOG.warning("an object was refused: %s", error.reason)
            return CANNOT_UNDERSTAND
        except RefusedError as error:
            self._desk.metrics.refused.labels(error.reason).inc()
            LOG.warning("an object was refused: %s", error.reason)
        except Exception as error:  # whatever it is, its study lacks this object
            LOG.error("an object could not be kept: %s", type(error).__name__)
        else:
            self._desk.metrics.instances.inc()
            return SUCCESS
        finally:
            path.unlink(missing_ok=True)
        self._refuse(sender, found)
        return OUT_OF_RESOURCES

    def _refuse(self, sender: _Sender, found: Identity) -> None:
        """Mark a study that lacks an object; where that fails, the release of its sender will count for nothing."""
        if found.own_result:
            return
        name = self._desk.secret.name
        try:
            with self._lock:
                arrivals.note_refused(self._folder(name(found.study_uid)), name(found.sop_instance_uid))
        except OSError as error:
            sender.unmarked = True
            LOG.error("a refused object could not be marked: %s", type(error).__name__)

    def _keep(self, path: Path, found: Identity, event: Any) -> None:
        name = self._desk.secret.name
        study = name(found.study_uid)
        self._check_room(study, path.stat().st_size)
        temporary = self._desk.folders.temporary() / new_id()
        try:
            shutil.copyfile(path, temporary)
            sync_file(temporary)
            with self._lock:
                self._put(temporary, event, study, name(found.sop_instance_uid))
        finally:
            temporary.unlink(missing_ok=True)

    def _put(self, temporary: Path, event: Any, study: str, instance: str) -> None:
        """Move an object to its study, after whatever must be marked."""
        folder, size = self._folder(study), temporary.stat().st_size
        if not (folder / "job.json").exists():
            self._begin(folder, study, _caller(event))
            self._forget(study)  # another server may have taken what was there
        state = self._studies.get(study) or _Incoming(time.monotonic())
        self._note(event, study, state)
        target = folder / "input" / f"{instance}.dcm"
        known = target.exists()
        if earlier := read_record(folder).get("earlier", ""):
            share_file(temporary, self._desk.folders.job(earlier) / "input" / target.name)
        temporary.replace(target)
        sync_folder(target.parent)
        if not known:
            state.files, state.size = state.files + 1, state.size + size
        state.last = time.monotonic()
        self._studies[study] = state
        self._desk.arriving = len(self._studies)

    def _begin(self, folder: Path, study: str, caller: str) -> None:
        """Make the folder of a study, with what is known to be missing since an earlier job of it."""
        (folder / "input").mkdir(parents=True, exist_ok=True)
        earlier = self._desk.earlier(study, self._model)
        if earlier is not None:
            arrivals.take_over(earlier, folder)
        before = "" if earlier is None else earlier.name
        write_json(folder / "job.json", {"study": study, "model": self._model, "caller": caller, "earlier": before})

    def _note(self, event: Any, study: str, state: _Incoming) -> None:
        sender = self._sender(event.assoc)
        if sender.mark not in state.senders:
            sender.caller = _caller(event)
            arrivals.note_association(self._folder(study), sender.mark, sender.caller)
            state.senders[sender.mark] = sender

    def _folder(self, study: str) -> Path:
        return self._desk.folders.inbox() / study

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
            elif not arrivals.missing(folder, ())[1]:
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
        with self._lock:
            return [
                study
                for study, state in self._studies.items()
                if now - state.last >= self._quiet_s(study, state) and not self._expected(study, state)
            ]

    def _quiet_s(self, study: str, state: _Incoming) -> float:
        """How long nothing must come: long while somebody may go on, or send again what is missing."""
        options, living = self._options, state.living()
        long = living or any(arrivals.missing(self._folder(study), living))
        return options.quiet_s if long else options.released_quiet_s

    def _expected(self, study: str, state: _Incoming) -> bool:
        """Whether an object of a study is under way, from a sender of others."""
        associations = [sender.association() for sender in state.senders.values() if not sender.ended]
        coming = [_under_way(association) for association in associations if association is not None]
        return any(found is not None and self._desk.secret.name(found.study_uid) == study for found in coming)

    def _hand_in(self, study: str) -> None:
        """Make the folder of a study a job, unless nothing of it is new; objects that come later start another."""
        with self._lock:
            state = self._studies[study]
            self._desk.hand_in(self._folder(study), state.living())
            gone = [sender for sender in state.senders.values() if sender.ended]
            for sender in state.senders.values():
                if not sender.ended and all(sender.replaces(other) for other in gone):
                    sender.late.add(study)
            self._forget(study)

    def _settle(self, study: str, sender: _Sender) -> None:
        """Hand a study in again that failed as incomplete while the sender, who has released now, was still at it."""
        earlier = self._desk.earlier(study, self._model)
        if earlier is None or sender.unmarked or not any(arrivals.missing(earlier, [sender.mark])):
            return
        folder = self._folder(study)
        self._begin(folder, study, sender.caller)
        link_files(earlier / "input", folder / "input")
        arrivals.note_release(folder, sender.caller, ())
        if any(arrivals.missing(folder, ())):
            self._desk.folders.discard(folder)
        else:
            self._studies[study] = _Incoming(time.monotonic())
            self._desk.arriving = len(self._studies)


def _caller(event: Any) -> str:
    """AE title of who calls."""
    return str(event.assoc.requestor.ae_title).strip()


def _under_way(association: Any) -> Identity | None:
    """Which object an association is within, once its head is there; None between objects."""
    part = getattr(association.dimse.message, "_data_set_file", None)
    try:
        return None if part is None else identity(Path(part.name))
    except ImageError:
        return None
