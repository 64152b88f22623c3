"""From a folder of scans to a manifest, and a table of everything that did not make it."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.imaging.errors import ImageError
from medssl.imaging.files import sha256
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.pairing import Case, pair, patients_from_tables
from medssl.imaging.problems import Problem, write_problems
from medssl.imaging.readers.scan import FoundImage, Scan, scan_tree


@dataclass(frozen=True)
class IndexSummary:
    """What `index` found.

    Args:
        rows: Rows of the manifest.
        problems: Files left out or mended, with reasons.
        notes: What the user should know: how patients were told, likely duplicates.
    """

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def index_tree(root: Path, out: Path) -> IndexSummary:
    """Write the manifest of a folder, and `problems.csv` beside it.

    Args:
        root: Folder of DICOM, NIfTI, NRRD, MHA or picture files.
        out: Manifest to write; its paths are relative to its folder.

    Raises:
        ImageError: The folder does not exist or holds no image.
    """
    scan = scan_tree(root)
    cases = pair(root, scan.images, scan.labels)
    patients, tables = patients_from_tables(root)
    notes = [f"patients were taken from {table.relative_to(root)}" for table in tables]
    problems = [p for p in scan.problems if p.path not in {str(t) for t in tables}]
    problems += [Problem(str(t), "table", "mended", "used to tell which cases belong to one patient") for t in tables]
    problems += _unused_labels(scan, cases)
    for case in cases:
        problems += _check_label(case, scan)
    if not cases:
        counts = ", ".join(f"{n} {reason}" for reason, n in Counter(p.reason for p in problems).most_common())
        raise ImageError(
            f"{root} holds no image that can be used ({counts or 'the folder is empty'})", reason="no-images"
        )
    rows = _rows(cases, patients, out.parent)
    notes += _likely_duplicates(cases, rows)
    Manifest.from_rows(rows, out.parent).write(out)
    write_problems(out.parent / "problems.csv", problems)
    return IndexSummary(tuple(rows), tuple(problems), tuple(notes))


def _unused_labels(scan: Scan, cases: Sequence[Case]) -> list[Problem]:
    """Label files that no case uses: they must not vanish."""
    used = {case.label for case in cases} | {image.field for case in cases for image in case.images}
    lost = [str(label.path) for label in scan.labels if str(label.path) not in used]
    lost += [image.field for image in scan.images if image.field not in used]
    message = "no image of its name or series was found for this label"
    return [Problem(path, "label-without-image", "left out", message) for path in lost]


def _check_label(case: Case, scan: Scan) -> list[Problem]:
    """Drop a label that does not lie on its image's grid."""
    label = next((i for i in scan.images if i.field == case.label), None)
    image = case.images[0]
    if label is None or label.geometry is None or image.geometry is None:
        return []
    different = _difference(image.geometry, label.geometry)
    if not different:
        return []
    case.label = ""
    message = f"label and image {image.field} differ in {different}; the case is kept without a label"
    return [Problem(label.field, "label-grid", "left out", message)]


def _difference(image: Geometry, label: Geometry) -> str:
    if image.shape != label.shape:
        return f"shape ({image.shape} and {label.shape})"
    return "" if label.is_close(image, atol_mm=0.1 * min(image.spacing_mm)) else "affine (the place in the patient)"


def _rows(cases: Sequence[Case], patients: dict[str, str], root: Path) -> list[Row]:
    taken: Counter[str] = Counter()
    rows = []
    for case in cases:
        image = case.images[0]
        name = _safe(case.name)
        taken[name] += 1
        unique = name if taken[name] == 1 else f"{name}_{taken[name]}"
        rows.append(
            Row(
                case=unique,
                patient=patients.get(case.name) or image.patient or unique,
                image=";".join(_relative(i.field, root) for i in case.images),
                label=_relative(case.label, root) if case.label else "",
                class_name=case.class_name,
                modality=image.modality,
                sex=image.sex,
                age=image.age,
            )
        )
    return rows


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "case"


def _relative(field: str, root: Path) -> str:
    path, separator, series = field.partition("#")
    return os.path.relpath(Path(path).resolve(), root.resolve()) + separator + series


def _likely_duplicates(cases: Sequence[Case], rows: Sequence[Row]) -> list[str]:
    """Images with the same bytes under two patients: they would leak from training to test."""
    patient = {case.images[0].field: row.patient for case, row in zip(cases, rows, strict=True)}
    groups: dict[str, list[FoundImage]] = defaultdict(list)
    for image in _same_size(case.images[0] for case in cases):
        groups[_digest(image)].append(image)
    notes = []
    for group in groups.values():
        if len({patient[image.field] for image in group}) > 1:
            names = ", ".join(Path(image.field.partition("#")[0]).name for image in group[:4])
            notes.append(f"warning: identical images under different patients: {names}; give them one patient")
    return notes


def _same_size(images: Iterable[FoundImage]) -> list[FoundImage]:
    """Images that share their size in bytes with another: only these can be identical."""
    sizes: dict[tuple[int, ...], list[FoundImage]] = defaultdict(list)
    for image in images:
        sizes[tuple(sorted(file.stat().st_size for file in image.files))].append(image)
    return [image for group in sizes.values() if len(group) > 1 for image in group]


def _digest(image: FoundImage) -> str:
    return hashlib.sha256("".join(sorted(sha256(file) for file in image.files)).encode()).hexdigest()
