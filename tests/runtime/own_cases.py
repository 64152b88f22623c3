"""Cases of a hospital for `verify --cases`: images whose masks by the tiny bundle are known, and drawn references."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from complete_bundle import finish
from tiny_bundle import write_bundle

from medssl.__main__ import main
from medssl.imaging.files import csv_text
from medssl.imaging.geometry import Geometry
from medssl.imaging.preprocess import Intensity, Preprocess
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

SIZE = {2: (10, 12), 3: (10, 12, 8)}
SPACING_MM = (0.5, 1.0, 2.0)
GREY = np.array([0.0, 15.0, 25.0], dtype=np.float32)
"""Intensity that the tiny bundle gives each label value."""
INTERVALS = {
    "coverage": 0.9,
    "patients": 9,
    "meaning": "of patients like those of the validation",
    "labels": {"1": {"quantile": 0.2, "floor_ml": 0.01}},
}


def site_bundle(folder: Path, dims: int = 3, classes: Sequence[str] = (), **entries: Any) -> Path:
    """The tiny bundle in 2D or 3D, of two structures or of classes, with everything that `verify` asks for."""
    preprocess = Preprocess(spatial_dims=dims, intensity=Intensity("none"))
    task = {"task": "classification", "classes": tuple(classes), "labels": ()} if classes else {}
    return finish(write_bundle(folder, window=(8,) * dims, preprocess=preprocess, **task, **entries))


def block(dims: int, value: int, length: int) -> np.ndarray:
    """Label map with a box of `value` that is `length` voxels long and 3 wide."""
    labels = np.zeros(SIZE[dims], dtype=np.uint8)
    labels[(slice(0, length), *(slice(2, 5) for _ in range(dims - 1)))] = value
    return labels


def write_image(path: Path, array: np.ndarray, shift_mm: float = 0.0) -> str:
    """An image or label map as NIfTI, in 2D a slice of one; what the manifest says of it."""
    affine = np.diag([*SPACING_MM, 1.0])
    affine[0, 3] = shift_mm
    solid = array.reshape(*array.shape, *(1,) * (3 - array.ndim))
    write_nifti(Volume(solid[None], Geometry(affine, solid.shape)), path)
    return path.name if array.ndim == 3 else f"{path.name}#slice=2:0"


def write_case(folder: Path, name: str, found: np.ndarray, drawn: np.ndarray | None, **columns: str) -> dict[str, str]:
    """Row of the manifest: the bundle finds one label map, the expert drew the other."""
    folder.mkdir(exist_ok=True)
    image = write_image(folder / f"{name}.nii.gz", GREY[found])
    label = "" if drawn is None else write_image(folder / f"{name}_mask.nii.gz", drawn)
    return {"case": name, "patient": columns.pop("patient", name), "image": image, "label": label, **columns}


def write_manifest(folder: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Manifest of the site."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = csv_text(names, [[row.get(name, "") for name in names] for row in rows])
    (folder / "own.csv").write_text(text, encoding="utf-8")
    return folder / "own.csv"


def verify(bundle: Path, cases: Path, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Exit code of `medssl verify --cases`, and what it wrote as JSON."""
    out.mkdir(exist_ok=True)
    files = ["--checklist", str(out / "pq.md"), "--json", str(out / "pq.json"), "--cases", str(cases), "--threads", "1"]
    code = main(["verify", str(bundle), *files, *more])
    written = out / "pq.json"
    return code, json.loads(written.read_text())["performance"] if written.exists() else {}
