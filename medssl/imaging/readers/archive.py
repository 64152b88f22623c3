"""Zipped folders, unpacked with limits into a folder that goes away with the process."""

import atexit
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from medssl.imaging.errors import ImageError
from medssl.imaging.files import DISK_FULL
from medssl.imaging.readers.guard import max_image_bytes, refuse_full_disk

_MAX_FILES = 50_000
_ENTRY_BYTES = 256
"""What an entry takes in the directory of a zip file, on average at most."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, NotImplementedError, ValueError, OSError)
"""What reading a damaged entry raises."""
_END, _LOCATOR, _WIDE = 22, 20, 56
"""Bytes of a zip file's end record without its comment, and of the ZIP64 locator and record before it."""
_IMAGES = 4
"""A zip file may unpack to so many times the size of the largest image."""


def unpacked(path: Path) -> Path:
    """Temporary folder with the content of a zip file, unpacked again where the file has changed.

    Raises:
        ImageError: As for `unpack`.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise ImageError(f"{path} is no readable zip file ({error})", reason="bad-zip") from error
    return _unpacked(path.resolve(), state.st_ino, state.st_size, state.st_mtime_ns)


def forget_unpacked() -> None:
    """Unpack anew what is asked for next; for callers that remove the folder."""
    _unpacked.cache_clear()


@lru_cache(maxsize=64)
def _unpacked(path: Path, *_: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="medssl-zip-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        unpack(path, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def unpack(
    path: Path,
    folder: Path,
    *,
    max_files: int = _MAX_FILES,
    max_bytes: int = 0,
    keep_free: int = 0,
    suffix_of: Callable[[str], str] | None = None,
) -> None:
    """Unpack a zip file into a folder.

    Args:
        path: The zip file.
        folder: An empty folder.
        max_files: Files it may hold.
        max_bytes: Bytes they may have together; 0 takes four times the largest image.
        keep_free: Bytes that must stay free on the disk; 0 does not look.
        suffix_of: Ending of a file by its name; then files are numbered in the order of their names, in no folders, and
            no name of the zip file's gets to the disk or into a message.

    Raises:
        ImageError: No zip file, damaged, names or links that leave the folder, or more than the limits.
    """
    max_bytes = max_bytes or _IMAGES * max_image_bytes()
    try:
        if _directory_bytes(path) > max_files * _ENTRY_BYTES:
            raise ImageError(f"{path} lists more than {max_files} files", reason="zip-limit")
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ImageError(f"{path} is no readable zip file ({error})", reason="bad-zip") from error
    with archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > max_files or sum(entry.file_size for entry in entries) > max_bytes:
            raise ImageError(
                f"{path} unpacks to more than {max_files} files or {max_bytes / 2**30:.3g} GiB", reason="zip-limit"
            )
        names = _names(path, entries, suffix_of)
        left = max_bytes
        for entry, name in zip(entries, names, strict=True):
            try:
                left = _extract(archive, entry, folder / name, left, keep_free)
            except _DAMAGED as error:
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    raise
                why = type(error).__name__ if suffix_of else error  # the text may quote the name
                raise ImageError(f"{path}: {name} is damaged ({why})", reason="bad-zip") from error


def _directory_bytes(path: Path) -> int:
    """Most that `zipfile` takes for the list of entries, which it reads whole: looked up where it looks, and so read.

    Raises:
        ValueError: A ZIP64 locator without its record before it.
    """
    size, sizes = path.stat().st_size, [0]
    with path.open("rb") as stream:
        stream.seek(max(0, size - (1 << 16) - _END - _LOCATOR - _WIDE))
        tail = stream.read()
        for end in {len(tail) - _END, tail.rfind(b"PK\5\6")}:  # without a comment, and the last that may have one
            if not 0 <= end <= len(tail) - _END or not tail.startswith(b"PK\5\6", end):
                continue
            told = struct.unpack_from("<I", tail, end + 12)[0]
            locator = end - _LOCATOR
            if locator >= 0 and tail.startswith(b"PK\6\7", locator):
                stream.seek(min(size, struct.unpack_from("<Q", tail, locator + 8)[0]))
                before, elsewhere = tail[max(0, locator - _WIDE) : locator], stream.read(_WIDE)
                if len(before) < _WIDE or not before.startswith(b"PK\6\6"):
                    raise ValueError("its ZIP64 record is not where it must be")
                records = [r for r in (before, elsewhere) if len(r) == _WIDE and r.startswith(b"PK\6\6")]
                sizes += [struct.unpack_from("<Q", record, 40)[0] for record in records]
                told = 0 if told == 0xFFFFFFFF else told  # which says: look at the ZIP64 record
            sizes.append(told)
    return int(max(sizes))


def _names(path: Path, entries: list[zipfile.ZipInfo], suffix_of: Callable[[str], str] | None) -> list[str]:
    """Names of the files to write, for entries that do not leave the folder; their own or numbers."""
    for number, entry in enumerate(entries, start=1):
        parts = Path(entry.filename).parts
        if (
            Path(entry.filename).is_absolute()
            or {"..", "\0"} & {*parts, *entry.filename}
            or "\\" in entry.filename
            or stat.S_ISLNK(entry.external_attr >> 16)
        ):
            named = f"number {number}" if suffix_of else repr(entry.filename)
            raise ImageError(f"{path}: entry {named} leaves the folder or is a link", reason="zip-unsafe")
    if suffix_of is None:
        _refuse_twice(path, entries)
        return [entry.filename for entry in entries]
    order = sorted(range(len(entries)), key=lambda k: entries[k].filename)
    place = {k: number for number, k in enumerate(order, start=1)}
    return [f"{place[k]:06d}{suffix_of(entry.filename)}" for k, entry in enumerate(entries)]


def _refuse_twice(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse names that are one file on the disk: the later entry would replace the earlier, a slice lost unseen.

    Raises:
        ImageError: There are such.
    """
    counts = Counter(Path(entry.filename) for entry in entries)
    if twice := [str(name) for name, count in counts.items() if count > 1]:
        raise ImageError(
            f"{path} holds {len(twice)} name(s) more than once, for instance {twice[0]!r}, of which one file would be "
            "lost: pack it again",
            reason="bad-zip",
        )


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, left: int, keep_free: int) -> int:
    """Write one entry; the bytes really unpacked count, not those the header claims."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, target.open("wb") as sink:
        while block := source.read(1 << 20):
            left -= len(block)
            if left < 0:
                raise ImageError(f"{archive.filename} unpacks to more than the limit", reason="zip-limit")
            if keep_free:
                refuse_full_disk(target.parent, keep_free + len(block))
            sink.write(block)
    return left
