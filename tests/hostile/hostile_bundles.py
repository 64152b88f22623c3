"""Bundles that are not what they should be: options, golden cases, graphs."""

import io
import json
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_archives import one_bomb
from hostile_families import family

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from tiny_bundle import _field, _tensor, _value, _varint, onnx_bytes, write_bundle

from medssl.imaging.files import sha256


def _sealed(folder: Path) -> Path:
    """The bundle with fitting hashes, as an attacker would make it."""
    names = ("model.onnx", "bundle.json", "golden.npz", "MODEL_CARD.md")
    text = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    (folder / "SHA256SUMS").write_text(text)
    return folder


def _edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    bundle = write_bundle(folder / "b")
    content = json.loads((bundle / "bundle.json").read_text())
    change(content)
    (bundle / "bundle.json").write_text(json.dumps(content))
    return _sealed(bundle)


@family(12, entry="bundle", reasons=("schema", "schema-version", "bundle-limit"))
def bundle_text(folder: Path, number: int) -> Path:
    bundle = write_bundle(folder / "b")
    text = (
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[]",
        b"null",
        b"\xff\xfe",
        b"",
        b'{"schema_version": 1}',
        b'{"schema_version": 99}',
        b'{"schema_version": ' + b"9" * 5000 + b"}",
        b"{" + b" " * (20 << 20) + b"}",
        b'{"schema_version": NaN}',
        b'"' + b"x" * 999,
    )[number]
    (bundle / "bundle.json").write_bytes(text)
    return _sealed(bundle)


@family(20, entry="bundle", reasons=("schema", "golden", "bundle-limit"))
def bundle_values(folder: Path, number: int) -> Path:
    name, value = (
        ("window", [10**9] * 3),
        ("window", [0, 0, 0]),
        ("window", [-8, 8, 8]),
        ("window", "abc"),
        ("window", [8.5, 8, 8]),
        ("overlap", 1.0),
        ("overlap", -3),
        ("overlap", float("nan")),
        ("mirror_axes", [99]),
        ("activation", "eval"),
        ("labels", [{"value": 999}]),
        ("labels", 5),
        ("channels", []),
        ("channels", [{"a": 1}]),
        ("task", "shell"),
        ("name", {"a": []}),
        ("preprocess", []),
        ("classes", None),
        ("overlap", 0.999999999),
        ("window", [8] * 50),
    )[number]
    return _edited(folder, lambda content: content.update({name: value}))


def _npz(image: bytes, logits: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", image)
        archive.writestr("logits.npy", logits)
    return buffer.getvalue()


def _npy(shape: str, kind: str = "<f4", data: bytes = b"") -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + data


@family(12, entry="bundle", reasons=("golden", "bundle-limit"))
def bundle_golden(folder: Path, number: int) -> Path:
    bundle = write_bundle(folder / "b")
    path = bundle / "golden.npz"
    shape = "(1, 1, 8, 8, 8)"
    if number in (4, 5):
        one_bomb(path, "image.npy", 600 * (number - 3), None if number == 4 else 100)
        return _sealed(bundle)
    content = (
        _npz(_npy("(1000000000000,)"), b""),
        _npz(_npy("(1, 1, 40000, 40000, 10)"), _npy("(1,)")),
        _npz(_npy(shape, "|O"), b""),
        _npz(b"\x80\x04cos\nsystem\n", b""),
        b"",
        b"",
        b"PK\5\6" + bytes(18),
        np.random.default_rng(0).bytes(900),
        _npz(_npy(shape, data=b"\0\0\xc0\x7f" * 512), _npy("(1, 3, 8, 8, 8)", data=b"\0\0\xc0\x7f" * 1536)),
        _npz(_npy("(2, 2)", data=bytes(16)), _npy("(2, 2)", data=bytes(16))),
        _npz(_npy("(" * 200 + ")" * 200), b""),
        path.read_bytes()[:500],
    )[number]
    path.write_bytes(content)
    return _sealed(bundle)


@family(10, entry="bundle", reasons=("zip-limit", "zip-unsafe", "bad-zip", "incomplete", "no-bundle", "hash-mismatch"))
def bundle_archives(folder: Path, number: int) -> Path:
    path = folder / "bundle.zip"
    if number < 4:
        return one_bomb(path, ("model.onnx", "bundle.json")[number % 2], 700 * (number + 1), None if number < 2 else 50)
    bundle = write_bundle(folder / "b")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(bundle.iterdir())[: 5 if number < 7 else number - 6]:
            archive.write(file, file.name if number != 5 else f"../{file.name}")
        if number == 4:
            archive.writestr("../../evil", "x")
    if number == 6:
        path.write_bytes(path.read_bytes()[:-40])
    return path


def _model(
    nodes: list[bytes],
    initializers: list[bytes] = [],  # noqa: B006
    more: bytes = b"",
    inside: bytes = b"",
) -> bytes:
    """A model; `more` are fields of its own, `inside` fields of its graph."""
    window = (8, 8, 8)
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, "g") + inside
    graph += b"".join(_field(5, tensor) for tensor in initializers)
    graph += _field(11, _value("image", ("batch", 1, *window))) + _field(12, _value("logits", ("batch", 3, *window)))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 18)) + more


