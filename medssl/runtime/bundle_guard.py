"""What a bundle's files may be before anything else looks at them: sizes, options, a graph that only computes.

The graph is read as the protobuf it is (onnx.proto3), field by field, so that no native code sees what is refused.
"""

import json
import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medssl.imaging.errors import BundleError

MAX_TEXT_BYTES = 8 << 20
"""Largest bundle.json and SHA256SUMS."""
MAX_GOLDEN_BYTES = 1 << 30
"""Largest golden case, unpacked."""
MAX_MODEL_BYTES = 2 << 30
"""Largest graph; protobuf ends there, too."""
MAX_WINDOW = 1 << 28
"""Most voxels of a window."""
_MAX_OVERLAP = 0.95
_DOMAINS = ("", "ai.onnx")
_UNBOUNDED = ("Loop", "Scan")
"""Operators that can go on for ever."""
_FIXED = {1: 8, 5: 4}
"""Bytes of protobuf's values of fixed size, by wire type."""
_ONCE = {
    "model": {1, 2, 3, 4, 5, 6, 7},
    "graph": {2, 10},
    "node": {3, 4, 6, 7, 8},
    "attribute": {1, 2, 3, 4, 5, 6, 13, 14, 20, 21, 22},
    "tensor": {2, 3, 8, 9, 12, 14},
    "function": {1, 8, 10, 13},
}
"""Fields of onnx.proto3 that are not repeated; where one is there twice, protobuf takes the last or joins them."""


def read_options(path: Path) -> dict[str, Any]:
    """The mapping in bundle.json.

    Raises:
        BundleError: Too large, no JSON, nested too deeply, or no mapping.
    """
    refuse_size(path, MAX_TEXT_BYTES)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged ({str(error)[:200]})", reason="schema") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds no mapping", reason="schema")
    return content


def refuse_size(path: Path, limit: int) -> None:
    """Refuse a file that is larger than its kind is.

    Raises:
        BundleError: It is.
    """
    size = path.stat().st_size
    if size > limit:
        raise BundleError(f"{path} has {size} bytes, {limit} are allowed", reason="bundle-limit")


def check_values(values: dict[str, Any]) -> None:
    """Check the values of bundle.json that decide how much is computed.

    Raises:
        ValueError: The first that makes no sense.
    """
    name, channels, window = (values.get(key) for key in ("name", "channels", "window"))
    overlap, mirror = values.get("overlap", 0.5), values.get("mirror_axes", ())
    sizes = [values["spacing_mm"][key] for key in ("smallest", "largest")] if values.get("spacing_mm") else []
    whole = isinstance(window, tuple) and all(isinstance(n, int) and n > 0 for n in window)
    rules = (
        (isinstance(name, str) and name, "name must be a text"),
        (values.get("task") in ("segmentation", "classification"), "task must be segmentation or classification"),
        (channels and all(isinstance(c, str) for c in channels), "channels must be names"),
        (whole and len(window or ()) in (2, 3), "window must be 2 or 3 sizes"),
        (whole and math.prod(window or ()) <= MAX_WINDOW, f"window must have at most {MAX_WINDOW} voxels"),
        (isinstance(overlap, (int, float)) and 0 <= overlap <= _MAX_OVERLAP, f"overlap must be 0 to {_MAX_OVERLAP}"),
        (all(isinstance(axis, int) and 0 <= axis < len(window or ()) for axis in mirror), "mirror_axes must be axes"),
        (all(isinstance(m, str) and m for m in values.get("modalities", ())), "modalities must be names"),
        (all(len(size) == len(window or ()) and min(size) > 0 for size in sizes), "spacing_mm must be sizes a side"),
        (values.get("activation", "softmax") in ("softmax", "sigmoid"), "activation must be softmax or sigmoid"),
    )
    for right, rule in rules:
        if not right:
            raise ValueError(rule)


def check_arrays(path: Path, reason: str) -> None:
    """Check that the arrays of an .npz file are as small as a golden case, by what their headers say.

    Args:
        path: The file.
        reason: Reason code where it is damaged.

    Raises:
        BundleError: They are not, or the file is damaged.
    """
    refuse_size(path, MAX_GOLDEN_BYTES)
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, kind = read(stream)
                total += max(math.prod(shape) * kind.itemsize, entry.file_size)
    except Exception as error:  # zipfile and numpy raise many kinds on damaged files
        raise BundleError(f"{path.name} is damaged ({str(error)[:200]})", reason=reason) from error
    if total > MAX_GOLDEN_BYTES:
        raise BundleError(
            f"{path.name} unpacks to {total} bytes, {MAX_GOLDEN_BYTES} are allowed", reason="bundle-limit"
        )


