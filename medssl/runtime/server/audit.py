"""Who did what, when, with which bundle: a file that is only ever appended to, each line sealed with the one before."""

import errno
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from medssl.imaging.errors import MedsslError
from medssl.imaging.files import sync_folder
from medssl.runtime.server.last_lines import LastLines
from medssl.runtime.server.logs import LOG
from medssl.runtime.server.secret import Secret

_FIRST = "0" * 64


class Chain(NamedTuple):
    """Whole lines of a log, the seal of the last, whether the file ends within a line, the seal of the noted line."""

    lines: int
    last: str
    torn: bool
    noted: str


class AuditLog:
    """Append-only log of JSON lines, chained by keyed hashes: a line changed, removed or put in breaks the chain.

    Number and seal of the last line stand in the data base too, so that a log whose end was cut off, or that was
    deleted, is told from a whole one. A line is on the disk before it is noted: after a kill the file may be ahead of
    the note, never behind it.

    Args:
        path: The file; made where it is absent.
        secret: Key of the seals.
        last_lines: Notes of the data base.
        accepted: Code of a damage that the operator has seen: the file is set aside and a new one begun, which says so.

    Raises:
        MedsslError: The file's chain is broken, or lines that were noted are not in it.
    """

    def __init__(self, path: Path, secret: Secret, last_lines: LastLines, accepted: str = "") -> None:
        self.path, self._secret, self._notes = path, secret, last_lines
        self._lock, self._torn = threading.Lock(), False
        try:
            chain = self._checked(path)
        except MedsslError as damage:
            self._replace(damage, accepted)
            return
        self._number, self._last, self._torn = chain.lines, chain.last, chain.torn
        if chain.torn:  # the machine lost power while a line was written
            self.write("audit", "torn-line")

    def check_others(self) -> None:
        """Log which logs of other servers of this data base, in the same folder, are damaged; theirs are in use."""
        for name in self._notes.names():
            path = self.path.with_name(name)
            if path == self.path:
                continue
            try:
                self._checked(path)
            except MedsslError as damage:
                LOG.error("audit log %s of another server is damaged: %s", name, damage.reason)
                self.write("audit", "damaged-log", file=name, reason=damage.reason)

    def _checked(self, path: Path) -> Chain:
        note = self._notes.get(path.name)  # before the file: another server may be writing it
        number, seal, mark = note or (0, _FIRST, "")
        chain = verify(path, self._secret, number)
        if note is None and chain.lines > 1:  # one may have been written before a kill
            text = (
                f"has {chain.lines} lines, of which the data base of jobs knows none (so it is after an upgrade from a "
                "version that kept no note, and where that data base is a new one)"
            )
        elif note is not None and mark != self._mark(path.name, number, seal):
            text = (
                f"cannot be compared: the note of its last line in the data base of jobs was changed ({number} lines)"
            )
        elif chain.noted != seal:
            text = f"has {chain.lines} lines, {number} were written: its end was cut off, or it was replaced or removed"
        else:
            return chain
        raise MedsslError(f"{path}: the audit log {text}", reason="audit-cut")

    def _replace(self, damage: MedsslError, accepted: str) -> None:
        """Begin a new log in place of a damaged one that the operator has seen."""
        name, there = self.path.name, self.path.exists()
        content = hashlib.sha256(self.path.read_bytes() if there else b"").hexdigest()
        code = self._secret.name(f"{name} {self._notes.get(name)} {content}")
        if accepted != code:
            raise MedsslError(
                f"{damage.message}; find out who did it, then start once with --new_audit_log {code}, which sets the "
                "file aside and begins a new one that says so",
                reason=damage.reason,
            )
        aside = self.path.with_name(f"{self.path.stem}-damaged-{code}.jsonl")
        if there:
            self.path.rename(aside)
            sync_folder(aside.parent)
        self._number, self._last = 0, _FIRST
        told = damage.message.split(": ", 1)[-1]
        self.write("audit", "new-log", reason=damage.reason, damage=told, aside=aside.name if there else "")

    def _mark(self, name: str, number: int, seal: str) -> str:
        """Seal of a note: without the key none can be made that fits a shorter log."""
        return self._secret.seal(f"{name} {number} {seal}".encode())

    def write(self, who: str, action: str, **what: Any) -> None:
        """Append a line and sync it.

        Args:
            who: Name of a token, `local`, an AE title, or the part of the server that acted.
            action: What was done.
            what: Further entries: job, study (pseudonym), model, bundle_sha256, hashes of results.
        """
        with self._lock:
            entry = {"n": self._number + 1, "time": round(time.time(), 3), "who": who, "action": action, **what}
            body = json.dumps({**entry, "previous": self._last}, ensure_ascii=True, allow_nan=False)
            seal = self._secret.seal(body.encode())
            start = (
                "\n" if self._torn else ""
            )  # with the line, in one piece: a torn line that nothing explains is damage
            self._append((start + body[:-1] + f', "seal": "{seal}"}}\n').encode())
            self._number, self._last, self._torn = self._number + 1, seal, False
            try:
                self._notes.keep(self.path.name, self._number, seal, self._mark(self.path.name, self._number, seal))
            except Exception as error:  # the line is there; the next one's note stands for it too
                LOG.error("line %d of the audit log is not noted: %s", self._number, type(error).__name__)

    def _append(self, line: bytes) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        size = os.fstat(handle).st_size
        try:
            if os.write(handle, line) != len(line):  # a full disk takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, size)  # the next line must not follow half a one
            raise
        finally:
            os.close(handle)


def verify(path: Path, secret: Secret, noted: int = 0) -> Chain:
    """Check the chain of an audit log.

    Args:
        path: The file; where it is absent there are no lines.
        secret: Key of the seals.
        noted: Number of the line whose seal is asked for; where there are fewer lines it is empty.

    Raises:
        MedsslError: A line is changed, missing or put in.
    """
    number, last = 0, _FIRST
    seal_of_noted = "" if noted else _FIRST
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for place, line in enumerate(lines):
        seal = _seal(line, last, secret)
        if seal:
            number, last = number + 1, seal
            seal_of_noted = seal if number == noted else seal_of_noted
        elif place < len(lines) - 1 and not _torn(lines[place + 1], last, secret):
            raise MedsslError(
                f"{path}, line {place + 1}: the chain of the audit log is broken, so a line was changed, removed or "
                "put in",
                reason="audit-chain",
            )
    return Chain(number, last, bool(lines[-1]), seal_of_noted)


def _seal(line: bytes, last: str, secret: Secret) -> str:
    """Seal of a line that follows the one sealed `last`; empty where it does not."""
    body, mark, tail = line.rpartition(b', "seal": "')
    seal = secret.seal(body + b"}")
    return seal if mark and tail == f'{seal}"}}'.encode() and _entry(body + b"}").get("previous") == last else ""


def _torn(line: bytes, last: str, secret: Secret) -> bool:
    """Whether a line says that the one before it was torn; only the server can write such a line."""
    return bool(_seal(line, last, secret)) and _entry(line).get("action") == "torn-line"


def _entry(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