def _node(kind: str, inputs: list[str], outputs: list[str], domain: str = "", attributes: bytes = b"") -> bytes:
    parts = b"".join(_field(1, n) for n in inputs) + b"".join(_field(2, n) for n in outputs) + _field(4, kind)
    return parts + (_field(7, domain) if domain else b"") + attributes


def _outside(path: str) -> bytes:
    """An initializer whose values lie in another file."""
    entry = _field(1, "location") + _field(2, path)
    return (
        b"".join(_field(1, n) for n in (3, 1, 1, 1, 1))
        + _field(2, 1)
        + _field(8, "weight")
        + _field(13, entry)
        + _field(14, 1)
    )


_CONV = _node("Conv", ["image", "weight", "bias"], ["logits"])
_BIAS = _tensor("bias", (0.0, 0.0, 0.0), (3,))


@family(8, entry="bundle", reasons=("bad-model",))
def onnx_external_data(folder: Path, number: int) -> Path:
    paths = (
        "/etc/passwd",
        "../secret",
        "weight.bin",
        "/dev/zero",
        "/proc/self/mem",
        "golden.npz",
        "../../../etc/hosts",
        "",
    )
    (folder / "secret").write_bytes(bytes(12))
    bundle = write_bundle(folder / "b", _model([_CONV], [_outside(paths[number]), _BIAS]))
    (bundle / "weight.bin").write_bytes(bytes(12))
    return bundle


def _endless() -> bytes:
    """A loop without an end, written as a body that always goes on."""
    true = _field(2, 9) + _field(8, "true") + _field(9, b"\1")
    body = _field(1, _node("Identity", ["go"], ["more"])) + _field(2, "body")
    body += _field(11, _field(1, "i")) + _field(11, _field(1, "go")) + _field(12, _field(1, "more"))
    attribute = _field(5, _field(1, "body") + _field(6, body) + _field(20, 5))
    return _model(
        [_node("Loop", ["", "true"], [], attributes=attribute), _CONV],
        [true, _tensor("weight", (0.0,) * 3, (3, 1, 1, 1, 1)), _BIAS],
    )


def _grown(size: int) -> bytes:
    """A graph that makes a constant of `size` floats."""
    shape = _field(1, 1) + _field(2, 7) + _field(8, "shape") + _field(9, struct.pack("<q", size))
    nodes = [_node("ConstantOfShape", ["shape"], ["big"]), _node("ReduceMax", ["big"], ["top"]), _CONV]
    return _model(
        [*nodes, _node("Add", ["logits", "top"], ["unused"])],
        [shape, _tensor("weight", (0.0,) * 3, (3, 1, 1, 1, 1)), _BIAS],
    )


def _constant(size: int) -> bytes:
    """A node that gives a shape of so many values."""
    tensor = _field(1, 1) + _field(2, 7) + _field(9, struct.pack("<q", size))
    return _node(
        "Constant", [], ["shape"], attributes=_field(5, _field(1, "value") + _field(5, tensor) + _field(20, 4))
    )


def _shape(*sides: int) -> bytes:
    """The attribute `shape`."""
    return _field(5, _field(1, "shape") + b"".join(_field(8, n) for n in sides) + _field(20, 7))


