"""NRRD and MetaImage files: data elsewhere, sizes that lie, other formats under their names."""

import gzip
import io
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
from hostile_dicom import encoded
from hostile_dicom import plain as plain_dicom
from hostile_families import family, zeros

_AWAY = (
    "/etc/passwd",
    "../secret.raw",
    "../../../../etc/hosts",
    "/dev/zero",
    "folder/../../secret.raw",
    "/proc/self/environ",
    "..\\secret.raw",
    "file:///etc/passwd",
    "link.raw",
    "missing.raw",
)


def nrrd(sizes: str = "6 5 4", kind: str = "short", more: str = "encoding: raw\n", data: bytes = bytes(240)) -> bytes:
    dimensions = len(sizes.split())
    head = (
        f"NRRD0004\ntype: {kind}\ndimension: {dimensions}\nspace: left-posterior-superior\nsizes: {sizes}\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\n"
        f"space origin: (0,0,0)\n{more}\n"
    )
    return head.encode() + data


def mha(
    sizes: str = "6 5 4", kind: str = "MET_SHORT", more: str = "", file: str = "LOCAL", data: bytes = bytes(240)
) -> bytes:
    head = (
        f"ObjectType = Image\nNDims = {len(sizes.split())}\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{more}"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
        f"DimSize = {sizes}\nElementType = {kind}\nElementDataFile = {file}\n"
    )
    return head.encode() + data


def _write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _secret(folder: Path) -> Path:
    """A folder below `folder`, with a file beside it that no header may reach."""
    (folder / "secret.raw").write_bytes(b"S" * 240)
    inner = folder / "inner"
    (inner / "folder").mkdir(parents=True)
    (inner / "link.raw").symlink_to(folder / "secret.raw")
    return inner


@family(20, reasons=("detached-data",))
def nrrd_detached(folder: Path, number: int) -> Path:
    inner = _secret(folder)
    field = ("data file", "datafile")[number // 10 % 2]
    away = _AWAY[number % 10]
    if number == 17:
        away = "LIST\n/etc/passwd\n../secret.raw"
    if number == 18:
        away = "/etc/pass%02d 1 3 1"
    return _write(inner, ("a.nhdr", "a.nrrd")[number % 2], nrrd(more=f"encoding: raw\n{field}: {away}\n", data=b""))


@family(20, reasons=("detached-data",))
def mha_detached(folder: Path, number: int) -> Path:
    inner = _secret(folder)
    away = _AWAY[number % 10]
    if number == 17:
        away = "LIST 2\n/etc/passwd\n../secret.raw"
    if number == 18:
        away = "../secret%d.raw 1 4 1"
    return _write(inner, ("a.mhd", "a.mha")[number % 2], mha(file=away, data=b""))


@family(20)
def nrrd_header(folder: Path, number: int) -> Path:
    content = (
        nrrd("100000 100000 100000"),
        nrrd("2000 2000 2000"),
        nrrd("-6 5 4"),
        nrrd("0 5 4"),
        nrrd("6 5 4 3 2 1"),
        nrrd("99999999999999999999 5 4"),
        nrrd(kind="block"),
        nrrd(kind="long double"),
        nrrd("6 5"),
        nrrd("6 5 5"),
        nrrd(more="encoding: zebra\n"),
        nrrd(more="encoding: gzip\n", data=b"\x1f\x8b" + bytes(99)),
        nrrd(more="encoding: bzip2\n", data=b"BZh9" + bytes(99)),
        nrrd(more="encoding: hex\n", data=b"zz" * 99),
        nrrd(more="encoding: raw\nbyte skip: 99999999999\n"),
        nrrd(more="encoding: raw\nline skip: 99999999\n"),
        nrrd(more="encoding: gzip\n", data=gzip.compress(bytes(100))),
        b"NRRD0004\n" * 2000,
        b"NRRD9999\n\n",
        nrrd("1290 1290 1290", more="encoding: gzip\n", data=gzip.compress(bytes(240))),
    )[number]
    return _write(folder, "a.nrrd", content)


@family(20)
def mha_header(folder: Path, number: int) -> Path:
    packed = zlib.compress(bytes(100))
    content = (
        mha("100000 100000 100000"),
        mha("2000 2000 2000"),
        mha("-6 5 4"),
        mha("0 5 4"),
        mha("6 5 4 3 2 1"),
        mha("99999999999999999999 5 4"),
        mha(kind="MET_ZEBRA"),
        mha("6 5"),
        mha("6 5 5"),
        mha(more="HeaderSize = 9999999\n"),
        mha(more="HeaderSize = -1\n", data=b""),
        mha(more="CompressedData = True\n", data=packed),
        mha(more="CompressedData = True\nCompressedDataSize = 99999999999\n", data=packed),
        mha(more="ElementNumberOfChannels = 2000000000\n"),
        mha(more="ElementNumberOfChannels = -1\n"),
        mha("1290 1290 1290", more="CompressedData = True\n", data=packed),
        b"ObjectType = Image\nNDims = 99999\n",
        b"ObjectType = Image\n" + b"Comment = " + b"A" * 70_000,
        mha(more="CompressedData = True\n", data=bytes(99)),
        mha(more="NDims = 300\n"),
    )[number]
    return _write(folder, "a.mha", content)


@family(8, reasons=("image-limit", "truncated"))
def itk_compressed_bomb(folder: Path, number: int) -> Path:
    side = (520, 640, 800, 1200)[number % 4]
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if number < 4 else 15)
    stream = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH) + zeros(2 * side**3 >> 20)
    sizes = f"{side} {side} {side}"
    if number < 4:
        return _write(folder, "a.nrrd", nrrd(sizes, more="encoding: gzip\n", data=stream))
    return _write(folder, "a.mha", mha(sizes, more="CompressedData = True\n", data=stream))


@family(8, reasons=("truncated", "not-an-image", "no-orientation", "image-limit"))
def itk_other_format(folder: Path, number: int) -> Path:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "PNG")
    content = (
        encoded(plain_dicom()),
        buffer.getvalue(),
        b"<VTKFile type='ImageData'/>",
        b"\x89HDF\r\n\x1a\n" + bytes(99),
    )[number % 4]
    return _write(folder, ("a.mha", "a.nrrd")[number // 4], content)
