"""A bundle small enough to write by hand: a 1x1x1 convolution as ONNX, without the onnx package.

The graph is `Conv(image, weight, bias) -> logits` in 3D with 1 input and 3 output channels: class k has the logit
`weight[k] * x + bias[k]`. `onnx_bytes` encodes the protobuf of onnx.proto3 field by field.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medssl.imaging.files import write_json
from medssl.imaging.labels import Code, Label
from medssl.imaging.preprocess import Intensity, Preprocess
from medssl.runtime.bundle import BundleSpec, write_sums

WEIGHT, BIAS = (0.0, 1.0, 2.0), (0.0, -10.0, -30.0)
"""Background below 10, class 1 from 10 to 20, class 2 above 20."""


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _tensor(name: str, values: Sequence[float], shape: Sequence[int]) -> bytes:
    raw = struct.pack(f"<{len(values)}f", *values)
    return b"".join(_field(1, n) for n in shape) + _field(2, 1) + _field(8, name) + _field(9, raw)


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_field(1, _field(1, n) if isinstance(n, int) else _field(2, n)) for n in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))


def onnx_bytes(window: Sequence[int] = (8, 8, 8), domain: str = "", output: str = "logits") -> bytes:
    """ModelProto of the 1x1x1 convolution."""
    node = b"".join(_field(1, name) for name in ("image", "weight", "bias")) + _field(2, output) + _field(4, "Conv")
    node += _field(7, domain) if domain else b""
    graph = (
        _field(1, node)
        + _field(2, "tiny")
        + _field(5, _tensor("weight", WEIGHT, (3, 1, 1, 1, 1)))
        + _field(5, _tensor("bias", BIAS, (3,)))
        + _field(11, _value("image", ("batch", 1, *window)))
        + _field(12, _value(output, ("batch", 3, *window)))
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 18))


def write_bundle(folder: Path, model: bytes | None = None, golden_shift: float = 0.0) -> Path:
    """Write a complete bundle that thresholds raw intensities."""
    folder.mkdir(parents=True)
    window = (8, 8, 8)
    (folder / "model.onnx").write_bytes(onnx_bytes(window) if model is None else model)
    labels = (
        Label(1, "low", Code("10200004", "SCT", "Liver"), Code("123037004", "SCT", "Anatomical Structure")),
        Label(2, "high"),
    )
    spec = BundleSpec(
        name="tiny",
        task="segmentation",
        channels=("CT",),
        preprocess=Preprocess(intensity=Intensity("none")),
        window=window,
        labels=labels,
        provenance={"fingerprint": {"spacing_mm": {"smallest": [0.4, 0.4, 2.0], "largest": [1.0, 1.0, 3.0]}}},
    )
    write_json(folder / "bundle.json", spec.to_json())
    image = np.linspace(0, 30, 2 * 512, dtype=np.float32).reshape(2, 1, *window)
    shape = (1, 3, 1, 1, 1)
    logits = image * np.float32(WEIGHT).reshape(shape) + np.float32(BIAS).reshape(shape) + np.float32(golden_shift)
    np.savez(folder / "golden.npz", allow_pickle=False, image=image, logits=logits)
    (folder / "MODEL_CARD.md").write_text("# tiny\n", encoding="utf-8")
    write_sums(folder)
    return folder
