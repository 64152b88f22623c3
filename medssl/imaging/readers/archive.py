"""Zipped folders, unpacked with limits into a folder that goes away with the process."""

import atexit
import shutil
import stat
import tempfile
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from medssl.imaging.errors import ImageError

_MAX_FILES = 50_000
_MAX_BYTES = 32 * 2**30


@lru_cache(maxsize=8)
def unpacked(path: Path) -> Path:
    """Temporary folder with the content of a zip file.

    Raises:
        ImageError: As for `unpack`.
    """
    folder = Path(tempfile.mkdtemp(prefix="medssl-zip-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    unpack(path, folder)
    return folder


def unpack(path: Path, folder: Path, *, max_files: int = _MAX_FILES, max_bytes: int = _MAX_BYTES) -> None:
    """Unpack a zip file into a folder.

    Args:
        path: The zip file.
        folder: An empty folder.
        max_files: Files it may hold.
        max_bytes: Bytes they may have together.

    Raises:
        ImageError: No zip file, damaged, names or links that leave the folder, or more than the limits.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ImageError(f"{path} is no readable zip file ({error})", reason="bad-zip") from error
    with archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > max_files or sum(entry.file_size for entry in entries) > max_bytes:
            raise ImageError(
                f"{path} unpacks to more than {max_files} files or {max_bytes / 2**30:.3g} GiB", reason="zip-limit"
            )
        _check_names(path, entries)
        left = max_bytes
        for entry in entries:
            left = _extract(archive, entry, folder, left)


def _check_names(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    for entry in entries:
        parts = Path(entry.filename).parts
        if Path(entry.filename).is_absolute() or ".." in parts or stat.S_ISLNK(entry.external_attr >> 16):
            raise ImageError(f"{path}: entry {entry.filename!r} leaves the folder or is a link", reason="zip-unsafe")


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, left: int) -> int:
    """Write one entry; the bytes really unpacked count, not those the header claims."""
    target = folder / entry.filename
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("wb") as sink:
            while block := source.read(1 << 20):
                left -= len(block)
                if left < 0:
                    raise ImageError(f"{archive.filename} unpacks to more than the limit", reason="zip-limit")
                sink.write(block)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, NotImplementedError, OSError) as error:
        raise ImageError(f"{archive.filename}: {entry.filename} is damaged ({error})", reason="bad-zip") from error
    return left
