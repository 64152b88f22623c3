"""Whether an array of the cache is still what was written: a checksum for each of its chunks, kept in case.json.

A read checks the chunks that it touches, each once a process, so that what it costs follows what is read.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any

import blosc2
import numpy as np

Where = EllipsisType | tuple[slice, ...]
Checksums = dict[str, str]


def checksums_of(array: blosc2.NDArray) -> Checksums:
    """For JSON: how the array is laid out, and the CRC-32 of each compressed chunk in hexadecimal, in their order."""
    chunks = [f"{zlib.crc32(array.schunk.get_chunk(number)):08x}" for number in range(array.schunk.nchunks)]
    return {"layout": _layout(array), "chunks": " ".join(chunks)}


def _told(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "case.json").read_text(encoding="utf-8")))


def _checksums_in(told: dict[str, Any]) -> dict[str, Checksums]:
    """Those of a case's files by name; empty in caches from before they were kept."""
    return dict(told["extra"].get("checksums", {}))


def open_array(path: Path) -> blosc2.NDArray:
    """Open an array for reading through a memory map."""
    return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})


def check_case(folder: Path) -> None:
    """Look at all that a finished case holds; arrays without checksums are decoded instead.

    Raises:
        Exception: Of whatever kind, where something is missing or damaged.
    """
    checks, told = ChunkChecks(), _told(folder)
    written = _checksums_in(told)
    for name in ("image.b2nd", "label.b2nd") if told["has_label"] else ("image.b2nd",):
        array = open_array(folder / name)
        if name in written:
            checks.check(folder / name, array, ...)
        else:
            array[...]
    stream = (folder / "foreground.npz").open("rb")  # numpy would leave a damaged one open
    with stream, np.load(stream, allow_pickle=False) as points:  # zip has checksums of its own
        for value in points.files:
            points[value]


class ChunkChecks:
    """Checks chunks of arrays, and remembers which ones were good."""

    def __init__(self) -> None:
        self._unchecked: dict[Path, dict[int, int]] = {}

    def check(self, path: Path, array: blosc2.NDArray, where: Where) -> None:
        """Check the chunks that `where` touches; arrays without checksums pass.

        Raises:
            ValueError: The layout or a chunk is not what was written.
        """
        if path not in self._unchecked:
            self._unchecked[path] = self._expected(path, array)
        unchecked = self._unchecked[path]
        for number in _touched(array, where) if unchecked else ():
            if number in unchecked:
                if zlib.crc32(array.schunk.get_chunk(number)) != unchecked[number]:
                    raise ValueError(f"chunk {number} is not what was written")
                del unchecked[number]

    @staticmethod
    def _expected(path: Path, array: blosc2.NDArray) -> dict[int, int]:
        """CRC-32 of each chunk; none where none were kept."""
        written = _checksums_in(_told(path.parent)).get(path.name)
        if written is None:
            return {}
        if written["layout"] != _layout(array):
            raise ValueError(f"its layout is {_layout(array)}, it was {written['layout']}")
        return {number: int(text, 16) for number, text in enumerate(written["chunks"].split())}


def _layout(array: blosc2.NDArray) -> str:
    """Type, shape, chunks and blocks: what tells how the chunks' bytes are read."""
    shapes = (array.shape, array.chunks, array.blocks)
    return " ".join([array.dtype.str, *("x".join(str(n) for n in shape) for shape in shapes)])


def _touched(array: blosc2.NDArray, where: Where) -> Sequence[int]:
    """Numbers of the chunks that a part of the array lies in, row by row."""
    if isinstance(where, EllipsisType):
        return range(array.schunk.nchunks)
    numbers = [0]
    for part, n, chunk in zip(where, array.shape, array.chunks, strict=True):
        first, last, _ = part.indices(n)
        places = range(first // chunk, -(-last // chunk))
        numbers = [number * -(-n // chunk) + place for number in numbers for place in places]
    return numbers
