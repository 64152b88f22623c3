"""Tables and lists that lie beside images: which cases belong to one patient, and what a data set says of itself."""

import csv
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.imaging.modality import known_modality
from medssl.imaging.readers.guard import MAX_TABLE_BYTES

_KEYS = ("id", "case", "image", "file")
_SUFFIXES = (".gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".zip", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


def stem(path: Path) -> str:
    """File name without the suffixes of image formats."""
    name = path.name
    for suffix in _SUFFIXES:
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return name


@dataclass(frozen=True)
class PatientTable:
    """Patients told by a CSV file.

    Args:
        path: The file.
        rows: File or case, as it stands there, and patient.
    """

    path: Path
    rows: tuple[tuple[str, str], ...]


def patient_tables(files: Sequence[Path]) -> list[PatientTable]:
    """CSV files with a column `patient` and one of `id`, `case`, `image`, `file`; other files are passed over."""
    tables = []
    for path in files:
        records = _records(path)
        key = next((name for name in _KEYS if records and name in records[0]), None)
        if key and "patient" in records[0]:
            rows = tuple((row[key], row["patient"]) for row in records if row[key] and row["patient"])
            tables.append(PatientTable(path, rows))
    return tables


def _text(path: Path) -> str:
    """Content of a table or list.

    Raises:
        OSError: It cannot be read, or is no table of cases by its size.
    """
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise OSError(f"{path} is larger than any table of cases")
    return path.read_text(encoding="utf-8-sig")


def _records(path: Path) -> list[dict[str, str]]:
    try:
        text = _text(path)
        separator = max((",", ";", "\t"), key=text.split("\n", 1)[0].count)
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []  # no table; it is listed among the files that are no image
    names = [name.strip().lower() for name in records[0]] if records else []
    return [dict(zip(names, [*map(str.strip, row), *[""] * len(names)], strict=False)) for row in records[1:] if row]


@dataclass
class Decathlon:
    """What the `dataset.json` files of a tree say (Medical Segmentation Decathlon, nnU-Net).

    Args:
        labels: Image file to its label file, both resolved.
        facts: Folder of a `dataset.json` to modality and licence of the images below it.
        files: The `dataset.json` files that were used.
    """

    labels: dict[Path, Path] = field(default_factory=dict)
    facts: dict[Path, dict[str, str]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def fact(self, file: Path, name: str) -> str:
        """`modality` or `licence` of an image, empty when it is not told."""
        folder = next((f for f in file.resolve().parents if f in self.facts), None)
        return self.facts[folder][name] if folder else ""


def decathlon_lists(files: Collection[Path]) -> Decathlon:
    """Read the files called `dataset.json`; those of other programs are passed over."""
    found = Decathlon()
    for path in sorted(files):
        content = _dataset(path)
        if content is None:
            continue
        found.files.append(path)
        folder = path.parent.resolve()
        channels = content.get("modality", content.get("channel_names", {}))
        names = [str(name) for name in channels.values()] if isinstance(channels, dict) else []
        found.facts[folder] = {
            "modality": known_modality(names[0]) if len(set(names)) == 1 else "",
            "licence": str(content.get("licence", content.get("license", "")) or ""),
        }
        for entry in content["training"]:
            if (
                isinstance(entry, dict)
                and {"image", "label"} <= set(entry)
                and "\0" not in f"{entry['image']}{entry['label']}"
            ):
                found.labels[(folder / str(entry["image"])).resolve()] = (folder / str(entry["label"])).resolve()
    return found


def _dataset(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(_text(path))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    training = content.get("training", [])
    known = isinstance(training, list) and (training or "channel_names" in content)
    return {**content, "training": training} if known else None
