"""Pictures: decompression bombs, damaged chunks, other formats under their names."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import tifffile
from hostile_families import family, zeros

_NAMES = ("a.png", "a.jpg", "a.tif", "a.jpeg", "a.tiff")


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.tile(np.arange(32, dtype=np.uint8), (32, 1))).save(buffer, kind)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return struct.pack(">I", size & 0xFFFFFFFF) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, depth: int, data: bytes, *more: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _stream(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH) + zeros(mebibytes)


@family(12, reasons=("image-limit", "truncated"))
def png_bomb(folder: Path, number: int) -> Path:
    small, side = zlib.compress(bytes(100)), (20_000, 30_000, 65_535, 2**31 - 1)[number % 4]
    if number < 4:
        return _write(folder, "a.png", _png(side, side, 8, small))
    if number < 8:
        return _write(folder, "a.png", _png(min(side, 65_535), min(side, 65_535), 16, _stream(400 * (number - 3))))
    return _write(folder, "a.png", _png(9000, 9000 * (number - 3), 16, _stream(500)))


@family(20, harmless=True)
def png_damaged(folder: Path, number: int) -> Path:
    good, content = zlib.compress(bytes(33 * 32)), picture("PNG")
    if number < 8:
        return _write(folder, "a.png", content[: len(content) * (number + 1) // 9])
    bomb = b"key\0\0" + _stream(200)
    return _write(
        folder,
        "a.png",
        (
            _png(32, 32, 8, good, _chunk(b"zTXt", bomb)),
            _png(32, 32, 8, good, _chunk(b"iCCP", bomb)),
            _png(32, 32, 8, good, _chunk(b"iTXt", b"key\0\1\0\0\0" + _stream(200))),
            _png(0, 0, 8, good),
            _png(32, 32, 7, good),
            _png(32, 32, 8, b""),
            _png(32, 32, 8, good[:20]),
            _png(32, 32, 8, good, _chunk(b"PLTE", b"1", 2**31)),
            _png(32, 32, 8, good, *[_chunk(b"tEXt", b"k\0" + b"v" * 100)] * 20_000),
            _png(32, 32, 8, _stream(300)),
            _png(32, 32, 8, good, _chunk(b"acTL", struct.pack(">2I", 2**31 - 1, 0))),
            _png(32, 32, 8, good)[:-12],
        )[number - 8],
    )


def _tiff(entries: list[tuple[int, int, int, int]], data: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory; values are placed in the entries."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return (
        b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + struct.pack("<I", following) + data
    )


def _strip(
    width: int, height: int, compression: int, size: int, offset: int = 200, bits: int = 8
) -> list[tuple[int, int, int, int]]:
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, 1, offset),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, size),
    ]


@family(20, harmless=True)
def tiff_bomb(folder: Path, number: int) -> Path:
    stream = _stream((100, 800, 2000)[number % 3])
    if number < 3:  # a strip that unpacks to more than its share
        content = _tiff(_strip(64, 64, 8, len(stream))).ljust(200, b"\0") + stream
    elif number < 6:  # as large as it says
        side = (20_000, 40_000, 60_000)[number - 3]
        content = _tiff(_strip(side, side, 8, len(stream))).ljust(200, b"\0") + stream
    elif number < 10:  # sizes without data
        side = (20_000, 65_535, 2**31 - 1, 2**32 - 1)[number - 6]
        content = _tiff(_strip(side, side, (1, 8)[number % 2], 100)).ljust(300, b"\0")
    elif number < 13:  # directories in a ring
        content = _tiff(_strip(8, 8, 1, 64), following=(8, 8, 0xFFFFFFFF)[number - 10]).ljust(300, b"\0")
    elif number < 16:  # LZMA, deflate of the old number, JPEG
        content = _tiff(_strip(64, 64, (34925, 32946, 7)[number - 13], len(stream))).ljust(200, b"\0") + stream
    else:
        kinds = [(256, 16, 1, 5), (256, 4, 2**31, 8), (258, 99, 3, 3), (339, 3, 1, 77)]
        content = _tiff([kinds[number - 16], *_strip(8, 8, 1, 64)[1:]]).ljust(300, b"\0")
    return _write(folder, "a.tif", content)


@family(20, harmless=True)
def tiff_flips(folder: Path, number: int) -> Path:
    buffer = io.BytesIO()
    compression = (None, "zlib")[number % 2]
    tifffile.imwrite(buffer, np.arange(32 * 32, dtype=np.uint16).reshape(32, 32), compression=compression)
    content = bytearray(buffer.getvalue())
    rng = np.random.default_rng(number)
    for at in rng.integers(0, 250, 1 + number // 2):
        content[at] = rng.integers(256)
    return _write(folder, "a.tif", bytes(content))


@family(16, harmless=True)
def jpeg_damaged(folder: Path, number: int) -> Path:
    content = bytearray(picture("JPEG"))
    if number < 6:
        return _write(folder, "a.jpg", bytes(content[: len(content) * (number + 1) // 7]))
    if number < 9:
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">2H", *((65535, 65535), (30000, 30000), (0, 0))[number - 6])
        return _write(folder, "a.jpg", bytes(content))
    rng = np.random.default_rng(number)
    for at in rng.integers(2, len(content), number):
        content[at] = rng.integers(256)
    return _write(folder, "a.jpg", bytes(content))


@family(20, reasons=("truncated", "not-an-image", "empty-file", "image-limit"))
def picture_disguised(folder: Path, number: int) -> Path:
    buffer = io.BytesIO()
    PIL.Image.new("L", (16, 16)).save(buffer, "GIF")
    bodies = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        buffer.getvalue(),
        b"<svg xmlns='x'/>",
        b"8BPS\0\1" + bytes(99),
        b"\x7fELF" + bytes(200),
        b"<html></html>",
        b"BM" + bytes(60),
        b"\0\0\1\0\1\0" + bytes(60),
        b"P5\n9 9\n255\n" + bytes(81),
        b"\x53\x80\xf6\x34" + bytes(60),
    )
    return _write(folder, _NAMES[number % 5], bodies[number // 2])
