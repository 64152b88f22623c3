"""Peak memory and time of one very large volume in a process of its own: `python tests/benchmarks/large_volume.py`.

A bundle with a 1x1x1 convolution to many classes stands for a network: what is measured is everything around it (image,
preparation, slab of scores, class map, restoring, report). The network's own memory comes on top, once for a window.
With `--file` the image is written to files first, by another process, and what is measured is `medssl predict`, from
reading them to writing `--formats`. Prints one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS.parent), str(_TESTS)]

import tiny_bundle  # noqa: E402
from dicom_phantom import slice_dataset  # noqa: E402

from medssl.commands.benchmarks.predict_child import peak_mb  # noqa: E402
from medssl.commands.predict import predict  # noqa: E402
from medssl.imaging.files import write_json, write_text  # noqa: E402
from medssl.imaging.geometry import Geometry  # noqa: E402
from medssl.imaging.labels import Label  # noqa: E402
from medssl.imaging.preprocess import Intensity, Preprocess  # noqa: E402
from medssl.imaging.readers.open import read_volume  # noqa: E402
from medssl.imaging.volume import Volume  # noqa: E402
from medssl.imaging.writers.nifti import write_nifti  # noqa: E402
from medssl.runtime.bundle import BundleSpec, write_sums  # noqa: E402
from medssl.runtime.predictor import Predictor  # noqa: E402

FILES = ("dicom", "dicom-float", "nifti", "nifti-float")
_HEADER = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101"}


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


def write_file(kind: str, shape: tuple[int, ...], classes: int, folder: Path) -> Path:
    """The image as one of `FILES`: int16, or float32 (in DICOM by a slope of a half)."""
    volume = image(shape, classes)
    if kind.startswith("nifti"):
        number = np.float32 if kind == "nifti-float" else np.int16
        path = folder / "image.nii.gz"
        write_nifti(Volume(volume.array.astype(number, copy=False), volume.geometry), path)
        return path
    slope, path = 0.5 if kind == "dicom-float" else 1, folder / "image"
    path.mkdir()
    for k in range(shape[2]):
        pixels = np.ascontiguousarray(volume.array[0, :, :, k].T * int(1 / slope), dtype=np.int16)
        dataset = slice_dataset(pixels, (0, 0, k), spacing=(0.8, 0.8), number=k + 1, RescaleSlope=slope, **_HEADER)
        dataset.RescaleIntercept = 0
        dataset.save_as(path / f"{k:04d}.dcm", enforce_file_format=True)
    return path


def measured(given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The image in memory: from preparing it to its mask."""
    predictor = Predictor(folder, threads=1, device="cpu", memory_mb=given.memory_mb)
    before = peak_mb()
    volume = image(tuple(given.shape), given.classes)
    began = time.perf_counter()
    mask = predictor.predict(volume).mask
    seconds = time.perf_counter() - began
    if mask is None:
        raise SystemExit("no mask")
    return {"seconds": seconds, "peak_mb": peak_mb(), "peak_mb_before": before, "right": right(mask, volume)}


def measured_from_file(given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The image in files: the command as it is run."""
    values = [str(n) for n in (*given.shape, "--classes", given.classes)]
    command = [sys.executable, __file__, "--shape", *values, "--file", given.file, "--write-into", str(folder.parent)]
    subprocess.run(command, check=True)
    path = folder.parent / ("image" if given.file.startswith("dicom") else "image.nii.gz")
    before, began, out = peak_mb(), time.perf_counter(), folder.parent / "out"
    predict(folder, [str(path)], out, given.formats, threads=1, device="cpu", memory_mb=given.memory_mb)
    found = {"seconds": time.perf_counter() - began, "peak_mb": peak_mb(), "peak_mb_before": before}
    mask = out / "image" / "seg.nii.gz"
    return found | (
        {"right": right(read_volume(mask), image(tuple(given.shape), given.classes))} if mask.exists() else {}
    )


def right(mask: Volume, volume: Volume) -> float:
    """Share of voxels with the class that their intensity names."""
    planes = range(volume.geometry.shape[2])
    return float(np.mean([(mask.array[0, :, :, k] == volume.array[0, :, :, k]).mean() for k in planes]))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 1000))
    parser.add_argument("--classes", type=int, default=60)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--spacing-mm", type=float, default=0.0, help="resample to it; 0 keeps the image's own")
    parser.add_argument("--memory-mb", type=int, default=2000)
    parser.add_argument("--file", choices=FILES, help="read it from such files, by the command")
    parser.add_argument("--formats", default="nifti,json,png", help="what the command writes")
    parser.add_argument("--write-into", type=Path, help="write the files into this folder, and no more")
    given = parser.parse_args()
    if given.write_into:
        write_file(given.file, tuple(given.shape), given.classes, given.write_into)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = bundle(Path(name) / "bundle", given.classes, given.window, given.overlap, given.spacing_mm)
        found = (measured_from_file if given.file else measured)(given, folder)
    del given.write_into
    sys.stdout.write(json.dumps({**vars(given), **found}) + "\n")


if __name__ == "__main__":
    main()