@family(16, entry="bundle", reasons=("bad-model", "golden", "bundle-limit"))
def onnx_operators(folder: Path, number: int) -> Path:
    weight = _tensor("weight", (0.0,) * 3, (3, 1, 1, 1, 1))
    huge = (
        b"".join(_field(1, n) for n in (3, 10**9, 10, 1, 1)) + _field(2, 1) + _field(8, "weight") + _field(9, bytes(12))
    )
    wrong = b"".join(_field(1, n) for n in (3, 1, 1, 1, 1)) + _field(2, 1) + _field(8, "weight") + _field(9, bytes(4))
    model = (
        onnx_bytes(domain="evil.ops"),
        onnx_bytes(domain="com.evil"),
        onnx_bytes(output="other"),
        _model([_node("Shell", ["image"], ["logits"])]),
        _model([_CONV], [huge, _BIAS]),
        _model([_CONV], [wrong, _BIAS]),
        _endless(),
        _grown(10**12),
        _grown(3 * 10**8),
        _model([]),
        _model([_CONV], [weight, _BIAS], _field(20, _field(1, "x"))),
        _model([_node("Conv", ["image", "image", "bias"], ["logits"])], [_BIAS]),
        _model([_node("Conv", ["logits", "w", "b"], ["logits"])]),
        b"\x08\x08" + b"\x3a\xff\xff\xff\xff\x0f",
        _model([_constant(10**12), _node("ConstantOfShape", ["shape"], ["big"]), _CONV], [weight, _BIAS]),
        _model([_node("RandomNormal", [], ["big"], attributes=_shape(10**6, 10**6)), _CONV], [weight, _BIAS]),
    )[number]
    return write_bundle(folder / "b", model, golden_shift=0.5)


def _made_by(shape: bytes, before: bytes = b"") -> bytes:
    """A graph that makes a constant of as many values as `shape` says; `before` lies before the node's own fields."""
    node = before + _node("ConstantOfShape", ["shape"], ["big"])
    return _model([node, _CONV], [shape, _tensor("weight", (0.0,) * 3, (3, 1, 1, 1, 1)), _BIAS])


@family(11, entry="bundle", reasons=("bad-model",))
def onnx_read_in_two_ways(folder: Path, number: int) -> Path:
    """Fields that one reader takes and another leaves: the last of two, sparse values, numbers in unusual forms."""
    shape = _field(1, 1) + _field(2, 7)
    raw = _field(9, struct.pack("<q", 10**12))
    outside, name = _outside("../secret"), _field(1, "value")
    sparse = _field(1, outside) + _field(2, _field(1, 1) + _field(2, 7) + _field(9, bytes(8))) + _field(3, 3)
    far = _varint(1 << 35 | 7 << 3 | 2) + _varint(8) + b"com.evil"
    model = (
        _model([_CONV + _field(4, "Loop")]),
        _model([_CONV + _field(7, "") + _field(7, "com.evil")]),
        _model([_CONV], [_BIAS]) + _field(7, _field(5, _tensor("weight", (0.0,) * 3, (3, 1, 1, 1, 1)))),
        _model([_node("Constant", [], ["c"], attributes=_field(5, name + _field(5, _BIAS) + _field(5, _BIAS)))]),
        _model([_CONV], [_BIAS], inside=_field(15, sparse)),
        _model([_node("Constant", [], ["c"], attributes=_field(5, name + _field(22, sparse)))]),
        _model([_node("Constant", [], ["c"], attributes=_field(5, name + _field(23, sparse)))]),
        _made_by(shape + _field(8, "shape") + _field(7, 1 << 30)),
        _made_by(shape + _field(8, "shape") + raw, _field(1, 3)),
        _model([_CONV], [_BIAS], _field(25, _field(1, "f") + _field(11, name + _field(5, outside)))),
        _model([_CONV + far]),
    )[number]
    return write_bundle(folder / "b", model)


@family(20, entry="bundle", harmless=True)
def onnx_damaged(folder: Path, number: int) -> Path:
    model = bytearray(onnx_bytes())
    if number < 6:
        return write_bundle(folder / "b", bytes(model[: len(model) * number // 6]))
    rng = np.random.default_rng(number)
    for at in rng.integers(0, len(model), number - 5):
        model[at] = rng.integers(256)
    return write_bundle(folder / "b", bytes(model))
