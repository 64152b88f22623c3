"""DICOM files of a tree: grouped into series, label objects told apart, everything else explained."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.own_results import is_own_result
from medssl.imaging.problems import Problem
from medssl.imaging.readers.dicom import by_series
from medssl.imaging.readers.dicom_frames import SEGMENTATIONS, Instance, instance_of, read_header
from medssl.imaging.readers.dicom_labels import referenced_series
from medssl.imaging.readers.dicom_refuse import refuse_mixed, refuse_no_scan
from medssl.imaging.readers.dicom_series import (
    even_offsets,
    gap_error,
    grids,
    is_localizer,
    is_unplaced,
    refuse_cut,
    stack,
)
from medssl.imaging.readers.guard import explained
from medssl.imaging.readers.scan import FoundImage, FoundLabel, Scan

_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_FEWEST_PLANES = 3
"""Fewer localizers are no volume: topograms from the front and the side."""
_UNEVEN = "slices are uneven or missing: used only where --resample_irregular is given again"


def scan_dicom(files: Iterable[Path], scan: Scan, *, resample_irregular: bool = False) -> None:
    """Sort files into images, label objects and problems, added to a scan.

    Args:
        files: Files that may be DICOM.
        scan: What is found is added here.
        resample_irregular: Unevenly spaced slices make an image, on the grid that `read_volume` resamples them to.
    """
    instances: list[Instance] = []
    for file in files:
        try:
            with explained(file):
                dataset = read_header(file)
                if dataset.get("SOPClassUID", "") in (*SEGMENTATIONS, _RTSTRUCT):
                    _label(dataset, file, scan)
                else:
                    instance = instance_of(dataset, file)
                    refuse_no_scan(instance)
                    instances.append(instance)
        except ImageError as error:
            scan.problems.append(Problem(str(file), error.reason, "left out", error.message))
        except PermissionError:
            message = "the file may not be read: ask its owner"
            scan.problems.append(Problem(str(file), "no-permission", "left out", message))
    series = by_series(instances)
    folders = _folders(series)
    for uid, group in series.items():
        _series(uid, group, folders, scan, resample_irregular)


def _label(dataset: Dataset, file: Path, scan: Scan) -> None:
    """Take a label object, once where it lies there twice, and none that medssl made.

    Raises:
        ImageError: medssl made it: a label that networks are judged by is nobody's prediction.
    """
    if is_own_result(dataset):
        raise ImageError(f"{file} is a result of medssl and no label of an expert", reason="own-result")
    label = FoundLabel(file, tuple(sorted(referenced_series(dataset))), str(dataset.get("SOPInstanceUID", "") or ""))
    if label.uid and any(label.uid == other.uid for other in scan.labels):
        message = "an object of the same SOPInstanceUID is in another file, which was taken"
        scan.problems.append(_left_out(file, "duplicate", message))
    else:
        scan.labels.append(label)


def _series(uid: str, group: list[Instance], folders: dict[Path, int], scan: Scan, resample_irregular: bool) -> None:
    planes, problems = [i for i in group if not is_localizer(i)], scan.problems
    if not planes and sum(len(i.frames) for i in group) >= _FEWEST_PLANES:
        planes = group  # a volume that is called so
    scouts = [i for i in group if is_localizer(i)] if len(planes) < len(group) else []
    message = "a localizer is no part of the volume" if planes else "localizers alone are no scan"
    problems.extend(_left_out(i.path, "localizer", message) for i in scouts)
    if not planes:
        return
    if cut := [i for i in planes if i.cut]:
        problems.extend(_spoilt(planes, cut[0].path))
        scan.spoilt[uid] = planes[0].person.number
        return
    first = planes
    try:
        with explained(planes[0].path):
            refuse_mixed(planes)
            first, *others = grids(planes)
            for other in others:
                if sum(len(i.frames) for i in other) == sum(len(i.frames) for i in first):
                    message = f"series {uid} mixes grids of equal size; give the files of one of them"
                    problems.extend(_left_out(i.path, "mixed-series", message) for i in [*first, *other])
                    return
                problems.extend(_left_out(i.path, "other-grid", "lies on another grid than its series") for i in other)
            geometry, notes, dropped = _volume(first, resample_irregular)
    except ImageError as error:
        problems.extend(_left_out(i.path, error.reason, error.message) for i in first)
        return
    for path in dropped:
        problems.append(Problem(str(path), "duplicate-slice", "left out", "exactly the same slice is in another file"))
    kept = tuple(i.path for i in first if i.path not in dropped)
    scan.images.append(_found(_field(uid, kept, folders), kept, first[0], geometry, notes))


def _found(
    field: str, files: tuple[Path, ...], head: Instance, geometry: Geometry | None, notes: tuple[str, ...]
) -> FoundImage:
    return FoundImage(
        field,
        files,
        "dicom",
        geometry,
        head.modality,
        head.person,
        head.series_uid,
        head.description,
        head.sex,
        head.age,
        head.scanner,
        notes,
        head.study_uid,
    )


def _spoilt(group: Sequence[Instance], cut: Path) -> list[Problem]:
    """Why the files of a series are left out of which one is cut: without it nobody would see that it is shorter."""
    message = f"its series was left out whole, because {cut} of it is cut: copy that file again"
    return [
        *(_left_out(i.path, "truncated", i.cut) for i in group if i.cut),
        *(_left_out(i.path, "damaged-series", message) for i in group if not i.cut),
    ]


def _volume(group: Sequence[Instance], resample_irregular: bool) -> tuple[Geometry | None, tuple[str, ...], set[Path]]:
    refuse_cut(group)
    head = group[0]
    if is_unplaced(group):
        return None, ("the image has no position in the patient",), set()
    found = stack(group)
    if not found.uniform and not resample_irregular:
        raise gap_error(found, f"series {head.series_uid or head.path}")
    planes = len(even_offsets(found, head))
    shape = (head.columns, head.rows) if planes == 1 else (head.columns, head.rows, planes)
    kept = {frame.path for frame in found.frames}
    notes = found.notes if found.uniform else (*found.notes, _UNEVEN)
    return Geometry(found.affine, shape), notes, {f.path for f in found.dropped} - kept


def _folders(series: dict[str, list[Instance]]) -> dict[Path, int]:
    """How many series have files at or below each folder that holds files."""
    found: dict[Path, set[str]] = {}
    for uid, group in series.items():
        for instance in group:
            for folder in instance.path.parents:
                found.setdefault(folder, set()).add(uid)
    return {folder: len(uids) for folder, uids in found.items()}


def _field(uid: str, files: Sequence[Path], folders: dict[Path, int]) -> str:
    if len(files) == 1:
        return str(files[0])
    common = files[0].parent
    while any(common not in file.parents for file in files):
        common = common.parent
    return str(common) if folders[common] == 1 else f"{common}#{uid}"


def _left_out(path: Path, reason: str, message: str) -> Problem:
    return Problem(str(path), reason, "left out", message)
