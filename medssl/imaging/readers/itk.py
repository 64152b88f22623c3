"""NRRD and MetaImage files, the formats of ITK: a text header and the voxels behind it, or in one file beside it.

NRRD: https://teem.sourceforge.net/nrrd/format.html. MetaImage: https://itk.org/Wiki/ITK/MetaIO/Documentation.
They are read here and not by a library, because a header may name any file and any size: both are checked first.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.guard import refuse_large
from medssl.imaging.readers.packed import unpacked_bytes
from medssl.imaging.volume import UNKNOWN_SIZE, Source, Volume

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
_NRRD = (".nrrd", ".nhdr")
_HEADER_BYTES = 1 << 16
_TO_RAS = {
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}
_MILLIMETRES = ("", "???", "mm", "millimeter", "millimeters", "millimetre", "millimetres")
"""Units of length in NRRD; what is not told counts as mm."""
_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"} | dict.fromkeys(
    ("txt", "text", "ascii"), "text"
)
_NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_META_TYPES = {
    "i1": ("met_char",),
    "u1": ("met_uchar",),
    "i2": ("met_short",),
    "u2": ("met_ushort",),
    "i4": ("met_int",),
    "u4": ("met_uint",),
    "i8": ("met_long_long",),
    "u8": ("met_ulong_long",),
    "f4": ("met_float",),
    "f8": ("met_double",),
}


@dataclass(frozen=True)
class _Layout:
    """What a header says.

    Args:
        sizes: Length of each axis, fastest first.
        channel_axis: The axis that is none of space; None where there is one value a voxel.
        kind: numpy type with byte order.
        encoding: How the voxels are packed: `raw`, `gzip`, `zlib`, `bzip2`, `text`.
        file: File they are in.
        offset: Where in it they begin; -1 at its end.
        affine: (4, 4) to RAS mm.
        sized: The header tells how large a voxel is.
    """

    sizes: tuple[int, ...]
    channel_axis: int | None
    kind: np.dtype[np.generic]
    encoding: str
    file: Path
    offset: int
    affine: npt.NDArray[np.float64]
    sized: bool


def read_itk(path: Path) -> Volume:
    """Read a NRRD, MHA or MHD file as (C, *S).

    Raises:
        ImageError: Missing, truncated, not 2D or 3D, too large, without orientation, or with its voxels elsewhere; 3D
            without a voxel size.
    """
    if not path.is_file():
        raise ImageError(f"{path} does not exist", reason="no-such-file")
    fields, end = _header(path)
    layout = (_nrrd if path.suffix.lower() in _NRRD else _meta)(path, fields, end)
    dims = len(layout.sizes) - (layout.channel_axis is not None)
    if dims not in (2, 3):
        raise ImageError(f"{path}: {dims}D image where 2D or 3D is due", reason="not-3d")
    if any(n < 1 for n in layout.sizes):
        raise _bad(path, "sizes that are not all positive", layout.sizes)
    if dims == 3 and not layout.sized:
        raise ImageError(
            f"{path}: the header gives no voxel size; write the file again with a tool that keeps it",
            reason="bad-spacing",
        )
    count = math.prod(layout.sizes)
    refuse_large(count * layout.kind.itemsize, path)
    values = unpacked_bytes(layout.file, layout.offset, layout.encoding, count, layout.kind)
    array = np.frombuffer(values, dtype=layout.kind).reshape(layout.sizes, order="F")
    array = array.astype(layout.kind.newbyteorder("="), copy=False)
    array = array[None] if layout.channel_axis is None else np.moveaxis(array, layout.channel_axis, 0)
    kind = path.suffix.lower().lstrip(".").replace("nhdr", "nrrd").replace("mhd", "mha")
    source = Source((path,), kind, () if layout.sized else (UNKNOWN_SIZE,), calibrated=layout.sized)
    return Volume(array, Geometry(layout.affine, array.shape[1:]), source=source)


def _nrrd(path: Path, fields: dict[str, str], end: int) -> _Layout:
    sizes = _whole(fields.get("sizes", ""), path)
    dimension = len(sizes)
    if fields.get("dimension") != str(dimension):
        raise _bad(path, f"another dimension than its {dimension} sizes", fields.get("dimension", ""))
    directions = _directions(fields.get("spacedirections", ""), path)
    kinds = fields.get("kinds", "").split()
    apart = [a for a, d in enumerate(directions) if d is None]
    apart = apart or [a for a, kind in enumerate(kinds) if "color" in kind.lower() or kind.lower() == "vector"]
    if len(apart) > 1 or (directions and len(directions) != dimension):
        raise _bad(path, "space directions that do not fit its sizes")
    axes = [a for a in range(dimension) if a not in apart]
    _check_units(path, fields, axes)
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower(), "")
    order = {"little": "<", "big": ">", "": "<"}.get(fields.get("endian", "").lower(), "")
    if not encoding or not order or fields.get("lineskip", "0") != "0":
        raise _bad(path, "an encoding, byte order or line skip that is not read")
    skip = _integer(fields, "byteskip", "0", path)
    file = _data_file(path, fields["datafile"]) if "datafile" in fields else path
    offset = -1 if skip == -1 else skip + (end if file == path else 0)
    kind = _kind(fields.get("type", ""), _NRRD_TYPES, order, path)
    affine, sized = _placed(path, fields, axes, directions), bool(directions) or "spacings" in fields
    return _Layout(sizes, apart[0] if apart else None, kind, encoding, file, offset, affine, sized)


def _check_units(path: Path, fields: dict[str, str], axes: list[int]) -> None:
    """Refuse lengths in another unit than mm, as of NIfTI.

    Raises:
        ImageError: The header names one, for space or for an axis of space.
    """
    space, each = (re.findall(r'"([^"]*)"', fields.get(name, "")) for name in ("spaceunits", "units"))
    units = [*space, *(each[a] for a in axes if a < len(each))]
    foreign = [unit for unit in units if unit.strip().lower() not in _MILLIMETRES]
    if foreign:
        raise ImageError(
            f"{path}: the header gives lengths in another unit than mm (space units): write it anew in mm, or mend the "
            f"unit if it is wrong{_quoted(foreign[0])}",
            reason="length-unit",
        )


def _placed(
    path: Path, fields: dict[str, str], axes: list[int], directions: list[tuple[float, ...] | None]
) -> npt.NDArray[np.float64]:
    """Affine of a NRRD file; 2D has no orientation in the patient and lies like an axial slice."""
    if "spacings" in fields:
        spacings = _numbers(fields["spacings"], path)
        _check_spacing(path, [spacings[a] for a in axes if a < len(spacings)])
    if len(axes) not in (2, 3):
        raise ImageError(f"{path}: {len(axes)}D image where 2D or 3D is due", reason="not-3d")
    affine, flat = np.eye(4), len(axes) == 2
    signs = _TO_RAS.get(fields.get("space", "").lower(), (-1, -1, 1) if flat else None)
    if signs is None or not (directions or flat):
        raise _no_orientation(path)
    if directions:
        columns = [directions[a] or () for a in axes]
        length = len(columns[0]) if columns else 0
        if length not in (2, 3) or (length == 2) > flat or any(len(c) != length for c in columns):
            raise _bad(path, "space directions that do not fit its sizes")
        _check_spacing(path, [float(np.linalg.norm(c)) for c in columns])
        affine[:length, : len(axes)] = np.transpose(columns)
        affine[:length, 3] = _vector(fields.get("spaceorigin", "0 " * length), length, path)
        if flat and length == 3:
            affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] /= np.linalg.norm(affine[:3, 2]) or 1.0
    elif "spacings" in fields:
        affine[0, 0], affine[1, 1] = (spacings[a] for a in axes)
    return np.diag([*map(float, signs), 1.0]) @ affine


def _meta(path: Path, fields: dict[str, str], end: int) -> _Layout:
    sizes = _whole(fields.get("dimsize", ""), path)
    dims = len(sizes)
    if fields.get("ndims") != str(dims):
        raise _bad(path, f"another NDims than its {dims} sizes", fields.get("ndims", ""))
    spacing = _numbers(_first(fields, ("elementspacing", "elementsize"), "1 " * dims), path)
    _check_spacing(path, spacing)
    turned = _first(fields, ("transformmatrix", "rotation", "orientation"), "")
    if not turned and dims == 3:
        raise _no_orientation(path)
    matrix = _numbers(turned, path) if turned else tuple(np.eye(dims).ravel())
    origin = _numbers(_first(fields, ("offset", "position", "origin"), "0 " * dims), path)
    if (len(spacing), len(matrix), len(origin)) != (dims, dims * dims, dims):
        raise _bad(path, "a spacing, matrix or offset of another length than its sizes")
    affine = np.eye(4)
    if dims <= 3:
        affine[:dims, :dims] = np.reshape(matrix, (dims, dims)).T * np.array(spacing)
        affine[:dims, 3] = origin
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    channels = _integer(fields, "elementnumberofchannels", "1", path)
    packed, binary = _true(fields, "compresseddata"), _true(fields, "binarydata", "true")
    big = _true(fields, "binarydatabyteordermsb") or _true(fields, "elementbyteordermsb")
    kind = _kind(fields.get("elementtype", ""), _META_TYPES, ">" if big else "<", path)
    name = fields.get("elementdatafile", "")
    file = path if name.upper() == "LOCAL" else _data_file(path, name)
    head = _integer(fields, "headersize", "0", path)
    offset = -1 if head == -1 else head or (end if file == path else 0)
    encoding = ("zlib" if packed else "raw") if binary else "text"
    axis = None if channels == 1 else 0
    sized = "elementspacing" in fields or "elementsize" in fields
    return _Layout(sizes if axis is None else (channels, *sizes), axis, kind, encoding, file, offset, affine, sized)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of the header, names in lower case without spaces, and where the header ends.

    Raises:
        ImageError: No header, longer than headers are, or a field that is there twice.
    """
    with path.open("rb") as stream:
        block = stream.read(_HEADER_BYTES)
    nrrd = path.suffix.lower() in _NRRD
    if nrrd and not block.startswith(b"NRRD000"):
        raise ImageError(f"{path} is no NRRD file: truncated, damaged or another format", reason="truncated")
    fields: dict[str, str] = {}
    at = 0
    while (stop := block.find(b"\n", at)) >= 0:
        line, at = block[at:stop].decode("latin-1").rstrip("\r"), stop + 1
        if nrrd and not line:
            return fields, at
        cut = None if line.startswith("#") else re.search(":(?!=)" if nrrd else "=", line)
        if not cut or (nrrd and ":=" in line[: cut.end()]):
            continue
        name = re.sub(r"\s", "", line[: cut.start()]).lower()
        if name in fields:
            raise _bad(path, "a field twice", name)
        fields[name] = line[cut.end() :].strip()
        if name == "elementdatafile" and not nrrd:
            return fields, at
    if nrrd and "datafile" in fields and len(block) < _HEADER_BYTES:
        return fields, len(block)  # a header alone may end without an empty line
    raise ImageError(
        f"{path}: the end of the header is missing: truncated, damaged or another format", reason="truncated"
    )


