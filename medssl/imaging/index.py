"""From a folder of scans to a manifest, and a table of everything that did not make it."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medssl.imaging.case_patients import name_patients, place_below
from medssl.imaging.duplicates import likely_duplicates
from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.naming import FEW, bids_session, bids_subject, some, split_field, unique_names
from medssl.imaging.pairing import SPLIT_FOLDERS, Case, pair
from medssl.imaging.patients import pseudonym
from medssl.imaging.problems import Problem, in_short, problems_beside, write_problems
from medssl.imaging.readers.scan import FoundImage, Scan, scan_tree
from medssl.imaging.tables import Decathlon, decathlon_lists, patient_tables


@dataclass(frozen=True)
class IndexSummary:
    """What `index` found.

    Args:
        rows: Rows of the manifest.
        problems: Files left out or mended, with reasons.
        notes: What the user should know: how patients were told, what was mended, likely duplicates.
    """

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def index_tree(root: Path, out: Path, *, resample_irregular: bool = False) -> IndexSummary:
    """Write the manifest of a folder, and the table of its problems beside it, which is written without images too.

    Args:
        root: Folder of DICOM, NIfTI, NRRD, MHA or picture files.
        out: Manifest to write; its paths are relative to its folder.
        resample_irregular: As for `scan_tree`.

    Raises:
        ImageError: The folder does not exist or holds no image.
    """
    scan = scan_tree(root, show=True, resample_irregular=resample_irregular)
    own = {out.resolve(), problems_beside(out).resolve()}
    tables = patient_tables([p for p in sorted(root.rglob("*.csv")) if p.resolve() not in own])
    listed = decathlon_lists(set(root.rglob("dataset.json")))
    images, problems = _nameable(scan.images, out.parent)
    cases = pair(root, images, scan.labels, listed)
    cases, mixed = _one_grid(cases)
    mixed += _shared(cases, images)
    problems = [*scan.problems, *problems, *mixed, *_unused_labels(scan, images, cases, mixed)]
    for case in cases:
        problems += _check_label(case, images)
    if not cases:
        if problems:
            write_problems(problems_beside(out), problems)
        listed_in = f"\nevery file with its reason: {problems_beside(out)}" if problems else ""
        raise ImageError(f"{root} holds no image that can be used: {in_short(problems)}{listed_in}", reason="no-images")
    patients, notes, used = name_patients(cases, tables, root)
    rows = _rows(cases, patients, listed, root, out.parent)
    notes += _whole_series(scan.spoilt) + _remarks(cases, rows, root) + _duplicates(cases, rows)
    problems = _told_apart(problems, used, listed)
    manifest = Manifest.from_rows(rows, out.parent)
    write_problems(problems_beside(out), problems)
    manifest.write(out)
    return IndexSummary(tuple(rows), tuple(problems), tuple(notes))


def _nameable(images: Sequence[FoundImage], root: Path) -> tuple[list[FoundImage], list[Problem]]:
    """Images whose path a manifest can hold: `;` joins channels there, `#` picks a series."""
    kept, problems = [], []
    for image in images:
        path = image.field.removesuffix(f"#{image.series_uid}") if image.series_uid else image.field
        relative = os.path.relpath(Path(path).resolve(), root.resolve())
        if set(path) & set(";#\r\n") or relative != relative.strip():
            message = (
                "a path in a manifest must not hold ; or # or line breaks, nor begin or end with a space: rename it"
            )
            problems += [Problem(str(file), "unusable-name", "left out", message) for file in image.files]
        else:
            kept.append(image)
    return kept, problems


def _one_grid(cases: Sequence[Case]) -> tuple[list[Case], list[Problem]]:
    """Cases whose channels lie on one grid; the files of the others are told."""
    kept, problems = [], []
    for case in cases:
        grids = [image.geometry for image in case.images if image.geometry is not None]
        different = next((text for grid in grids[1:] if (text := _difference(grids[0], grid))), "")
        if different:
            message = f"the channels of {case.name} differ in {different}: resample them to one grid first"
            problems += [Problem(image.field, "channel-grid", "left out", message) for image in case.images]
            problems += [Problem(case.label, "channel-grid", "left out", message)] if case.label else []
        else:
            kept.append(case)
    return kept, problems


def _unused_labels(
    scan: Scan, images: Sequence[FoundImage], cases: Sequence[Case], told: Sequence[Problem]
) -> list[Problem]:
    """Label files that no case uses: they must not vanish."""
    used = {case.label for case in cases} | {image.field for case in cases for image in case.images}
    used |= {problem.path for problem in told}
    taken = {image.series_uid for case in cases for image in case.images if case.label and image.series_uid}
    here = {image.series_uid for case in cases for image in case.images if not case.label and image.series_uid}
    problems = []
    for label in scan.labels:
        if str(label.path) not in used:
            message = "no image of the series it refers to was found"
            if taken.intersection(label.series_uids):
                message = "the series it refers to has another label already, which was taken"
            elif here.intersection(label.series_uids):
                message = "another label object refers to the same series; none was taken"
            problems.append(Problem(str(label.path), "label-without-image", "left out", message))
    message = (
        "by its folder or name it is a label, but no image goes with it: the image has the same name in a folder "
        "called images instead of labels, or lies beside it as NAME where this is NAME_mask"
    )
    unpaired = [image for image in images if image.field not in used]
    return problems + [Problem(image.field, "label-without-image", "left out", message) for image in unpaired]


def _shared(cases: Sequence[Case], images: Sequence[FoundImage]) -> list[Problem]:
    """A label file of the name of a folder with several series belongs to the only one that it fits, or to none."""
    problems = []
    groups: dict[tuple[Path, str], list[Case]] = defaultdict(list)
    for case in cases:
        if case.label and case.images[0].format == "dicom":
            groups[case.place, case.label].append(case)
    for (_, field), group in groups.items():
        grid = next((image.geometry for image in images if image.field == field), None)
        if len(group) == 1 or grid is None:
            continue
        fit = [case for case in group if case.images[0].geometry and not _difference(case.images[0].geometry, grid)]
        for case in group if fit else ():
            case.label = field if fit == [case] else ""
        if len(fit) > 1:
            message = (
                f"it lies on the grid of {len(fit)} series of one folder, and none was given it: write it into the "
                "column label beside the series that it was drawn on"
            )
            problems.append(Problem(field, "several-series", "left out", message))
    return problems


def _check_label(case: Case, images: Sequence[FoundImage]) -> list[Problem]:
    """Drop a label that does not lie on its image's grid."""
    label = next((i for i in images if i.field == case.label), None) if case.label else None
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


