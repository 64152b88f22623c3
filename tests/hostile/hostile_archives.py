"""Zip files, tables and options: bombs, names that lead out, damaged directories."""

import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from dicom_phantom import ramp, write_series
from hostile_dicom import encoded, plain
from hostile_families import family, zeros

_SLICE = "slice.dcm"


def _zip(folder: Path, entries: dict[str, bytes], name: str = "study.zip") -> Path:
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return folder / name


def one_bomb(path: Path, name: str, mebibytes: int, told: int | None = None) -> Path:
    """A zip of one entry of zeros; `told` is the size that its headers claim."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = zeros(mebibytes) + packer.flush()
    size = (mebibytes << 20) if told is None else told
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(data), size, len(name), 0)
    local = b"PK\3\4" + fields + name.encode() + data
    directory = b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), len(local), 0)
    path.write_bytes(local + directory + end)
    return path


@family(10, reasons=("zip-limit", "bad-zip", "not-an-image"))
def zip_bomb(folder: Path, number: int) -> Path:
    mebibytes = (600, 1500, 3000, 4000)[number % 4]
    if number < 8:
        return one_bomb(folder / "study.zip", _SLICE, mebibytes, None if number < 4 else 100)
    block = io.BytesIO()
    with zipfile.ZipFile(block, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(30):
            archive.writestr(f"{index}.dcm", bytes(20 << 20))
    return _zip(folder, {"inner.zip": block.getvalue()}) if number == 8 else _write(folder, block.getvalue())


def _write(folder: Path, content: bytes, name: str = "study.zip") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@family(4, reasons=("zip-limit", "no-images", "not-an-image", "bad-zip", "truncated"))
def zip_many_files(folder: Path, number: int) -> Path:
    count = (60_000, 1000, 65_535, 200_000)[number]
    names = [f"{index:06x}" for index in range(count)]
    directory = b"".join(
        b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 36 * i) + n.encode()
        for i, n in enumerate(names)
    )
    local = b"".join(b"PK\3\4" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, 0, 0, 6, 0) + n.encode() for n in names)
    told = min(count, 0xFFFF)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, told, told, len(directory), len(local), 0)
    return _write(folder, local + directory + end)


@family(12, harmless=True)
def zip_names(folder: Path, number: int) -> Path:
    content = encoded(plain())
    names = (
        "../outside.dcm",
        "/outside.dcm",
        "a/../../outside.dcm",
        "..\\outside.dcm",
        "C:\\outside.dcm",
        "a" * 5000 + ".dcm",
        "a\0b.dcm",
        "x" + "/x" * 3000,
        "./slice.dcm",
        "con",
        "\u202egpj.dcm",
        "a/",
    )
    return _zip(folder, {names[number]: content, "slice.dcm" if number % 2 else "b/slice.dcm": content})


@family(8, reasons=("zip-unsafe", "bad-zip"))
def zip_links(folder: Path, number: int) -> Path:
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo(("link", "a/link.dcm")[number % 2])
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, ("/etc/passwd", "..", "/", "slice.dcm")[number % 4])
        if number >= 4:
            archive.writestr(f"{link.filename}/slice.dcm", encoded(plain()))
    return path


@family(20, harmless=True)
def zip_damaged(folder: Path, number: int) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.dcm", encoded(plain()))
        archive.writestr("b.dcm", encoded(plain()))
    content = bytearray(buffer.getvalue())
    if number < 6:
        return _write(folder, bytes(content[: len(content) * (number + 1) // 7]))
    first, second = content.index(b"PK\1\2"), content.rindex(b"PK\1\2")
    if number == 6:
        content[first + 8] |= 1  # encrypted
    elif number == 7:
        content[first + 10] = 99  # an unknown compression
    elif number == 8:
        content[second + 42 : second + 46] = content[first + 42 : first + 46]  # two entries at one place
    elif number == 9:
        content[-6:-2] = struct.pack("<I", 0xFFFFFFFF)
    elif number == 10:
        content[-2:] = struct.pack("<H", 5000)
    else:
        rng = np.random.default_rng(number)
        for at in rng.integers(first, len(content), number - 9):
            content[at] = rng.integers(256)
    return _write(folder, bytes(content))


@family(6, reasons=("bad-zip", "zip-unsafe"))
def zip_files_as_folders(folder: Path, number: int) -> Path:
    names = (("a", "a/b"), ("a/b", "a"), ("x/y/z", "x/y"), ("a", "a/b/c"), ("s.dcm", "s.dcm/t"), ("a/b/c", "a"))[number]
    return _zip(folder, dict.fromkeys(names, encoded(plain())))


@family(14, entry="index", harmless=True)
def tables_beside_images(folder: Path, number: int) -> Path:
    write_series(folder / "images", ramp(4))
    deep = 100_000
    texts = (
        "[" * deep,
        '{"training": ' + "[" * deep,
        '{"training": 5}',
        '{"training": [{"image": "../../../etc", "label": 3}]}',
        '{"training": [1, null, []], "modality": [[]]}',
        '{"training": [], "channel_names": {"0": {"a": []}}}',
        '{"training": [{"image": "\\u0000", "label": "\\u0000"}]}',
        '{"training": [{"image": "' + "a/" * 5000 + '", "label": "b"}]}',
    )
    tables = (
        b"id,patient\n" + b'"' + b"x" * 400_000,
        b"id,patient\n\0,\0\n",
        b"id,patient\n\xff\xfe,1\n",
        b"id,patient\n" + b"a," * 100_000,
        b"id,patient\n" + b"=cmd|'/c calc'!A1,p\n" * 10,
        b"\n" * 100_000,
    )
    if number < 8:
        (folder / "dataset.json").write_text(texts[number])
    else:
        (folder / "patients.csv").write_bytes(tables[number - 8])
    return folder


@family(12, entry="config")
def yaml_options(folder: Path, number: int) -> Path:
    aliases = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, two in zip("abcdefgh", "bcdefghi", strict=True):
        aliases += f"{two}: &{two} [{', '.join([f'*{one}'] * 9)}]\n"
    text = (
        aliases + "inputs: *i\n",
        "inputs: " + "[" * 20_000,
        "threads: !!python/object/apply:os.system ['true']\n",
        "threads: !!python/name:os.system\n",
        "a: &a\n  b: *a\n",
        "\0\1\2",
        "threads: [1, 2\n",
        "- 1\n- 2\n",
        "threads: 1e999\n",
        "threads: " + "9" * 5000 + "\n",
        "? [1]\n: 2\n",
        aliases + "threads: *i\nnonsense: *h\n",
    )[number]
    (folder / "options.yaml").write_text(text)
    return folder / "options.yaml"


@family(20, reasons=("not-an-image", "truncated", "empty-file", "bad-zip", "bad-dicom", "no-images"))
def junk(folder: Path, number: int) -> Path:
    names = ("a.nii", "a.nii.gz", "a.dcm", "a.nrrd", "a.mha", "a.png", "a.tif", "a.jpg", "a.zip", "a")
    if number < 10:
        return _write(folder, b"" if number % 2 else b"\0" * 999, names[number])
    return _write(folder, np.random.default_rng(number).bytes(3000), names[number - 10])