def _data_file(path: Path, name: str) -> Path:
    """The file of voxels beside a header, the only one that a header may name: any path could be named, and read.

    Raises:
        ImageError: A path, a list, a pattern, a link, or no such file.
    """
    file = path.parent / name
    bad = set(name) & set("/\\:%\0") or name.upper().startswith("LIST") or len(name) > 255
    if bad or file.is_symlink() or not file.is_file():
        raise ImageError(
            f"{path} takes its voxels from elsewhere; only one plain file in the same folder is read, no path, "
            f"list or link: put it there, or write the image again as one file{_quoted(name)}",
            reason="detached-data",
        )
    return file


def _bad(path: Path, what: str, found: object = "") -> ImageError:
    """What is wrong with a header, with what stands there."""
    return ImageError(
        f"{path}: the header has {what}: it is damaged, or of a kind that is not read{_quoted(found)}",
        reason="bad-header",
    )


def _quoted(found: object) -> str:
    """What a header holds, which may be a patient's name: below the first line, which alone goes to logs."""
    text = str(found)[:100]
    return f"\n    found: {text!r}" if text else ""


def _no_orientation(path: Path) -> ImageError:
    return ImageError(
        f"{path}: the header gives no orientation, so left and right are unknown; "
        "write the file again with a tool that keeps it",
        reason="no-orientation",
    )


