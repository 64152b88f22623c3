"""A cache of a few blobs, written as `prepare` writes it, for tests of what reads caches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medssl.data.cache import Cache, CachedCase, write_case
from medssl.imaging.files import write_json
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.preprocess import Preprocess, Restoration


def small_cache(
    path: Path,
    shapes: Sequence[tuple[int, ...]],
    *,
    channels: int = 1,
    splits: Sequence[str] = (),
    classes: Sequence[str] = (),
    labelled: Sequence[bool] = (),
    patients: Sequence[str] = (),
    studies: Sequence[str] = (),
    spacings_mm: Sequence[tuple[float, ...]] = (),
    sites: Sequence[str] = (),
    ignore_label: int | None = None,
) -> Cache:
    """One case a shape, named `c0`, `c1`, ..., each of its own patient unless `patients` are named, of no study
    unless `studies` are, with voxels of 1 mm unless `spacings_mm` are given.

    Case `n` has the value `1000 n + position` in its first channel, where `position` counts voxels, so that a crop
    tells where it came from; a label map has a box of class 1 and a corner voxel of class 2.
    """
    dims = len(shapes[0])
    for number, shape in enumerate(shapes):
        has_label = bool(labelled) and labelled[number]
        image = 1000.0 * number + np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
        image = np.concatenate([image + 0.25 * c for c in range(channels)])
        label = np.zeros(shape, np.uint8)
        label[tuple(slice(n // 4, n // 2) for n in shape)] = 1
        label[(-1,) * dims] = 2
        grid = Geometry(np.eye(4), shape)
        case = CachedCase(
            case=f"c{number}", patient=patients[number] if patients else f"p{number}",
            split=splits[number] if splits else "train", modality="MR",
            class_name=classes[number % len(classes)] if classes else "", site=sites[number] if sites else "",
            sex="", age="", shape=shape,
            spacing_mm=spacings_mm[number] if spacings_mm else (1.0,) * dims,
            has_label=has_label, image_field="", label_field="",
            record=Restoration(grid, grid), study=studies[number] if studies else "",
        )  # fmt: skip
        write_case(path, case, image, label if has_label else None, {})
    content = {
        "schema_version": 1,
        "preprocess": Preprocess(spatial_dims=dims).to_json(),
        "channels": [f"channel {c}" for c in range(channels)],
        "labels": [Label(1, "box").to_json(), Label(2, "corner").to_json()] if labelled else [],
        "ignore_label": ignore_label,
        "classes": sorted(set(classes) - {""}),
        "manifest_sha256": "0" * 64,
        "data_sha256": "1" * 64,
        "fingerprint": {},
        "cases": [f"c{number}" for number in range(len(shapes))],
    }
    write_json(path / "cache.json", content)
    return Cache.open(path)
