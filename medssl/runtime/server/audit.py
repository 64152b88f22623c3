"""Who did what, when, with which bundle: a file that is only ever appended to, each line sealed with the one before."""

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from medssl.imaging.errors import MedsslError
from medssl.runtime.server.secret import Secret

_FIRST = "0" * 64


class AuditLog:
    """Append-only log of JSON lines, chained by keyed hashes: a line changed, removed or put in breaks the chain.

    Args:
        path: The file; made where it is absent.
        secret: Key of the seals.

    Raises:
        MedsslError: The file's chain is broken.
    """

    def __init__(self, path: Path, secret: Secret) -> None:
        self.path, self._secret = path, secret
        self._lock = threading.Lock()
        self._number, self._last, torn = verify(path, secret)
        if torn:  # the machine lost power while a line was written
            self._append(b"\n")
            self.write("audit", "torn-line")

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
            self._append((body[:-1] + f', "seal": "{seal}"}}\n').encode())
            self._number, self._last = self._number + 1, seal

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


def verify(path: Path, secret: Secret) -> tuple[int, str, bool]:
    """Check the chain of an audit log.

    Returns:
        Lines, seal of the last of them, and whether the file ends within a line.

    Raises:
        MedsslError: A line is changed, missing or put in.
    """
    number, last = 0, _FIRST
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for place, line in enumerate(lines):
        seal = _seal(line, last, secret)
        if seal:
            number, last = number + 1, seal
        elif place < len(lines) - 1 and not _torn(lines[place + 1], last, secret):
            raise MedsslError(
                f"{path}, line {place + 1}: the chain of the audit log is broken, so a line was changed, removed or "
                "put in; move the file aside, keep it, and find out who",
                reason="audit-chain",
            )
    return number, last, bool(lines[-1])


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