def _check_spacing(path: Path, spacing: npt.ArrayLike) -> None:
    values = np.asarray(spacing, dtype=np.float64)
    if not bool(np.all((values > 0) & np.isfinite(values))):
        raise ImageError(
            f"{path}: the voxel size in the header is not positive{_quoted(values.tolist())}",
            reason="bad-spacing",
        )


def _first(fields: dict[str, str], names: tuple[str, ...], default: str) -> str:
    return next((fields[name] for name in names if name in fields), default)


def _true(fields: dict[str, str], name: str, default: str = "false") -> bool:
    return fields.get(name, default).lower() in ("true", "t", "1")


def _integer(fields: dict[str, str], name: str, default: str, path: Path) -> int:
    text = fields.get(name, default)
    if not re.fullmatch(r"[+-]?\d{1,18}", text):
        raise _bad(path, f"a field {name} that is no whole number", text)
    return int(text)


def _whole(text: str, path: Path) -> tuple[int, ...]:
    parts = text.split()
    if not 1 <= len(parts) <= 16 or not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
        raise _bad(path, "sizes that are none", text)
    return tuple(int(part) for part in parts)


def _numbers(text: str, path: Path) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split())
    except ValueError as error:
        raise _bad(path, "numbers that are none", text) from error


def _vector(text: str, length: int, path: Path) -> tuple[float, ...]:
    values = _numbers(text.strip("() ").replace(",", " "), path)
    if len(values) != length or not np.all(np.isfinite(values)):
        raise _bad(path, "a vector that is none", text)
    return values


def _directions(text: str, path: Path) -> list[tuple[float, ...] | None]:
    parts = re.findall(r"\([^()]*\)|none", text)
    return [None if part == "none" else _numbers(part.strip("()").replace(",", " "), path) for part in parts]


def _kind(name: str, table: Mapping[str, tuple[str, ...]], order: str, path: Path) -> np.dtype[np.generic]:
    code = next((code for code, names in table.items() if name.lower() in names), "")
    if not code:
        raise _bad(path, "a voxel type that is not read", name)
    return np.dtype(order + code)
