"""The server's own key: names for patients' identifiers that say nothing to whom does not have it."""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from medssl.imaging.files import sync_folder

_UID = re.compile(r"\b[0-2](?:\.\d+){3,}\b")


class Secret:
    """A key kept in a file that only its owner may read; made at the first start.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            _create(path)
        self._key = path.read_bytes()

    def name(self, identifier: str) -> str:
        """Pseudonym of an identifier: 16 hexadecimal digits, the same at every start."""
        return self.seal(identifier.encode())[:16]

    def seal(self, content: bytes) -> str:
        """Keyed hash (HMAC-SHA-256) of bytes, hexadecimal."""
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def public(self, message: str, folder: Path) -> str:
        """First line of a message without UIDs, paths of this machine and what it quotes of headers.

        Args:
            message: Message of an error, which may name files, series and their descriptions.
            folder: Folder of the job, whose path is cut.
        """
        line = message.strip().split("\n", 1)[0].replace(f"{folder}{os.sep}", "")
        return _UID.sub(lambda found: f"uid-{self.name(found.group())[:8]}", line)[:500]


def _create(path: Path) -> None:
    """Write a new key; the file is its owner's alone from its first byte, under its temporary name as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{secrets.token_hex(8)}-{path.name}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(32))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
