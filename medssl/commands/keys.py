"""Names that change with what they stand for."""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from medssl.imaging.files import known_sha256


def key_of(content: Any) -> str:
    """Short hash of plain content: with another one, a result or a folder is another."""
    return sha256(json.dumps(content, sort_keys=True, default=vars).encode()).hexdigest()[:12]


def files_named(options: Any) -> list[str]:
    """Hashes of the files that options name, such as `init`: with other content a result is another."""
    return [known_sha256(path) for path in map(Path, _texts(options)) if path.is_file()]


def _texts(options: Any) -> Iterator[str]:
    if isinstance(options, str):
        yield options
    elif isinstance(options, Mapping):
        for value in options.values():
            yield from _texts(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _texts(value)
