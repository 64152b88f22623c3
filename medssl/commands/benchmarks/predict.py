"""`medssl bench predict`: sliding-window inference and start-up beside MONAI with torch, each in its own process."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medssl.commands.benchmarks.comparison import Comparison
from medssl.commands.benchmarks.predict_child import OVERLAP, SHAPE, WINDOW, random_network

_CASE = (36, 50, 36)
"""Size of a hippocampus crop, for the time from start to first mask."""


def run(rounds: int = 3, classes: Sequence[int] = (3, 60)) -> list[Comparison]:
    """Time and peak memory of a 192x192x128 volume, 64^3 windows, overlap 0.5, one thread; and time to a first mask.

    Both sides run the same MONAI UNet with random weights, in turns; a ratio above 1 is in our favour.

    Args:
        rounds: Processes timed on each side; medians are compared.
        classes: Numbers of classes.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="medssl-bench-") as folder:
        for number in classes:
            model = Path(folder) / f"{number}.onnx"
            _write_model(model, number)
            found += _window(model, number, rounds)
        found.append(_first_mask(Path(folder), rounds))
    return found


def _write_model(path: Path, classes: int) -> None:
    from medssl.export.onnx import write_onnx

    write_onnx(random_network(classes), 1, WINDOW, path)


def _window(model: Path, classes: int, rounds: int) -> list[Comparison]:
    results: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for who, list_ in results.items():
            command = [sys.executable, "-m", "medssl.commands.benchmarks.predict_child", who, str(model), str(classes)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            list_.append(json.loads(done.stdout.splitlines()[-1]))
    peer = f"MONAI {version('monai')} sliding_window_inference, torch {version('torch')}, sw_batch_size 4"
    name = f"predict {'x'.join(map(str, SHAPE))}, window {WINDOW[0]}, overlap {OVERLAP}, {classes} classes"
    lines = []
    for key, unit in (("seconds", "s"), ("peak_mb", "MB")):
        mine, theirs = (statistics.median(r[key] for r in results[who]) for who in ("ours", "peer"))
        what = f"{name}: {'time' if unit == 's' else 'peak memory'}"
        lines.append(Comparison(what, unit, mine, theirs, peer, theirs / mine))
    return lines


def _first_mask(folder: Path, rounds: int) -> Comparison:
    """A new process from start to a written mask, beside a new process that only imports torch and monai."""
    from medssl.imaging.geometry import Geometry
    from medssl.imaging.volume import Volume
    from medssl.imaging.writers.nifti import write_nifti

    bundle = _bundle(folder)
    case = folder / "case.nii.gz"
    write_nifti(
        Volume(np.random.default_rng(0).normal(size=(1, *_CASE)).astype(np.float32), Geometry(np.eye(4), _CASE)), case
    )
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for turn in range(rounds + 1):
        predict = ["predict", str(bundle), str(case), "--out", str(folder / f"out{turn}"), "--format", "nifti"]
        commands = {"ours": ["-m", "medssl", *predict], "peer": ["-W", "ignore", "-c", "import torch, monai"]}
        for who, command in commands.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, check=True)
            if turn:  # the first round fills the page cache
                times[who].append(time.perf_counter() - began)
    mine, theirs = (statistics.median(times[who]) for who in ("ours", "peer"))
    return Comparison(
        "start to first mask, hippocampus size", "s", mine, theirs, "python -c 'import torch, monai'", theirs / mine
    )


def _bundle(folder: Path) -> Path:
    """A complete bundle with a random network of hippocampus size."""
    import torch

    from medssl.export.onnx import write_onnx
    from medssl.imaging.files import write_json, write_text
    from medssl.imaging.labels import Label
    from medssl.imaging.preprocess import Preprocess
    from medssl.models.component import Component
    from medssl.models.networks import NetworkSpec, build_network
    from medssl.runtime.bundle import BundleSpec, write_sums

    encoder = Component("medssl.models.unet.ResidualUNetEncoder", {"features": [24, 48, 96, 192]})
    decoder = Component("medssl.models.decoders.UNetDecoder")
    network = build_network(NetworkSpec("segmentation", 3, 1, 3, encoder, decoder)).eval()
    window = (32, 48, 32)
    target = folder / "bundle"
    target.mkdir()
    write_onnx(network, 1, window, target / "model.onnx")
    golden = torch.randn(1, 1, *window)
    with torch.inference_mode():
        np.savez(target / "golden.npz", allow_pickle=False, image=golden.numpy(), logits=network(golden).numpy())
    labels = (Label(1, "a"), Label(2, "b"))
    write_json(
        target / "bundle.json",
        BundleSpec("bench", "segmentation", ("T1",), Preprocess(), window, labels=labels).to_json(),
    )
    write_text(target / "MODEL_CARD.md", "# random weights, for timing\n")
    write_sums(target)
    return target