def check_graph(model: bytes) -> None:
    """Check that a graph is self-contained and made of standard operators that come to an end.

    Constants of gigabytes are refused where their shape stands in the graph; one that the graph computes is not seen.

    Raises:
        BundleError: Values in other files, operators of other domains, loops, a constant of gigabytes, or damaged.
    """
    try:
        for number, value in _fields(model, "model"):
            if number == 7:
                _check_nodes(value, {})
            elif number == 25:  # functions of the model's own
                sizes: dict[str, int] = {}
                for inner, part in _fields(value, "function"):
                    if inner == 7:
                        _check_node(part, sizes)
                    elif inner == 11:
                        _check_attribute(part, sizes)
    except (ValueError, IndexError, struct.error, RecursionError) as error:
        raise BundleError(f"the graph cannot be used: {str(error)[:200]}", reason="bad-model") from error


def _check_nodes(graph: bytes, outer: dict[str, int]) -> None:
    parts = list(_fields(graph, "graph"))
    sizes = dict(outer)
    for number, value in parts:
        if number == 5:
            name, size = _tensor(value)
            sizes[name] = max(size, sizes.get(name, 0))
        elif number == 15:
            raise ValueError("it holds sparse values")
    for number, value in parts:
        if number == 1:
            _check_node(value, sizes)


def _check_node(node: bytes, sizes: dict[str, int]) -> None:
    parts = list(_fields(node, "node"))
    kind = next((v.decode("utf-8", "replace") for n, v in parts if n == 4), "")
    domain = next((v.decode("utf-8", "replace") for n, v in parts if n == 7), "")
    if domain not in _DOMAINS:
        raise ValueError(f"operator {kind[:40]!r} is of the domain {domain[:40]!r}, not of the standard")
    if kind in _UNBOUNDED:
        raise ValueError(f"operator {kind} may never come to an end")
    made = max((_check_attribute(v, sizes) for n, v in parts if n == 5), default=0)
    taken = max((sizes.get(v.decode("utf-8", "replace"), 0) for n, v in parts if n == 1), default=0)
    size = {"ConstantOfShape": taken}.get(kind, made if kind.startswith("Random") else 0)
    if size > MAX_WINDOW:
        raise ValueError(f"it makes a constant of {size} values")
    if kind == "Constant":
        sizes.update({v.decode("utf-8", "replace"): made for n, v in parts if n == 2})


def _check_attribute(attribute: bytes, sizes: dict[str, int]) -> int:
    """Check what an attribute holds; the product of its numbers where it is a shape, as in `_tensor`, 0 otherwise."""
    size, numbers = 0, []
    for number, value in _fields(attribute, "attribute"):
        if number in (5, 10):
            size = max(size, _tensor(value)[1])
        elif number in (6, 11):
            _check_nodes(value, sizes)
        elif number in (22, 23):
            raise ValueError("it holds sparse values")
        elif number == 8:
            numbers += list(_packed(value))
    return max(size, math.prod(numbers) if numbers else 0)


def _tensor(tensor: bytes) -> tuple[str, int]:
    """Name of a tensor, and the product of its values where they are a few whole numbers, as a shape is.

    Raises:
        ValueError: Its values lie in another file.
    """
    name, values = "", []
    kind, raw = 0, b""
    for number, value in _fields(tensor, "tensor"):
        if number == 13 or (number == 14 and any(_packed(value))):
            raise ValueError("values of the network lie in another file")
        if number == 8:
            name = value.decode("utf-8", "replace")
        elif number == 2:
            kind = next(_packed(value), 0)
        elif number == 9:
            raw = value
        elif number == 7:
            values += list(_packed(value))
    if kind == 7 and 0 < len(raw) <= 64 and len(raw) % 8 == 0:
        values = list(struct.unpack(f"<{len(raw) // 8}q", raw))
    return name, math.prod(values) if kind == 7 and values else 0


def _packed(block: bytes) -> Iterator[int]:
    at = 0
    while at < len(block):
        value, at = _varint(block, at)
        yield value


def _varint(block: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = block[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number in the file is too long")


def _fields(message: bytes, kind: str) -> Iterator[tuple[int, bytes]]:
    """Fields of a protobuf message of a kind in `_ONCE`; a number comes as the bytes it is written with.

    Raises:
        ValueError: Damaged, or a field twice that is there once: others would read another value than we do.
    """
    at, view = 0, memoryview(message)
    seen: set[int] = set()
    while at < len(message):
        key, at = _varint(message, at)
        number, wire, start = key >> 3, key & 7, at
        if key >> 32:  # readers cut the number of a field to 32 bits
            raise ValueError("the number of a field is too large")
        if number in _ONCE[kind] & seen:
            raise ValueError(f"field {number} of a {kind} is there twice")
        seen.add(number)
        if wire == 0:
            _, at = _varint(message, at)
            yield number, bytes(view[start:at])
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise ValueError("the file is no graph, or damaged")
        if at + size > len(message):
            raise ValueError("the file ends too early")
        yield number, bytes(view[at : at + size])
        at += size
