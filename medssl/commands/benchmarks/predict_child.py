"""One measured inference in a process of its own, so that its peak memory is its own: `python -m ... WHO MODEL K`.

Prints one line of JSON: seconds of a run after a single window as warm-up, and the peak resident memory in MB.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, WINDOW, OVERLAP = (192, 192, 128), (64, 64, 64), 0.5
_WIDTH = 16


def image(shape: Sequence[int]) -> np.ndarray:
    """(1, *shape) float32, the same in each process."""
    return np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)


def random_network(classes: int) -> Any:
    """MONAI's UNet, the same random weights in each process.

    Many classes come from a last 1x1x1 convolution of 16 channels: MONAI's own last unit works on as many channels as
    there are classes, which would leave nothing to measure but one convolution.
    """
    import torch
    from monai.networks.nets.unet import UNet

    torch.manual_seed(0)
    last = torch.nn.Conv3d(_WIDTH, classes, 1) if classes > _WIDTH else torch.nn.Identity()
    network = UNet(3, 1, min(classes, _WIDTH), (_WIDTH, 32, 64, 128), (2, 2, 2), num_res_units=2)
    return torch.nn.Sequential(network, last).eval()


def ours(model: Path, classes: int) -> Callable[[np.ndarray], object]:
    """Runtime of medssl: ONNX Runtime, streamed sliding window, one thread."""
    from medssl.runtime.session import Session
    from medssl.runtime.sliding_window import segment

    session = Session(model, threads=1)
    return lambda volume: segment(volume, WINDOW, session, classes, overlap=OVERLAP, batch_size=1)


def peer(model: Path, classes: int) -> Callable[[np.ndarray], object]:
    """MONAI's sliding window with torch at its faster batch size, one thread; it needs no `model` file."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    torch.set_num_threads(1)
    network = random_network(classes)

    def run(volume: np.ndarray) -> object:
        with torch.inference_mode():
            image = torch.from_numpy(volume)[None]
            logits: Any = sliding_window_inference(image, WINDOW, 4, network, overlap=OVERLAP, mode="gaussian")
        return logits.argmax(1)

    return run


def main(arguments: list[str]) -> None:
    """Measure `ours` or `peer`."""
    who, model, classes = arguments
    program = {"ours": ours, "peer": peer}[who](Path(model), int(classes))
    program(image(WINDOW))
    volume = image(SHAPE)
    began = time.perf_counter()
    program(volume)
    seconds = time.perf_counter() - began
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}) + "\n")


def peak_mb() -> float:
    """Peak resident memory of this process; Linux also counts the parent's in ru_maxrss, until the program begins."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(sys.argv[1:])
