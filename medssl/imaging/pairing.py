"""Which file is the label of which image, which are channels of one case: by folders and names, never by guess."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medssl.imaging.readers.scan import FoundImage, FoundLabel

_SUFFIXES = (".gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".zip", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
_CHANNEL = re.compile(r"^(.*)_(\d{4})$")
# Whole words, as in `train_labels` and `labelsTr`, not in `unlabelled`.
_IMAGE_WORD = re.compile(r"(?<![A-Za-z])[Ii]mages?(?![a-z])")
_LABEL_WORD = re.compile(r"(?<![A-Za-z])([Ll]abels?|[Mm]asks?|[Ss]egmentations?|[Aa]nnotations?)(?![a-z])")


@dataclass
class Case:
    """Images of one case (several: its channels), and its label."""

    name: str
    images: list[FoundImage]
    label: str = ""
    class_name: str = ""
    notes: list[str] = field(default_factory=list)


def stem(path: Path) -> str:
    """File name without the suffixes of image formats."""
    name = path.name
    for suffix in _SUFFIXES:
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return name


def pair(root: Path, images: Sequence[FoundImage], labels: Sequence[FoundLabel]) -> list[Case]:
    """Cases of a tree.

    Label maps are files below a folder named like `labels`, `masks` or `segmentations` (or listed as such in an MSD
    `dataset.json`); each belongs to the image of the same name in the folder of that name with `images`. Files
    `NAME_0000`, `NAME_0001` in one folder are channels. DICOM-SEG and RTSTRUCT belong to the series they refer to.
    """
    masks = {image.field: image for image in images if _is_label(image, root)}
    listed = _decathlon(root)
    for label in listed.values():
        found = next((i for i in images if _same(i.files[0], label)), None)
        if found is not None:
            masks[found.field] = found
    by_name = {(mask.files[0].parent, stem(mask.files[0])): mask for mask in masks.values()}
    cases = _channels([image for image in images if image.field not in masks])
    for case in cases:
        first = case.images[0]
        truth = listed.get(first.files[0].resolve())
        case.label = str(truth) if truth else _by_folder(case, by_name, root)
        objects = [o for o in labels if first.series_uid and first.series_uid in o.series_uids]
        if not case.label and objects:
            case.label = str(objects[0].path)
            case.notes += [f"{len(objects)} label objects refer to it, {objects[0].path.name} was taken"] * (
                len(objects) > 1
            )
    _classes(cases, root)
    return cases


def _same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def _is_label(image: FoundImage, root: Path) -> bool:
    folders = image.files[0].relative_to(root).parts[:-1] if image.files[0].is_relative_to(root) else ()
    return image.format != "dicom" and any(
        _LABEL_WORD.search(folder) and not _IMAGE_WORD.search(folder) for folder in folders
    )


def _decathlon(root: Path) -> dict[Path, Path]:
    """Image to label of every `dataset.json` of the Medical Segmentation Decathlon below the folder."""
    pairs = {}
    for path in root.rglob("dataset.json"):
        try:
            entries = json.loads(path.read_text(encoding="utf-8")).get("training", [])
        except (ValueError, AttributeError, UnicodeDecodeError):
            continue  # another program's dataset.json; it is listed among the files that are no image
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and {"image", "label"} <= set(entry):
                pairs[(path.parent / str(entry["image"])).resolve()] = path.parent / str(entry["label"])
    return {image: label for image, label in pairs.items() if label.exists()}


def _channels(images: Sequence[FoundImage]) -> list[Case]:
    groups: dict[tuple[Path, str], list[FoundImage]] = defaultdict(list)
    single = []
    for image in images:
        match = _CHANNEL.match(stem(image.files[0])) if image.format != "dicom" else None
        if match:
            groups[image.files[0].parent, match.group(1)].append(image)
        else:
            single.append(Case(_dicom_name(image) if image.format == "dicom" else stem(image.files[0]), [image]))
    for (_, name), members in groups.items():
        ordered = sorted(members, key=lambda image: image.files[0].name)
        numbers = [int(stem(image.files[0])[-4:]) for image in ordered]
        if numbers == list(range(len(numbers))):
            single.append(Case(name, ordered))
        else:  # a running number, not channels
            single += [Case(stem(image.files[0]), [image]) for image in ordered]
    return sorted(single, key=lambda case: case.images[0].field)


def _dicom_name(image: FoundImage) -> str:
    path = Path(image.field.partition("#")[0])
    name = stem(path)
    return f"{name}_{image.series_uid.rsplit('.', 1)[-1]}" if "#" in image.field else name


def _by_folder(case: Case, masks: dict[tuple[Path, str], FoundImage], root: Path) -> str:
    """Label of the same name in the folder that is called after labels where this one is called after images."""
    file = case.images[0].files[0]
    found = [
        mask
        for (folder, name), mask in masks.items()
        if name in (case.name, stem(file)) and _counterpart(file.parent, folder, root)
    ]
    if len(found) > 1:
        case.notes.append(f"{len(found)} label files have its name; none was taken")
    return found[0].field if len(found) == 1 else ""


def _counterpart(images: Path, labels: Path, root: Path) -> bool:
    """True where two folders differ in one name, and there only by the words for images and labels."""
    ours, theirs = images.relative_to(root).parts, labels.relative_to(root).parts
    if len(ours) != len(theirs):
        return bool(theirs) and theirs[:-1] == ours and bool(_LABEL_WORD.fullmatch(theirs[-1]))
    different = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    if len(different) != 1:
        return False
    own, other = different[0]
    return _IMAGE_WORD.sub("", own).lower() == _LABEL_WORD.sub("", other).lower()


def _classes(cases: Iterable[Case], root: Path) -> None:
    """Class of pictures sorted into folders, where every picture lies in one of two or more sibling folders."""
    pictures = [case for case in cases if case.images[0].format == "raster" and not case.label]
    parents = {case.images[0].files[0].parent for case in pictures}
    siblings = {parent.parent for parent in parents}
    if len(parents) < 2 or len(siblings) != 1 or root in parents:
        return
    if any(_IMAGE_WORD.search(parent.name) for parent in parents):
        return
    for case in pictures:
        case.class_name = case.images[0].files[0].parent.name


def patients_from_tables(root: Path) -> tuple[dict[str, str], list[Path]]:
    """Patient of each file stem, from CSV files with the columns `id` (or `case`) and `patient`."""
    found: dict[str, str] = {}
    tables = []
    for path in sorted(root.rglob("*.csv")):
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream))
        except (UnicodeDecodeError, csv.Error):
            continue  # no table; it is listed among the files that are no image
        key = next((name for name in ("id", "case") if rows and name in rows[0]), None)
        if key and "patient" in rows[0]:
            found |= {stem(Path(row[key])): row["patient"] for row in rows if row[key] and row["patient"]}
            tables.append(path)
    return found, tables
