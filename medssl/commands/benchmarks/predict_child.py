"""One measured inference in a process of its own, so that its peak memory is its own: `python -m ... WHO MODEL K`.

Prints one line of JSON: seconds of the second of two runs, and the peak resident memory of the process in MB.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, WINDOW, OVERLAP = (192, 192, 128), (64, 64, 64), 0.5


def image() -> np.ndarray:
    """(1, *SHAPE) float32, the same in each process."""
    return np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)


def ours(model: Path, classes: int) -> Callable[[], object]:
    """Runtime of medssl: ONNX Runtime, streamed sliding window, one thread."""
    from medssl.runtime.session import Session
    from medssl.runtime.sliding_window import segment

    session, volume = Session(model, threads=1), image()
    return lambda: segment(volume, WINDOW, session, classes, overlap=OVERLAP, batch_size=1)


def peer(model: Path, classes: int) -> Callable[[], object]:
    """MONAI's sliding window with torch at its faster batch size, one thread."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    torch.set_num_threads(1)
    network = torch.export.load(model.with_suffix(".pt2")).module()
    volume = torch.from_numpy(image())[None]

    def run() -> object:
        with torch.inference_mode():
            logits: Any = sliding_window_inference(volume, WINDOW, 4, network, overlap=OVERLAP, mode="gaussian")
        return logits.argmax(1)

    return run


def main(arguments: list[str]) -> None:
    """Measure `ours` or `peer`."""
    who, model, classes = arguments
    program = {"ours": ours, "peer": peer}[who](Path(model), int(classes))
    program()
    began = time.perf_counter()
    program()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_mb": peak}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
