"""Manifest of the fundus application: grades of diabetic retinopathy, or lesions, by what the data folder holds.

Grading: `images/` and `labels.csv` (`image`, `dr_grade_0_4`, `split`). Lesions: `images/`, `masks/` and `masks.csv`
(`image`, `mask`, `class`); their masks are put into one label map an image. Files with the same bytes are one patient:
a copy in the training split of a test image is left out, and copies with different grades are left without one.
"""

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from medssl.data.splits import assign_splits
from medssl.imaging.errors import ManifestError
from medssl.imaging.manifest import Manifest, Row

_LICENCE = "CC-BY 4.0 (IDRiD, Porwal et al., Data 2018)"
_LESIONS = {"OD": 5, "HE": 2, "EX": 3, "SE": 4, "MA": 1}
"""Value of each structure; the later ones win where two overlap, so that tiny lesions are kept."""


def make_manifest(data: Path, out: Path) -> None:
    """Write the manifest of a folder with grades, or with lesion masks and the label maps made of them.

    Args:
        data: Folder with `images/` and `labels.csv`, or with `images/`, `masks/` and `masks.csv`.
        out: Manifest to write; label maps go beside it into `label_maps/`.

    Raises:
        ManifestError: Neither table is there, or it names files that are not.
    """
    if (data / "labels.csv").is_file():
        rows = _graded(data)
    elif (data / "masks.csv").is_file():
        rows = _with_lesions(data, out.parent / "label_maps")
    else:
        raise ManifestError(
            f"{data} has neither labels.csv (grades) nor masks.csv (lesions): give a folder with one of them",
            reason="no-table",
        )
    Manifest.from_rows(_validated(rows), root=out.parent).write(out)


def _graded(data: Path) -> list[Row]:
    answers = _table(data / "labels.csv", ("image", "dr_grade_0_4"))
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for answer in answers:
        groups[hashlib.sha256(_image(data, answer["image"]).read_bytes()).hexdigest()].append(answer)
    rows = []
    for same in groups.values():
        splits = {_split(answer) for answer in same}
        kept = [answer for answer in same if _split(answer) == "test"] if "test" in splits else same
        grades = {answer["dr_grade_0_4"] for answer in same}
        for answer in kept:
            name = Path(answer["image"]).stem
            rows.append(
                Row(
                    case=name,
                    patient=Path(same[0]["image"]).stem,
                    image=str(data / "images" / answer["image"]),
                    class_name=f"grade_{answer['dr_grade_0_4']}" if len(grades) == 1 else "",
                    modality="OP",
                    split=_split(answer),
                    licence=_LICENCE,
                )
            )
    return rows


def _with_lesions(data: Path, folder: Path) -> list[Row]:
    masks: dict[str, dict[str, str]] = defaultdict(dict)
    for line in _table(data / "masks.csv", ("image", "mask", "class")):
        if line["class"] not in _LESIONS:
            raise ManifestError(f"{data / 'masks.csv'}: class {line['class']!r} is unknown", reason="bad-table")
        masks[line["image"]][line["class"]] = line["mask"]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in sorted(masks):
        with Image.open(_image(data, name)) as picture:
            size = picture.size
        label = np.zeros(size[::-1], np.uint8)
        for lesion, value in _LESIONS.items():
            if lesion in masks[name]:
                label[_mask(data / "masks" / masks[name][lesion], label.shape)] = value
        path = folder / f"{Path(name).stem}.png"
        Image.fromarray(label).save(path)
        rows.append(
            Row(
                case=Path(name).stem,
                patient=Path(name).stem,
                image=str(data / "images" / name),
                label=str(path),
                modality="OP",
                split=_split({"image": name}),
                licence=_LICENCE,
            )
        )
    return rows


def _validated(rows: list[Row]) -> list[Row]:
    """Every seventh patient of the training images becomes validation, the same ones each time."""
    train = [row.patient for row in rows if row.split == "train"]
    chosen = assign_splits(train, (6 / 7, 1 / 7, 0.0), seed=0) if train else {}
    return [Row(**{**vars(row), "split": chosen[row.patient]}) if row.split == "train" else row for row in rows]


def _split(answer: dict[str, str]) -> str:
    return answer.get("split") or ("test" if answer["image"].startswith("test") else "train")


def _image(data: Path, name: str) -> Path:
    path = data / "images" / name
    if not path.is_file():
        raise ManifestError(f"{path} is named in the table and is not there", reason="no-images")
    return path


def _mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if not path.is_file():
        raise ManifestError(f"{path} is named in masks.csv and is not there", reason="no-images")
    with Image.open(path) as picture:
        mask = np.asarray(picture.convert("L")) > 0
    if mask.shape != shape:
        raise ManifestError(f"{path} is {mask.shape}, its image is {shape} (rows, columns)", reason="label-grid")
    return mask


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    missing = [name for name in columns if not rows or name not in rows[0]]
    if missing:
        raise ManifestError(f"{path} lacks the column(s) {', '.join(missing)}, or is empty", reason="bad-table")
    return rows
