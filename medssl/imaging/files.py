"""Writing files so that a reader never sees half of one."""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

DISK_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
"""Numbers of errors that say that a disk, or a user's share of it, is full."""
HOPELESS = DISK_FULL | {errno.EROFS}
"""Errors of the disk that meet every case, so that going on is in vain."""


PARTIAL = ".partial-"
"""How names of files and folders begin while they are written."""


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


UMASK = _umask()
"""Permissions that new files lack; read once, because reading it changes it for a moment, for all threads."""


@contextmanager
def atomic_path(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, on error removed.

    The temporary name keeps the suffixes of `path`, because writers choose the format by them. The file is its owner's
    alone until it is there, and then has `mode` less the umask.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        sync_file(temporary)
        temporary.chmod(mode & ~UMASK)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is renamed to `path`, on error removed with its content.

    Raises:
        FileExistsError: `path` exists; nothing is overwritten.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; nothing is overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=PARTIAL, suffix="-" + path.name, dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~UMASK)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Return when a file's bytes are on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Return when a folder's entries are on the disk, so that a rename outlives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write text atomically, UTF-8; as for `atomic_path`."""
    with atomic_path(path, mode=mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, keys in the order given; NaN is refused because it is not JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def records_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV, columns in the order of first appearance; a record leaves empty what it does not have."""
    header = list(dict.fromkeys(name for record in records for name in record))
    return csv_text(header, ([record.get(name, "") for name in header] for record in records))


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def known_sha256(path: Path) -> str:
    """The same, read once in a process as long as the file's size and time of change stay."""
    state = path.stat()
    return _sha256_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256_of(path: Path, size: int, changed_ns: int) -> str:
    return sha256(path)
