"""Peak memory and time of one very large volume in a process of its own: `python tests/benchmarks/large_volume.py`.

A bundle with a 1x1x1 convolution to many classes stands for a network: what is measured is everything around it (image,
preparation, slab of scores, class map, restoring, report). The network's own memory comes on top, once for a window.
Prints one line of JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medssl.commands.benchmarks.predict_child import peak_mb
from medssl.imaging.files import write_json, write_text
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.preprocess import Intensity, Preprocess
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import BundleSpec, write_sums
from medssl.runtime.predictor import Predictor

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_bundle


def bundle(folder: Path, classes: int, side: int, overlap: float, spacing_mm: float) -> Path:
    """A bundle whose class k has the logit `k * x - k**2 / 2`: the nearest whole number to the intensity."""
    folder.mkdir()
    window, numbers = (side,) * 3, range(classes)
    weight, bias = [float(k) for k in numbers], [-k * k / 2 for k in numbers]
    (folder / "model.onnx").write_bytes(tiny_bundle.onnx_bytes(window, weight=weight, bias=bias))
    image = np.random.default_rng(0).uniform(0, classes, size=(1, 1, *window)).astype(np.float32)
    logits = np.stack([image[:, 0] * np.float32(w) + np.float32(b) for w, b in zip(weight, bias, strict=True)], axis=1)
    np.savez(folder / "golden.npz", allow_pickle=False, image=image, logits=logits)
    spec = BundleSpec(
        name="large",
        task="segmentation",
        channels=("CT",),
        preprocess=Preprocess(spacing_mm=(spacing_mm,) * 3 if spacing_mm else None, intensity=Intensity("none")),
        window=window,
        overlap=overlap,
        labels=tuple(Label(k, f"class_{k}") for k in numbers if k),
        golden_tolerance=0.1,
    )
    write_json(folder / "bundle.json", spec.to_json())
    write_text(folder / "MODEL_CARD.md", "# large\n")
    write_sums(folder)
    return folder


def image(shape: tuple[int, ...], classes: int) -> Volume:
    """int16; every class in the middle quarter of each plane, background around it."""
    array = np.zeros((1, *shape), dtype=np.int16)
    middle = tuple(slice(n // 4, n // 4 + n // 2) for n in shape[:2])
    across = np.add.outer(np.arange(shape[0] // 2), np.arange(shape[1] // 2)) // 16
    for plane in range(shape[2]):
        array[0, :, :, plane][middle] = (across + plane // 20) % classes
    return Volume(array, Geometry(np.diag([-0.8, -0.8, 1.0, 1.0]), shape))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 1000))
    parser.add_argument("--classes", type=int, default=60)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--spacing-mm", type=float, default=0.0, help="resample to it; 0 keeps the image's own")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = bundle(Path(name) / "bundle", given.classes, given.window, given.overlap, given.spacing_mm)
        predictor = Predictor(folder, threads=1, device="cpu")
        before = peak_mb()
        volume = image(tuple(given.shape), given.classes)
        began = time.perf_counter()
        prediction = predictor.predict(volume)
        seconds = time.perf_counter() - began
    mask = prediction.mask
    if mask is None:
        raise SystemExit("no mask")
    same = float(np.mean([(mask.array[0, :, :, k] == volume.array[0, :, :, k]).mean() for k in range(given.shape[2])]))
    found = {"seconds": seconds, "peak_mb": peak_mb(), "peak_mb_before": before, "right": same}
    sys.stdout.write(json.dumps({**vars(given), **found}) + "\n")


if __name__ == "__main__":
    main()
