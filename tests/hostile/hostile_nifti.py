"""NIfTI files with hostile headers, and gzip bombs."""

import gzip
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from hostile_families import family, zeros

_SIZE = (6, 5, 4)


def plain() -> bytearray:
    """A valid little-endian .nii of int16."""
    return bytearray(
        nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(_SIZE), np.diag([-2.0, -2, 2, 1])).to_bytes()
    )


def _write(folder: Path, content: bytes, packed: bool = False) -> Path:
    path = folder / ("image.nii.gz" if packed else "image.nii")
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return path


@family(20, reasons=("truncated", "not-an-image", "empty-file"))
def nifti_truncated(folder: Path, number: int) -> Path:
    content = bytes(plain())
    if number % 2:
        packed = gzip.compress(content, mtime=0)
        path = folder / "image.nii.gz"
        path.write_bytes(packed[: len(packed) * number // 21])
        return path
    return _write(folder, content[: len(content) * (number + 1) // 21])


@family(10, reasons=("image-limit", "truncated"))
def nifti_gzip_bomb(folder: Path, number: int) -> Path:
    """Voxels or extensions of gigabytes in a few megabytes."""
    content = plain()
    side = (600, 800, 1200, 2000, 20_000)[number % 5]
    struct.pack_into("<8h", content, 40, 3, side, side, side, 1, 1, 1, 1)
    if number >= 5:
        struct.pack_into("<f", content, 108, float(1 << 30))
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = packer.compress(bytes(content[:352])) + packer.flush(zlib.Z_FULL_FLUSH)
    path = folder / "image.nii.gz"
    path.write_bytes(head + zeros(min(2 * side**3 >> 20, 2500)))
    return path


_DIMS = (
    (3, 32767, 32767, 32767, 1, 1, 1, 1),
    (7, *[32767] * 7),
    (3, -1, 5, 4, 1, 1, 1, 1),
    (3, 0, 0, 0, 0, 0, 0, 0),
    (0, 6, 5, 4, 1, 1, 1, 1),
    (8, 6, 5, 4, 1, 1, 1, 1),
    (-3, 6, 5, 4, 1, 1, 1, 1),
    (255, 6, 5, 4, 1, 1, 1, 1),
    (3, 6, 5, 5, 1, 1, 1, 1),
    (4, 6, 5, 4, 1000, 1, 1, 1),
    (1, 120, 1, 1, 1, 1, 1, 1),
    (3, 2000, 2000, 2000, 1, 1, 1, 1),
)


@family(20)
def nifti_dimensions(folder: Path, number: int) -> Path:
    content = plain()
    struct.pack_into("<8h", content, 40, *_DIMS[number % 10 if number < 10 else (number + 2) % 12])
    if number >= 16:
        struct.pack_into("<2h", content, 70, 64, 64)
    return _write(folder, bytes(content), packed=number % 2 == 1 or number >= 10)


@family(20, harmless=True)
def nifti_header(folder: Path, number: int) -> Path:
    content = plain()
    nan, inf = float("nan"), float("inf")
    at, kind, value = (
        (280, "<f", nan),
        (292, "<f", inf),
        (280, "<12f", (0.0,) * 12),
        (280, "<f", 1e38),
        (108, "<f", -352.0),
        (108, "<f", nan),
        (108, "<f", 1e12),
        (108, "<f", 0.0),
        (344, "4s", b"xxxx"),
        (344, "4s", b"ni1\0"),
        (70, "<h", 0),
        (70, "<h", 128),
        (70, "<h", 32),
        (70, "<h", 2048),
        (70, "<h", 12345),
        (72, "<h", 999),
        (112, "<f", nan),
        (112, "<2f", (inf, inf)),
        (0, "<i", 540),
        (80, "<3f", (0.0, -1.0, nan)),
    )[number]
    struct.pack_into(kind, content, at, *(value if isinstance(value, tuple) else (value,)))
    return _write(folder, bytes(content), packed=number % 2 == 1)


@family(16, harmless=True)
def nifti_extensions(folder: Path, number: int) -> Path:
    content = plain()
    content[348] = 1
    size = (0, 7, 8, 2**31 - 1, -1, -(2**31), 16, 24)[number % 8]
    struct.pack_into("<f", content, 108, (384.0, 1e6)[number // 8])
    extension = struct.pack("<2i", size, (2, 4, 6, 44)[number % 4]) + b"\xff" * 24
    return _write(folder, bytes(content[:352] + extension + content[352:]), packed=number % 3 == 0)


@family(20, harmless=True)
def nifti_flips(folder: Path, number: int) -> Path:
    content = plain()
    rng = np.random.default_rng(number)
    for at in rng.integers(0, 352, 1 + number):
        content[at] = rng.integers(256)
    return _write(folder, bytes(content), packed=number % 2 == 1)
