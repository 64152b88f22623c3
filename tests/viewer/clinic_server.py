"""The real server for tests of its page: `medssl serve` in a process of its own, with bundles of a few bytes."""

import json
import re
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import write_bundle

from medssl.imaging.files import write_json
from medssl.imaging.preprocess import Intensity, Preprocess
from medssl.runtime.bundle import write_sums

CLASSES = ("calm", "stormy")


@dataclass
class Served:
    """A running server.

    Args:
        url: Where its page is.
        process: The server.
        token: What it asks for, empty where it asks for none.
    """

    url: str
    process: "subprocess.Popen[str]"
    token: str = ""

    def ask(self, path: str, data: bytes | None = None, **headers: str) -> Any:
        """JSON that the REST interface answers."""
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return json.loads(self.fetch(path, data, headers))

    def fetch(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        """What the REST interface answers."""
        request = urllib.request.Request(f"{self.url}/api/{path}", data, headers or {})  # noqa: S310 (our own server)
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return bytes(answer.read())

    def submit(self, model: str, *files: Path) -> str:
        """Id of a job for these files."""
        mark = uuid.uuid4().hex
        parts = [f'--{mark}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'.encode()]
        for number, file in enumerate(files):
            name = f"{number}{''.join(file.suffixes)}"
            head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
            parts.append(head.encode() + file.read_bytes() + b"\r\n")
        body = b"".join(parts) + f"--{mark}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={mark}"
        return str(self.ask("jobs", body, **{"Content-Type": content_type})["id"])

    def finished(self, job: str, seconds: float = 60) -> dict[str, Any]:
        """A job once it is done or failed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found: dict[str, Any] = self.ask(f"jobs/{job}")
            if found["state"] in ("done", "failed"):
                return found
            time.sleep(0.05)
        raise TimeoutError(f"job {job} did not end: {found}")

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def serving(data: Path, bundles: Sequence[Path], *options: str, token: str = "") -> Iterator[Served]:
    """A server on a free port, stopped at the end."""
    command = [sys.executable, "-m", "medssl", "serve", *map(str, bundles)]
    command += ["--data", str(data), "--http.port", "0", "--queue.threads", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"https?://[\d.]+:\d+", line)
        served = Served(found.group() if found else "", process, token)
        try:
            if found is None:
                raise RuntimeError(f"the server did not start: {line}")
            yield served
        finally:
            if process.poll() is None:
                served.stop()


def thresholding(folder: Path, name: str, low: float, high: float) -> Path:
    """A segmentation bundle: structure `low` from one intensity on, `high` from another on."""
    # class k has the logit k * x + bias_k: 1 beats 0 above -bias_1, 2 beats 1 above bias_1 - bias_2
    bias = np.array([0.0, -low, -low - high], dtype=np.float32)
    weight = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1, 1)
    nodes = [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"])]
    batch = _batch(1, 3)
    logits = batch * weight[None, :, 0] + bias.reshape(1, 3, 1, 1, 1)
    return _bundle(folder, nodes, {"weight": weight, "bias": bias}, (batch, logits), {"name": name})


def classifying(folder: Path, name: str, channels: tuple[str, ...] = ("CT",), dims: int = 3) -> Path:
    """A classification bundle: the mean intensity of a window says how stormy it is."""
    weight = np.repeat(np.array([[-0.1], [0.1]], dtype=np.float32), len(channels), axis=1)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
    ]
    batch = _batch(len(channels), dims)
    logits = batch.mean(axis=tuple(range(2, 2 + dims))) @ weight.T
    preprocess = Preprocess(spatial_dims=dims, intensity=Intensity("none")).to_json()
    changes = {"name": name, "task": "classification", "labels": [], "classes": list(CLASSES), "channels": channels}
    changes |= {"window": batch.shape[2:], "preprocess": preprocess}
    return _bundle(folder, nodes, {"weight": weight}, (batch, logits), changes)


def _batch(channels: int, dims: int) -> np.ndarray:
    """Two windows, (2, channels, 8, 8) or (2, channels, 8, 8, 8)."""
    return np.linspace(0, 30, 2 * channels * 8**dims, dtype=np.float32).reshape(2, channels, *(8,) * dims)


def _bundle(
    folder: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    golden: tuple[np.ndarray, np.ndarray],
    changes: dict[str, Any],
) -> Path:
    """The tiny bundle with another graph, the golden logits that belong to it, and other entries."""
    write_bundle(folder)
    image, logits = golden
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *image.shape[1:]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *logits.shape[1:]])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "model.onnx"
    )
    np.savez(folder / "golden.npz", image=image, logits=logits.astype(np.float32))
    content = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    write_json(folder / "bundle.json", content | {"intended_use": f"Tests of {changes['name']}."} | changes)
    (folder / "MODEL_CARD.md").write_text(f"# {changes['name']}\n\n<b>Not bold.</b>\n", encoding="utf-8")
    write_sums(folder)
    return folder
