"""Make a token for `medssl serve`; it is shown once, and its hash is kept."""

import hashlib
import os
import re
import secrets
from pathlib import Path

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError

POSITIONAL = ("name",)


def token(name: str, file: Path) -> None:
    """Add a token to the file that `--http.tokens` of `medssl serve` names, and print it.

    Args:
        name: Who will use it; the audit log writes this name.
        file: File of names and hashes; made, readable by its owner alone, where it is absent.

    Raises:
        ConfigError: A name that is taken or unusable, or a file that holds what is no token.
    """
    from medssl.runtime.server.guard import listed_tokens

    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if not re.fullmatch(r"[A-Za-z0-9_.@-]{1,64}", name):
        raise ConfigError([f"name {name!r}: 1 to 64 letters, digits or _ . @ - are due"])
    if text and name in listed_tokens(file):
        raise ConfigError([f"name {name!r} is in {file} already: remove its line first, or choose another name"])
    made = secrets.token_urlsafe(32)
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        end = "" if text.endswith("\n") or not text else "\n"  # editors may leave the last line open
        os.write(handle, f"{end}{name} {hashlib.sha256(made.encode()).hexdigest()}\n".encode())
    finally:
        os.close(handle)
    say(f"token of {name}, shown this once: {made}")
