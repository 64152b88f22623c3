"""JPEG and JPEG-LS decoded in a process of their own: GDCM and CharLS end theirs on some damaged files, or are slow.

The child is started with the first such file and stays. A line of JSON goes in for each file, a line of JSON and the
pixels come out; where it dies, the file is refused and the next file gets a new child.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from select import select
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_TIMEOUT_S = 60.0
"""A file that takes longer is refused."""


class Decoder:
    """A child process that decodes files one after the other."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def decode(self, path: Path, shape: Sequence[int]) -> npt.NDArray[np.generic]:
        """Stored values of a file.

        Args:
            path: The file.
            shape: What its header says: ([frames,] rows, columns[, samples]).

        Raises:
            ValueError: They cannot be decoded, or have another shape; the message says why.
        """
        with self._lock:
            try:
                found = self._ask(path, shape)
            except BaseException as error:
                self.close()  # what is left in the pipe would be taken for the next file's
                if not isinstance(error, Exception):
                    raise
                raise ValueError("the decoder ended, took too long or gave nonsense on this file") from error
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def _ask(self, path: Path, shape: Sequence[int]) -> npt.NDArray[np.generic] | str:
        """Stored values, or why there are none."""
        if self._child is None or self._owner != os.getpid() or self._child.poll() is not None:
            self._start()
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise EOFError
        child.stdin.write(json.dumps(str(path.resolve())).encode() + b"\n")
        child.stdin.flush()
        until = time.monotonic() + _TIMEOUT_S
        answer = json.loads(_line(child.stdout, until))
        if "error" in answer:
            return str(answer["error"])
        if answer["shape"] != list(shape):
            self.close()
            return f"its pixels have the shape {answer['shape']}, {list(shape)} is due"
        pixels = np.empty(answer["shape"], dtype=answer["dtype"])
        _fill(child.stdout, pixels.reshape(-1).view(np.uint8).data, until)
        return pixels

    def _start(self) -> None:
        self.close()
        root = str(Path(__file__).parents[3])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._owner = os.getpid()

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None and self._owner == os.getpid():
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    stream.close()


def _some(stream: IO[bytes], size: int, until: float) -> bytes:
    ready, _, _ = select([stream], [], [], max(0.0, until - time.monotonic()))
    block = stream.read(size) if ready else b""
    if not block:
        raise EOFError
    return block


def _line(stream: IO[bytes], until: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _some(stream, 1, until)
    return line


def _fill(stream: IO[bytes], into: memoryview, until: float) -> None:
    at = 0
    while at < len(into):
        block = _some(stream, min(len(into) - at, 1 << 20), until)
        into[at : at + len(block)] = block
        at += len(block)


DECODER = Decoder()
"""The decoder of this process."""
atexit.register(DECODER.close)


def _answer(path: Path) -> tuple[dict[str, Any], npt.NDArray[np.generic]]:
    from medssl.imaging.readers.dicom_pixels import jpeg_pixels  # noqa: PLC0415 (it imports this module)

    try:
        pixels = np.ascontiguousarray(jpeg_pixels(path))
    except Exception as error:  # each decoder has errors of its own
        return {"error": " ".join(str(error).split())[:300] or type(error).__name__}, np.empty(0, np.uint8)
    return {"shape": pixels.shape, "dtype": pixels.dtype.str}, pixels


def _serve() -> None:
    """Answer until standard input is closed; decoders may write to standard output, so answers go elsewhere."""
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        head, pixels = _answer(Path(json.loads(line)))
        out.write(json.dumps(head).encode() + b"\n")
        out.write(pixels.reshape(-1).view(np.uint8).data)
        out.flush()


if __name__ == "__main__":
    _serve()
