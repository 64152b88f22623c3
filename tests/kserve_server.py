"""A small server of KServe's v2 protocol over HTTP, with Triton's binary extension: it computes a model repository.

Written for tests that run everywhere: model configuration from config.pbtxt, and inference by ONNX Runtime, refusing
what tritonserver refuses. `make test-triton` runs the same tests against tritonserver itself (tritonserver.py).
"""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def _configuration(folder: Path) -> dict[str, Any]:
    text = (folder / "config.pbtxt").read_text()
    tensors = {
        kind: [{"name": n, "data_type": t, "dims": d.split(",")} for n, t, d in re.findall(
            r'\{ name: "(\w+)" data_type: (\w+) dims: \[ ([\d, ]+) \] \}', text.split(f"{kind} [")[1].split("\n]")[0])]
        for kind in ("input", "output")
    }  # fmt: skip
    pairs = re.findall(r'parameters \{ key: "(\w+)" value: \{ string_value: "(\w+)" \} \}', text)
    most = int(re.findall(r"max_batch_size: (\d+)", text)[0])
    parameters = {key: {"string_value": value} for key, value in pairs}
    return {"name": folder.name, "max_batch_size": most, **tensors, "parameters": parameters}


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    repository: Path

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _send(self, status: int, head: bytes, more: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if more else "application/json")
        self.send_header("Content-Length", str(len(head) + len(more)))
        if more:
            self.send_header("Inference-Header-Content-Length", str(len(head)))
        self.end_headers()
        self.wfile.write(head + more)

    def _model(self) -> Path | None:
        """The latest version of a model, the one that is served; names are not decoded."""
        found = re.match(r"/v2/models/([^/]+)/(?:versions/(\d+)/)?", self.path)
        folder = self.repository / found[1] if found else None
        if not found or not folder or not folder.is_dir():
            return None
        latest = max((place for place in folder.iterdir() if place.is_dir()), key=lambda place: int(place.name))
        return latest if found[2] in (None, latest.name) else None

    def do_GET(self) -> None:
        model = self._model()
        if model is None:
            return self._send(400, b'{"error": "unknown model"}')
        return self._send(200, json.dumps(_configuration(model.parent)).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        model, split = self._model(), int(self.headers["Inference-Header-Content-Length"])
        request = json.loads(body[:split])
        given = request["inputs"][0]
        if model is None or given["parameters"]["binary_data_size"] != len(body) - split:
            return self._send(400, b'{"error": "unknown model or wrong size"}')
        if given["shape"][0] > _configuration(model.parent)["max_batch_size"]:
            return self._send(400, b'{"error": "batch too large"}')
        image = np.frombuffer(body[split:], dtype="<f4").reshape(given["shape"])
        session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
        names = [output["name"] for output in request["outputs"]]
        arrays = [array.astype("<f4") for array in session.run(names, {given["name"]: image})]
        outputs = [
            {"name": n, "datatype": "FP32", "shape": a.shape, "parameters": {"binary_data_size": a.nbytes}}
            for n, a in zip(names, arrays, strict=True)
        ]
        head = json.dumps({"model_name": model.parent.name, "model_version": model.name, "outputs": outputs}).encode()
        return self._send(200, head, b"".join(a.tobytes() for a in arrays))


class _Server(ThreadingHTTPServer):
    """Ends its connections, too, when it ends: clients keep them open."""

    def __init__(self, port: int, handler: type[_Handler]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.open: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.open.append(connection)
        return connection, address

    def server_close(self) -> None:
        for connection in self.open:
            with suppress(OSError):  # ended already
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


@contextmanager
def kserve(repository: Path, port: int = 0) -> Iterator[str]:
    """Serve a model repository on a port of this machine, 0 = a free one; yields the URL."""
    handler = type("Handler", (_Handler,), {"repository": repository})
    server = _Server(port, handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
