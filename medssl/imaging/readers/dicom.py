"""A DICOM file or folder as a volume: finds its image series and reads the one that is meant."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medssl.imaging.errors import ImageError
from medssl.imaging.readers.dicom_frames import Instance, instance_of, read_header
from medssl.imaging.readers.dicom_refuse import refuse_mixed, refuse_no_scan
from medssl.imaging.readers.dicom_series import grids, is_localizer, refuse_cut, to_volume
from medssl.imaging.volume import Volume

_ALONG = 0.7071
"""Cosine between the normals of two planes that are less than 45 degrees apart."""


def read_dicom(path: Path, series: str = "", *, resample_irregular: bool = False) -> Volume:
    """Read a DICOM file, or the series of a folder.

    Args:
        path: File or folder; a folder is searched with its subfolders.
        series: SeriesInstanceUID to take; empty takes the only one there is.
        resample_irregular: Resample unevenly spaced slices instead of refusing them.

    Raises:
        ImageError: No image series, several, or one that cannot be a volume; without `series`, a damaged file.
    """
    instances, problems = find_instances(path)
    found = by_series(instances)
    damaged = [p for p in problems if p.reason in ("truncated", "bad-dicom")]
    if damaged and not series:  # nobody knows whether it is a slice of the volume
        raise damaged[0]
    unsure = sum(series.startswith(problem.series_uid) for problem in damaged)  # a cut UID is the beginning of one
    if series:
        found = {uid: group for uid, group in found.items() if uid == series}
    volumes = {uid: group for uid, group in found.items() if not all(is_localizer(i) for i in group)} or found
    if not volumes:
        detail = f"; first problem: {problems[0].message}" if problems else ""
        what = f"no series {series}" if series else "no DICOM image"
        raise ImageError(f"{path}: {what} found{detail}", reason=problems[0].reason if problems else "no-images")
    if len(volumes) > 1:
        names = "\n".join(
            f"    {path}#{uid}  {g[0].modality} {g[0].description!r}, {len(g)} files" for uid, g in volumes.items()
        )
        raise ImageError(f"{path} holds {len(volumes)} series; name one of them:\n{names}", reason="several-series")
    volume = read_series(next(iter(volumes.values())), resample_irregular=resample_irregular)
    return _doubted(volume, unsure) if unsure else volume


def _doubted(volume: Volume, unsure: int) -> Volume:
    """The volume with a reason not to use what is made of it; no file is named, whose name may be a patient's."""
    text = f"{unsure} damaged file(s) lie among those of the series, and nobody knows whether slices of it are missing"
    doubts = (*volume.source.doubts, ("damaged-files", text))
    return replace(volume, source=replace(volume.source, doubts=doubts))


def read_series(instances: Sequence[Instance], *, resample_irregular: bool = False) -> Volume:
    """Read the main grid of a series; planes on other grids and localizers are left out, and it is noted.

    Raises:
        ImageError: A file that is cut, several patients or studies, two grids of one size, or planes that make no
            volume.
    """
    planes = [i for i in instances if not is_localizer(i)] or list(instances)
    refuse_cut(planes)
    refuse_mixed(planes)
    groups = grids(planes)
    sizes = [sum(len(i.frames) for i in group) for group in groups]
    if len(groups) > 1 and sizes[0] == sizes[1]:
        raise ImageError(
            f"series {instances[0].series_uid} mixes {len(groups)} grids of {sizes[0]} planes; give the files of one",
            reason="mixed-series",
        )
    volume = to_volume(groups[0], resample_irregular=resample_irregular)
    notes = volume.source.notes
    if len(planes) < len(instances):
        notes += (f"{len(instances) - len(planes)} localizer file(s) of the series were left out",)
    if len(groups) > 1:
        notes += (f"{sum(sizes[1:])} plane(s) of the series on another grid than its {sizes[0]} were left out",)
    doubts = volume.source.doubts + _left_out(groups)
    return replace(volume, source=replace(volume.source, notes=notes, doubts=doubts))


def _left_out(groups: Sequence[Sequence[Instance]]) -> tuple[tuple[str, str], ...]:
    """A reason not to use what is made of the first grid, where planes of others lie rather along its planes.

    A head that was scanned in two tilts is such a series: the smaller part of it is missing in the volume.
    """
    main = groups[0][0].frames[0]
    if main.orientation is None:
        return ()
    frames = [frame for group in groups[1:] for instance in group for frame in instance.frames]
    along = [f for f in frames if f.orientation is not None and abs(f.normal @ main.normal) > _ALONG]
    if not along:
        return ()
    text = (
        f"{len(along)} plane(s) of the series, of another tilt or size than the others, were left out: part of the "
        "patient that was scanned may be missing in the image"
    )
    return (("planes-left-out", text),)


def find_instances(path: Path) -> tuple[list[Instance], list[ImageError]]:
    """Image files at or below a path, and what is wrong with the others."""
    instances, problems = [], []
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        try:
            instance = instance_of(read_header(file), file)
            refuse_no_scan(instance)
            instances.append(instance)
        except PermissionError:
            problems.append(ImageError(f"{file} may not be read: ask its owner", reason="no-permission"))
        except ImageError as error:
            problems.append(error)
    return instances, problems


def by_series(instances: Sequence[Instance]) -> dict[str, list[Instance]]:
    """Instances by SeriesInstanceUID; files without one stand alone."""
    series: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        series[instance.series_uid or str(instance.path)].append(instance)
    return dict(series)
