"""A bundle small enough to write by hand: a 1x1x1 convolution as ONNX, without the onnx package.

The graph is `Conv(image, weight, bias) -> logits`, in 3D unless the window has two sizes, with 1 input and 3 output
channels: class k has the logit `weight[k] * x + bias[k]`, x the first channel or, where there are several, their sum.
A classification has the mean of the logits over the window. Features, where they are asked for, are the mean of each
channel. `onnx_bytes` encodes the protobuf of onnx.proto3 field by field. A wider kernel, of zeros around that weight,
computes the same and takes its time.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl.imaging.files import write_json
from medssl.imaging.labels import Code, Label
from medssl.imaging.preprocess import Intensity, Preprocess
from medssl.runtime.bundle import GATE_FILE, BundleSpec, write_sums
from medssl.runtime.confidence import Gate

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


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, kind)


def onnx_bytes(
    window: Sequence[int] = (8, 8, 8),
    domain: str = "",
    output: str = "logits",
    channels: int = 1,
    features: bool = False,
    weight: Sequence[float] = WEIGHT,
    bias: Sequence[float] = BIAS,
    *,
    pooled: bool = False,
    kernel: int = 1,
) -> bytes:
    """ModelProto of the convolution, with a kernel so wide (odd); `pooled` gives a classification."""
    same = _field(5, _field(1, "auto_pad") + _field(4, "SAME_UPPER") + _field(20, 3))
    node = _node("Conv", ("image", "weight", "bias"), "map" if pooled else output) + same
    node += _field(7, domain) if domain else b""
    sizes = (kernel,) * len(window)
    rim = (0.0,) * (kernel ** len(window) // 2)
    classes, spread = len(bias), [v for value in weight for _ in range(channels) for v in (*rim, value, *rim)]
    graph = (
        _field(1, node)
        + _field(2, "tiny")
        + _field(5, _tensor("weight", spread, (classes, channels, *sizes)))
        + _field(5, _tensor("bias", bias, (classes,)))
        + _field(11, _value("image", ("batch", channels, *window)))
        + _field(12, _value(output, ("batch", classes, *(() if pooled else window))))
    )
    if pooled:
        graph += _field(1, _node("GlobalAveragePool", ("map",), "mean"))
        graph += _field(1, _node("Flatten", ("mean",), output))
    if features:
        graph += _field(1, _node("GlobalAveragePool", ("image",), "pooled"))
        graph += _field(1, _node("Flatten", ("pooled",), "features"))
        graph += _field(12, _value("features", ("batch", channels)))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 18))


def write_bundle(
    folder: Path,
    model: bytes | None = None,
    golden_shift: float = 0.0,
    *,
    gate: Gate | None = None,
    **entries: Any,
) -> Path:
    """Write a complete bundle that thresholds raw intensities.

    Args:
        folder: Its folder.
        model: Graph in place of the plain one.
        golden_shift: Added to the logits of the golden case.
        gate: Gate on the mean of each channel.
        **entries: Entries of its BundleSpec that are not the usual ones, `channels` for instance.
    """
    folder.mkdir(parents=True)
    window, channels = entries.get("window", (8, 8, 8)), len(entries.get("channels", ("CT",)))
    pooled, outputs = entries.get("task") == "classification", len(entries.get("classes", "")) or len(BIAS)
    weight, bias = WEIGHT[:outputs], BIAS[:outputs]
    plain = onnx_bytes(window, "", "logits", channels, gate is not None, weight, bias, pooled=pooled)
    (folder / "model.onnx").write_bytes(plain if model is None else model)
    labels = (
        Label(1, "low", Code("10200004", "SCT", "Liver"), Code("123037004", "SCT", "Anatomical Structure")),
        Label(2, "high"),
    )
    usual: dict[str, Any] = {
        "name": "tiny",
        "task": "segmentation",
        "channels": ("CT",),
        "preprocess": Preprocess(intensity=Intensity("none")),
        "window": window,
        "labels": labels,
        "provenance": {"fingerprint": {"spacing_mm": {"smallest": [0.4, 0.4, 2.0], "largest": [1.0, 1.0, 3.0]}}},
    }
    if gate is not None:
        usual["gate"] = {"neighbours": gate.neighbours, "threshold": gate.threshold, "quantile": 0.95, "near": {}}
        np.savez(folder / GATE_FILE, mean=gate.mean, scale=gate.scale, embeddings=gate.embeddings)
    write_json(folder / "bundle.json", BundleSpec(**{**usual, **entries}).to_json())
    image = np.linspace(0, 30 / channels, 2 * channels * int(np.prod(window)), dtype=np.float32)
    image = image.reshape(2, channels, *window)
    shape, space = (1, outputs, *(1 for _ in window)), tuple(range(2, 2 + len(window)))
    summed = image.sum(axis=1, keepdims=True)
    logits = summed * np.float32(weight).reshape(shape) + np.float32(bias).reshape(shape) + np.float32(golden_shift)
    logits = logits.mean(axis=space) if pooled else logits
    extra = {} if gate is None else {"features": image.mean(axis=space)}
    np.savez(folder / "golden.npz", allow_pickle=False, image=image, logits=logits, **extra)
    (folder / "MODEL_CARD.md").write_text("# tiny\n", encoding="utf-8")
    write_sums(folder)
    return folder