def _rows(cases: Sequence[Case], patients: Sequence[str], listed: Decathlon, root: Path, out: Path) -> list[Row]:
    places = [place_below(root, case) for case in cases]
    names = unique_names([case.name for case in cases], places)
    rows = []
    for case, place, name, patient in zip(cases, places, names, patients, strict=True):
        image = case.images[0]
        rows.append(
            Row(
                case=name,
                patient=patient or name,
                image=";".join(_relative(i.field, out) for i in case.images),
                label=_relative(case.label, out) if case.label else "",
                class_name=case.class_name,
                modality=image.modality or listed.fact(image.files[0], "modality"),
                sex=image.sex,
                age=image.age,
                scanner=image.scanner,
                licence=listed.fact(image.files[0], "licence"),
                study=_study(image, place),
            )
        )
    return rows


def _study(image: FoundImage, place: Path) -> str:
    """Name of the visit: a pseudonym of the StudyInstanceUID, or subject and session."""
    return pseudonym("s", image.study_uid) or bids_session(place)


def _relative(field: str, root: Path) -> str:
    path, series = split_field(field)
    return os.path.relpath(path.resolve(), root.resolve()) + (f"#{series}" if series else "")


def _remarks(cases: Sequence[Case], rows: Sequence[Row], root: Path) -> list[str]:
    """What was mended or assumed, once for all the cases it holds for, and what looks like a trap."""
    groups: dict[str, list[str]] = defaultdict(list)
    for case, row in zip(cases, rows, strict=True):
        for note in [*case.notes, *(note for image in case.images for note in image.notes)]:
            groups[note].append(row.case)
    notes = [f"{note}: {some(names)}" for note, names in groups.items()]
    if any(bids_subject(case.place.relative_to(root)) == row.patient for case, row in zip(cases, rows, strict=True)):
        notes.append("patients were taken from the sub- names of the Brain Imaging Data Structure")
    folders = {name for case in cases for name in case.place.relative_to(root).parts[:-1]}
    splits = sorted(name for name in folders if name.lower() in SPLIT_FOLDERS)
    if len(splits) > 1:
        notes.append(f"the folders {', '.join(splits)} look like a split; it is not taken over: fill the column split")
    identities = {image.patient for case in cases for image in case.images if image.format == "dicom"}
    if len(cases) >= FEW and len(identities) == 1 and all(case.images[0].patient for case in cases):
        notes.append("warning: all DICOM files carry one PatientID; if that is not one person, fill the column patient")
    return notes


def _whole_series(spoilt: Mapping[str, str]) -> list[str]:
    """One line on the series that are missing because of a damaged file."""
    if not spoilt:
        return []
    patients = len(set(spoilt.values()))
    return [
        f"warning: {len(spoilt)} DICOM series of {patients} patient(s) left out whole, each because of a damaged file: "
        "copy those files again (reason truncated), and index again"
    ]


def _duplicates(cases: Sequence[Case], rows: Sequence[Row]) -> list[str]:
    first = [case.images[0] for case in cases]
    names = {image.field: row.case for image, row in zip(first, rows, strict=True)}
    patients = {image.field: row.patient for image, row in zip(first, rows, strict=True)}
    return [
        f"warning: {'identical' if found.identical else 'nearly identical'} images under different patients: "
        f"{some([names[field] for field in found.fields])}; give them one patient, or leave all but one out"
        for found in likely_duplicates(first, patients)
    ]


def _told_apart(problems: Sequence[Problem], tables: Sequence[Path], listed: Decathlon) -> list[Problem]:
    """Files that are no image but were used are called so, instead of left out."""
    used = {str(path): "used to tell which cases belong to one patient" for path in tables}
    used |= {str(path): "used to tell which label belongs to which image" for path in listed.files}
    return [replace(p, reason="table", action="used", message=used[p.path]) if p.path in used else p for p in problems]
