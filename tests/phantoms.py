"""A cache of ellipsoids on noise, written as `prepare` writes it: a task that a small network learns in seconds."""

from pathlib import Path

import numpy as np

from medssl.data.cache import Cache, CachedCase, write_case
from medssl.imaging.files import write_json
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.preprocess import Preprocess, Restoration


def phantom(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image (1, *S) and label (*S): a bright ellipsoid of class 1 with a dark core of class 2 on noise."""
    centre = [n * rng.uniform(0.4, 0.6) for n in shape]
    radii = [n * rng.uniform(0.25, 0.38) for n in shape]
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    distance = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True))
    label = (distance < 1).astype(np.uint8) + (distance < 0.3)
    image = np.array([0.0, 2.0, -2.0], dtype=np.float32)[label] + 0.5 * rng.standard_normal(shape).astype(np.float32)
    return ((image - image.mean()) / image.std()).astype(np.float32)[None], label.astype(np.uint8)


def phantom_cache(
    path: Path, dims: int, patients: int, *, sides: int = 1, held: int = 2, ignore_label: int | None = None
) -> Cache:
    """Patients `p0`, `p1` ... with `sides` cases each; the last `held` are split test, as many before them val."""
    rng = np.random.default_rng(0)
    names = []
    for patient in range(patients):
        split = "test" if patient >= patients - held else "val" if patient >= patients - 2 * held else "train"
        for side in range(sides):
            shape = tuple(int(n) for n in rng.integers(13, 18, dims))
            image, label = phantom(shape, rng)
            name = f"p{patient}_{side}"
            grid = Geometry(np.eye(4), shape)
            case = CachedCase(
                case=name, patient=f"p{patient}", split=split, modality="MR", class_name="", site="", sex="",
                age="", shape=shape, spacing_mm=(1.0,) * dims, has_label=True, image_field="", label_field="",
                record=Restoration(grid, grid),
            )  # fmt: skip
            write_case(path, case, image, label, {})
            names.append(name)
    _write_index(path, dims, names, classes=[], ignore_label=ignore_label)
    return Cache.open(path)


def texture_cache(path: Path, dims: int, patients: int) -> Cache:
    """Images of two classes: `fine` noise and `smooth` noise; every fourth patient is split val, none is test."""
    rng = np.random.default_rng(1)
    names = []
    for patient in range(patients):
        shape = (16,) * dims
        image = rng.standard_normal(shape).astype(np.float32)
        smooth = patient % 2 == 1
        if smooth:
            for axis in range(dims):
                image = image + np.roll(image, 1, axis) + np.roll(image, 2, axis)
        grid = Geometry(np.eye(4), shape)
        case = CachedCase(
            case=f"t{patient}", patient=f"t{patient}", split="val" if patient % 4 >= 2 else "train", modality="MR",
            class_name="smooth" if smooth else "fine", site="", sex="", age="", shape=shape, spacing_mm=(1.0,) * dims,
            has_label=False, image_field="", label_field="", record=Restoration(grid, grid),
        )  # fmt: skip
        write_case(path, case, ((image - image.mean()) / image.std())[None], None, {})
        names.append(case.case)
    _write_index(path, dims, names, classes=["fine", "smooth"], ignore_label=None)
    return Cache.open(path)


def _write_index(path: Path, dims: int, names: list[str], classes: list[str], ignore_label: int | None) -> None:
    labels = [] if classes else [Label(1, "shell"), Label(2, "core")]
    content = {
        "schema_version": 1,
        "preprocess": Preprocess(spatial_dims=dims).to_json(),
        "channels": ["T1"],
        "labels": [label.to_json() for label in labels],
        "ignore_label": ignore_label,
        "classes": classes,
        "manifest_sha256": "0" * 64,
        "data_sha256": "1" * 64,
        "fingerprint": {},
        "cases": names,
    }
    write_json(path / "cache.json", content)
