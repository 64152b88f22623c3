"""A study as one image: a series for each channel, brought to the grid of the first through their affines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.patients import refuse_several
from medssl.imaging.problems import Problem
from medssl.imaging.readers.archive import unpacked
from medssl.imaging.readers.open import read_volume
from medssl.imaging.readers.scan import FoundImage, scan_tree
from medssl.imaging.resample import regrid_image
from medssl.imaging.series import SeriesRule, choose_series
from medssl.imaging.volume import Channel, Volume, joined

MIN_INSIDE = 0.8
"""Share of the first channel's grid that every other series must cover."""
_PROBES = 24


@dataclass(frozen=True)
class Study:
    """The DICOM series of one study.

    Args:
        uid: StudyInstanceUID.
        place: Folder or zip file in which it was found.
        series: Its image series.
        problems: Files of the place that could not be used.
    """

    uid: str
    place: Path
    series: tuple[FoundImage, ...]
    problems: tuple[Problem, ...]


def find_studies(
    place: Path, *, resample_irregular: bool = False
) -> tuple[list[Study], list[FoundImage], list[Problem]]:
    """Studies at or below a folder or in a zip file, the images there that are not DICOM, and what was left out.

    Zip files below a folder are searched too, those within a zip file are not.

    Args:
        place: Folder or zip file.
        resample_irregular: As for `scan_tree`.

    Raises:
        ImageError: The place cannot be searched.
    """
    zipped = place.is_file()
    searched = unpacked(place) if zipped else place
    scan = scan_tree(searched, open_zips=False, resample_irregular=resample_irregular)
    others, problems = [image for image in scan.images if image.format != "dicom"], list(scan.problems)
    if zipped:
        problems = [replace(p, path=p.path.replace(str(searched), str(place), 1)) for p in problems]
        message = "a zip file within a zip file is not opened: unpack it first"
        problems += [Problem(str(place / path.name), "nested-zip", "left out", message) for path in scan.zips]
    uids = list(dict.fromkeys(image.study_uid for image in scan.images if image.format == "dicom"))
    own = tuple(problems)
    studies = [Study(uid, place, tuple(i for i in scan.images if i.study_uid == uid), own) for uid in uids]
    if not studies and zipped:
        detail = f"\n  first problem: {problems[0].message}" if problems else ""  # may quote a header: below line one
        raise ImageError(f"{place}: no DICOM series found{detail}", reason="no-images")
    for path in () if zipped else scan.zips:
        try:
            inside = find_studies(path, resample_irregular=resample_irregular)
        except ImageError as error:
            problems.append(Problem(str(path), error.reason, "left out", error.message))
            continue
        studies += inside[0]
        others += inside[1]
        problems += inside[2]
    return studies, others, problems


def read_study(
    study: Study,
    channels: Sequence[str],
    rules: Sequence[SeriesRule],
    spatial_dims: int = 3,
    *,
    resample_irregular: bool = False,
) -> Volume:
    """One image with the series that the rules choose as its channels, on the grid of the first channel.

    Args:
        study: The study.
        channels: Names of the channels.
        rules: What a series must be, one a channel.
        spatial_dims: 2 or 3.
        resample_irregular: As for `read_volume`.

    Raises:
        ImageError: A channel without a series or with several, series of different patients, that cannot be read, or
            that do not lie together in the patient.
    """
    if not study.uid:
        refuse_several((i.person for i in study.series), f"{study.place}: series without a StudyInstanceUID")
    try:
        chosen = choose_series(study.series, channels, rules, spatial_dims)
    except ImageError as error:
        lines = [f"  left out: {Path(p.path).name}: {p.message}" for p in study.problems[:5]]
        raise ImageError("\n".join([f"{study.place}: {error.message}", *lines]), reason=error.reason) from error
    refuse_several((image.person for image in chosen), f"{study.place}: series of channels {', '.join(channels)}")
    volumes = [read_volume(image.field, resample_irregular=resample_irregular) for image in chosen]
    aligned = on_first_grid(volumes, channels)
    told = tuple(
        Channel(
            name, image.modality, image.description, image.series_uid, round(inside, 4), resampled, volume.source.units
        )
        for name, image, (volume, inside, resampled) in zip(channels, chosen, aligned, strict=True)
    )
    source = joined(volumes)
    notes = list(source.notes)
    for channel in told:  # notes are drawn into results: which series it was stands in `channels` alone
        if channel.resampled:
            part = f", of which it covers {channel.inside:.0%}" if channel.inside < 1 else ""
            notes.append(f"channel {channel.name} was resampled to the grid of {channels[0]}{part}")
    if len(volumes) > 1 and not all(v.source.uids.get("FrameOfReferenceUID", "") for v in volumes):
        notes.append("a series names no frame of reference: whether the channels lie together is taken on trust")
    first = volumes[0]
    source = replace(source, notes=tuple(dict.fromkeys(notes)), channels=told)
    arrays = [volume.array for volume, _, _ in aligned]
    kind = np.result_type(*arrays)
    array = np.concatenate([a.astype(kind, copy=False) for a in arrays]) if len(arrays) > 1 else arrays[0]
    return Volume(array, first.geometry, first.modality, source)


def on_first_grid(volumes: Sequence[Volume], names: Sequence[str]) -> list[tuple[Volume, float, bool]]:
    """Volumes of one channel on the grid of the first, what share of it each covers, and whether it was resampled.

    Nothing is registered by content: the scanner's positions are believed, a patient who moved is not noticed.

    Args:
        volumes: The channels.
        names: What they are called in errors.

    Raises:
        ImageError: More than one channel in a series, other dimensions, another frame of reference, or too small an
            overlap; all of them named.
    """
    first = volumes[0]
    problems: list[tuple[str, str]] = []
    found = []
    for name, volume in zip(names, volumes, strict=True):
        ours, theirs = (v.source.uids.get("FrameOfReferenceUID", "") for v in (first, volume))
        inside = covered(first.geometry, volume.geometry) if volume.spatial_dims == first.spatial_dims else 0.0
        if volume.channels != 1 or volume.spatial_dims != first.spatial_dims:
            what = f"{volume.channels} channel(s) in {volume.spatial_dims}D"
            problems.append(("channel-grid", f"channel {name} has {what}, one in {first.spatial_dims}D is due"))
        elif ours and theirs and ours != theirs:
            text = f"channel {name} lies in another frame of reference than {names[0]}, so nobody knows how they lie"
            problems.append(("frame-of-reference", text))
        elif inside < MIN_INSIDE:
            text = f"channel {name} covers {inside:.0%} of {names[0]}, {MIN_INSIDE:.0%} are due"
            problems.append(("small-overlap", text))
        elif volume.geometry.is_close(first.geometry):
            found.append((volume, 1.0, False))
        else:
            array = regrid_image(volume.array, volume.geometry, first.geometry)
            found.append((Volume(array, first.geometry, volume.modality, volume.source), inside, True))
    if problems:
        raise ImageError("; ".join(text for _, text in problems), reason=problems[0][0])
    return found


def covered(grid: Geometry, other: Geometry) -> float:
    """Share of a grid that lies within another one, half a voxel around its centres included, by evenly spread points.

    2D images lie in planes: another plane, farther away than half its thickness, covers nothing.
    """
    sizes = (*grid.shape, 1)[:3]
    axes = [np.linspace(0, n - 1, min(n, _PROBES)) for n in sizes]
    points = grid.to_world(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3))
    index = other.to_index(points)
    limit = np.array((*other.shape, 1)[:3]) - 0.5
    return float(np.all((index >= -0.5 - 1e-6) & (index <= limit + 1e-6), axis=1).mean())
