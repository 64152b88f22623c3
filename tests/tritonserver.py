"""NVIDIA's tritonserver on a model repository, for `make test-triton`.

A tritonserver in PATH, as in NVIDIA's container, takes the repository as `medssl triton` wrote it. The wheel
nvidia-pytriton holds tritonserver and its backend for Python, not that of ONNX Runtime: with it the network is computed
by ONNX Runtime in a few lines of Python, and no other line of config.pbtxt changes. It needs numpy 1, so it has an
environment of its own, .venv-triton.
"""

import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BACKEND, PYTHON = 'backend: "onnxruntime"', 'backend: "python"'
MISSING = "unable to find backend library for backend 'onnxruntime', try specifying runtime on the model configuration."
_OPTIONS = ("--strict-readiness=true", "--allow-grpc=false", "--exit-on-error=true")  # as in deploy/triton
_VENV = Path(__file__).parents[1] / ".venv-triton"
_MODEL = """
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        model = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        names = list(request.requested_output_names())
        image = triton.get_input_tensor_by_name(request, "image").as_numpy()
        arrays = self.session.run(names, {"image": image})
        return triton.InferenceResponse([triton.Tensor(name, array) for name, array in zip(names, arrays)])
"""


def _wheel() -> Path | None:
    return next(_VENV.glob("lib/python*/site-packages/pytriton"), None)


def command() -> list[str]:
    """The program with the options of deploy/triton; the test skips where there is none."""
    wheel = _wheel()
    program = shutil.which("tritonserver") or (wheel and str(wheel / "tritonserver" / "bin" / "tritonserver"))
    if not program:
        pytest.skip("tritonserver is tested by make test-triton")
    return [program, *_OPTIONS]


@contextmanager
def tritonserver(repository: Path, port: int = 0) -> Iterator[str]:
    """Serve a model repository on a port of this machine, 0 = a free one; yields the URL."""
    program, wheel = command(), _wheel()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not shutil.which("tritonserver") and wheel:
            repository = _in_python(repository, folder / "repository")
            program.append(f"--backend-directory={_backends(wheel, folder / 'backends')}")
        port = port or _free_port()
        program += [f"--model-repository={repository}", "--http-address=127.0.0.1", f"--http-port={port}"]
        log = folder / "log"
        with log.open("wb") as stream:
            server = subprocess.Popen(
                [*program, "--allow-metrics=false", "--exit-timeout-secs=1"],  # clients keep connections open
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_paths(wheel)},
            )
        try:
            _wait(server, f"http://127.0.0.1:{port}/v2/health/ready", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(60)


def _in_python(repository: Path, copy: Path) -> Path:
    shutil.copytree(repository, copy)
    for config in copy.glob("*/config.pbtxt"):
        text = config.read_text(encoding="utf-8")
        assert text.count(BACKEND) == 1
        config.write_text(text.replace(BACKEND, PYTHON), encoding="utf-8")
        for model in config.parent.glob("*/model.onnx"):
            model.with_name("model.py").write_text(_MODEL)
    return copy


def _backends(wheel: Path, copy: Path) -> Path:
    """The wheel's backend for Python beside the stub that fits its Python, as the wheel's own library puts them."""
    shutil.copytree(wheel / "tritonserver" / "backends", copy)
    version = wheel.parents[1].name.removeprefix("python")
    shutil.copy(
        wheel / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub", copy / "python"
    )
    return copy


def _paths(wheel: Path | None) -> dict[str, str]:
    """Where the server finds its libraries and the Python of its environment."""
    libraries = [os.environ.get("LD_LIBRARY_PATH", ""), sysconfig.get_config_var("LIBDIR") or ""]
    libraries += [str(wheel.parent / "nvidia_pytriton.libs")] if wheel else []
    return {
        "PATH": os.pathsep.join((str(_VENV / "bin"), os.environ.get("PATH", ""))),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (of this machine)
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"tritonserver does not start: {log.read_text(errors='replace')[-3000:]}")
