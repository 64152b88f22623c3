"""Feature tables made by hand, for tests of what reads them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medssl.evaluation.feature_files import COLUMNS, FeatureTable, claim, described, part, write_part

ABOUT: dict[str, Any] = {
    "encoder": {"file": "/nowhere/encoder.safetensors", "sha256": "a" * 64, "method": "SimCLR"},
    "preprocess": {"spacing_mm": [1.0, 1.0], "orientation": "RAS"},
    "channels": ["x"],
    "options": {"size": [8, 8], "pooling": "mean", "volumes": "mean", "slice_axis": 2, "slices": 32},
}


def picture(value: int) -> bytes:
    """A small picture that is darker at one side."""
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, value, 144).reshape(12, 12).astype(np.uint8)).save(buffer, format="JPEG")
    return buffer.getvalue()


def columns(count: int, **given: Sequence[str]) -> dict[str, list[str]]:
    """Each row a case `c0`, `c1`, ... of its own patient unless told otherwise."""
    plain = {name: [""] * count for name in COLUMNS}
    plain |= {"case": [f"c{n}" for n in range(count)], "patient": [f"p{n}" for n in range(count)]}
    return plain | {name.rstrip("_"): list(values) for name, values in given.items()}


def table(vectors: np.ndarray, **given: Sequence[str]) -> FeatureTable:
    """A table in memory."""
    texts = {name: tuple(values) for name, values in columns(len(vectors), **given).items()}
    pictures = tuple(picture(40 + n % 200) for n in range(len(vectors)))
    return FeatureTable(ABOUT, texts, vectors.astype(np.float32), pictures)


def folder(path: Path, vectors: np.ndarray, about: dict[str, Any] | None = None, **given: Sequence[str]) -> Path:
    """The same as a folder of two files."""
    middle = -(-len(vectors) // 2)
    source = {"cache": "/nowhere", "data_sha256": "1" * 64, "classes": []}
    content = described(json.loads(json.dumps(about or ABOUT)), source, len(vectors), middle)
    claim(path, content)
    texts = columns(len(vectors), **given)
    for number, rows in enumerate((slice(0, middle), slice(middle, None))):
        own = {name: values[rows] for name, values in texts.items()}
        pictures = [picture(50 + n) for n in range(len(own["case"]))]
        write_part(part(path, number), own, vectors[rows].astype(np.float32), pictures, content)
    return path
