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
    """Folder with the content of a zip file.

    Raises:
        ImageError: No zip file, damaged, names or links that leave the folder, or more than the limits.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ImageError(f"{path} is no readable zip file ({error})", reason="bad-zip") from error
    with archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _check(path, entries)
        folder = Path(tempfile.mkdtemp(prefix="medssl-zip-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        left = _MAX_BYTES
        for entry in entries:
            left = _extract(archive, entry, folder, left)
    return folder


def _check(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > _MAX_FILES or sum(entry.file_size for entry in entries) > _MAX_BYTES:
        raise ImageError(
            f"{path} unpacks to more than {_MAX_FILES} files or {_MAX_BYTES >> 30} GiB", reason="zip-limit"
        )
    for entry in entries:
        parts = Path(entry.filename).parts
        if Path(entry.filename).is_absolute() or ".." in parts or stat.S_ISLNK(entry.external_attr >> 16):
            raise ImageError(f"{path}: entry {entry.filename!r} leaves the folder or is a link", reason="zip-unsafe")


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, left: int) -> int:
    """Write one entry; the bytes really unpacked count, not those the header claims."""
    target = folder / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(entry) as source, target.open("wb") as sink:
            while block := source.read(1 << 20):
                left -= len(block)
                if left < 0:
                    raise ImageError(f"{archive.filename} unpacks to more than the limit", reason="zip-limit")
                sink.write(block)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, NotImplementedError) as error:
        raise ImageError(f"{archive.filename}: {entry.filename} is damaged ({error})", reason="bad-zip") from error
    return left
