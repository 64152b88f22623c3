"""The server's own key: names for patients' identifiers that say nothing to whom does not have it."""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from medssl.imaging.files import atomic_path

_UID = re.compile(r"\b[0-2](?:\.\d+){3,}\b")


class Secret:
    """A key kept in a file that only its owner may read; made at the first start.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_bytes(secrets.token_bytes(32))
            path.chmod(0o600)
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
