"""Voxels behind a text header, unpacked up to the number of bytes that the header tells, and no more."""

import bz2
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medssl.imaging.errors import ImageError

_SPARE = 16
"""Bytes that may follow raw voxels; more, and the header tells another image than the one that is there."""
_BLOCK = 1 << 20
_UNPACKED = 1 << 23
"""Bytes unpacked at a time: a block of zeros would be a thousand times as large."""
_TEXT = 64
"""Characters that a number may take in a text file."""


def unpacked_bytes(path: Path, offset: int, encoding: str, count: int, kind: np.dtype[np.generic]) -> bytes | bytearray:
    """Bytes of `count` values.

    Args:
        path: File they are in.
        offset: Where they begin; -1 takes the last of the file.
        encoding: `raw`, `gzip`, `zlib`, `bzip2` or `text`.
        count: Number of values.
        kind: Their type.

    Raises:
        ImageError: Fewer bytes than that, damaged, or more than the header tells.
    """
    wanted, there = count * kind.itemsize, path.stat().st_size
    start = there - wanted if offset == -1 else offset
    if start < 0 or start > there:
        raise _cut(path)
    with path.open("rb") as stream:
        stream.seek(start)
        if encoding == "raw":
            if there - start < wanted:
                raise _cut(path)
            if there - start > wanted + _SPARE:
                raise ImageError(
                    f"{path}: {there - start} bytes of voxels where the header tells {wanted}: one of them is damaged",
                    reason="bad-header",
                )
            result = bytearray(wanted)
            return result if stream.readinto(result) == wanted else _whole(bytearray(), wanted, False, path)
        if encoding == "text":
            return _text(stream.read(count * _TEXT), count, kind, path)
        if encoding == "bzip2":
            return _from_bzip2(stream, wanted, path)
        return _from_zlib(stream, 31 if encoding == "gzip" else 15, wanted, path)


def _from_zlib(stream: BinaryIO, window: int, wanted: int, path: Path) -> bytearray:
    unpacker, result, rest = zlib.decompressobj(window), bytearray(), b""
    try:
        while len(result) < wanted and not unpacker.eof and (rest := unpacker.unconsumed_tail or stream.read(_BLOCK)):
            result += unpacker.decompress(rest, min(wanted - len(result), _UNPACKED))
        while len(result) == wanted and not unpacker.eof and (rest := unpacker.unconsumed_tail or stream.read(_BLOCK)):
            result += unpacker.decompress(rest, 1)  # nothing is left but the checksum, which is looked at here
    except zlib.error as error:
        raise _cut(path) from error
    return _whole(result, wanted, unpacker.eof, path)


def _from_bzip2(stream: BinaryIO, wanted: int, path: Path) -> bytearray:
    unpacker, result = bz2.BZ2Decompressor(), bytearray()
    try:
        while len(result) <= wanted and not unpacker.eof:
            block = stream.read(_BLOCK) if unpacker.needs_input else b""
            if unpacker.needs_input and not block:
                break
            # beyond the last voxel a byte is asked for: there is none, and the checksum is looked at
            result += unpacker.decompress(block, min(max(wanted - len(result), 1), _UNPACKED))
    except (OSError, ValueError) as error:
        raise _cut(path) from error
    return _whole(result, wanted, unpacker.eof, path)


def _whole(result: bytearray, wanted: int, ended: bool, path: Path) -> bytearray:
    """What was unpacked, if it is all that the stream holds and its checksum was right."""
    if len(result) > wanted:
        raise ImageError(
            f"{path}: more voxels are packed than the header's {wanted} bytes: one of them is damaged",
            reason="bad-header",
        )
    if len(result) < wanted or not ended:
        raise _cut(path)
    return result


def _text(content: bytes, count: int, kind: np.dtype[np.generic], path: Path) -> bytes:
    parts = content.split()
    if len(parts) != count:
        raise _cut(path)
    try:
        return np.array([float(part) for part in parts]).astype(kind).tobytes()
    except ValueError as error:
        raise _cut(path) from error


def _cut(path: Path) -> ImageError:
    return ImageError(f"{path} is truncated or damaged: it holds fewer voxels than its header says", reason="truncated")
