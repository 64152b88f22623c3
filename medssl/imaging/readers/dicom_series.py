"""DICOM planes to one volume: sorted by geometry, strict about gaps, nothing averaged in silence."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.modality import pet_note
from medssl.imaging.readers.dicom_frames import Frame, Instance
from medssl.imaging.readers.dicom_pixels import read_frames
from medssl.imaging.readers.dicom_refuse import refuse_frames_of_reference
from medssl.imaging.readers.guard import refuse_large
from medssl.imaging.volume import UNKNOWN_SIZE, Source, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_UNIFORM = 0.02
"""Slice distances may differ from their median by this share (positions are rounded in headers)."""
_ROUNDED_MM = 0.01
"""Or by this, because of the digits that headers give, where it is no more than a tenth of the median."""
_DRIFT = 0.25
"""Slices may lie this share of their distance beside their place on the even grid: small differences add up."""
_NEAR = 0.1
"""Planes this share of the usual distance apart, or of their thickness, are at one position."""
_COSINE = 2e-3
"""Direction cosines of planes of one grid may differ by this (they are rounded in headers)."""
_LINE_MM = 0.1
"""Slice positions may lie this far beside one straight line."""


@dataclass(frozen=True)
class Stack:
    """Planes of one volume in slice order.

    Args:
        frames: Planes, along the normal.
        affine: (4, 4) of (column index, row index, slice), RAS mm.
        uniform: False where slice distances differ; `offsets_mm` then says where each plane lies along the step.
        offsets_mm: Distance of each plane from the first.
        notes: What was done that the user should know.
        dropped: Files left out because an identical plane is there.
    """

    frames: tuple[Frame, ...]
    affine: npt.NDArray[np.float64]
    uniform: bool
    offsets_mm: tuple[float, ...]
    notes: tuple[str, ...] = ()
    dropped: tuple[Frame, ...] = ()


def is_localizer(instance: Instance) -> bool:
    """True for scout images, which are no part of a volume."""
    return "LOCALIZER" in instance.image_type or "SCOUT" in instance.image_type


def grids(instances: Sequence[Instance]) -> list[list[Instance]]:
    """Instances of one series, grouped by orientation, size and pixel spacing; the largest group first."""
    groups: list[list[Instance]] = []
    for instance in instances:
        for group in groups:
            head = group[0]
            size = (instance.rows, instance.columns) == (head.rows, head.columns)
            if size and _parallel(instance.frames[0], head.frames[0]):
                group.append(instance)
                break
        else:
            groups.append([instance])
    return sorted(groups, key=lambda group: -sum(len(i.frames) for i in group))


def _parallel(one: Frame, other: Frame) -> bool:
    """True where two planes have one orientation and pixel spacing, but for the rounding of headers."""
    if one.orientation is None or other.orientation is None:
        turned = one.orientation is not other.orientation
    else:
        turned = bool(np.max(np.abs(np.subtract(one.orientation, other.orientation))) > _COSINE)
    if one.spacing_mm is None or other.spacing_mm is None:
        return not turned and one.spacing_mm is other.spacing_mm
    return not turned and bool(np.allclose(one.spacing_mm, other.spacing_mm, rtol=1e-3, atol=1e-4))


def refuse_cut(instances: Sequence[Instance]) -> None:
    """A series of which one file is cut is not read without it: nobody would see that it is shorter.

    Raises:
        ImageError: A file ends within its pixels, or the series is too large.
    """
    refuse_large(sum(i.pixel_bytes for i in instances), f"series {instances[0].series_uid or instances[0].path}")
    for instance in instances:
        if instance.cut:
            raise ImageError(instance.cut, reason="truncated")


def stack(instances: Sequence[Instance]) -> Stack:
    """Order the planes of one grid along their normal and find their affine.

    Raises:
        ImageError: Missing orientation or spacing, a gap, uneven or curved positions, several volumes in one series.
    """
    refuse_cut(instances)
    refuse_frames_of_reference(instances)
    frames = [frame for instance in instances for frame in instance.frames]
    where = f"series {instances[0].series_uid or instances[0].path}"
    first = frames[0]
    if all(frame.orientation is None for frame in frames):
        raise ImageError(
            f"{where}: {len(frames)} pictures without a place in the patient make no volume: give the file of one "
            "(radiographs, photographs), one frame (films), or slices with their positions",
            reason="no-orientation",
        )
    if first.spacing_mm is None or any(not s > 0 for s in first.spacing_mm):
        raise ImageError(
            f"{where}: pixel spacing is {first.spacing_mm}; two positive numbers are due", reason="bad-spacing"
        )
    if first.orientation is None or any(f.position_mm is None for f in frames):
        raise ImageError(f"{where}: position or orientation of its planes is missing", reason="no-orientation")
    if not all(_parallel(frame, first) for frame in frames):
        raise ImageError(
            f"{where}: planes of one file lie on different grids (localizers, or several volumes in one file)",
            reason="mixed-series",
        )
    cosines = np.reshape(first.orientation, (2, 3))
    if np.max(np.abs(cosines @ cosines.T - np.eye(2))) > 1e-2:
        raise ImageError(
            f"{where}: orientation {first.orientation} is no pair of right-angled unit vectors", reason="no-orientation"
        )
    along = np.array([np.dot(f.position_mm or (), first.normal) for f in frames])
    order = np.argsort(along, kind="stable")
    kept, dropped = _without_duplicates([frames[i] for i in order], along[order], where)
    positions = np.array([f.position_mm for f in kept])
    notes = [f"{len(dropped)} exact duplicate slice(s) left out"] if dropped else []
    step, offsets, uniform = _step(positions, kept[0], where)
    columns = np.stack([cosines[0] * first.spacing_mm[1], cosines[1] * first.spacing_mm[0], step], axis=1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = _LPS_TO_RAS @ columns, _LPS_TO_RAS @ positions[0]
    tilt = np.degrees(np.arccos(min(1.0, abs(np.dot(step, first.normal)) / float(np.linalg.norm(step)))))
    if tilt > 0.5:
        notes.append(f"slices are tilted by {tilt:.1f} degrees (gantry tilt); the full affine is kept")
    return Stack(tuple(kept), affine, uniform, tuple(offsets), tuple(notes), tuple(dropped))


def _without_duplicates(
    frames: list[Frame], along: npt.NDArray[np.float64], where: str
) -> tuple[list[Frame], list[Frame]]:
    """Drop planes at one position with identical pixels; other pixels there, or another place beside, are refused."""
    rounded = min(1e-3, 0.01 * min(frames[0].spacing_mm or (1.0,)))  # where all planes are at one position
    near = max(_NEAR * min(_usual(np.diff(along)), frames[0].thickness_mm), rounded)
    kept: list[Frame] = []
    dropped: list[Frame] = []
    last = -np.inf
    for frame, position in zip(frames, along, strict=True):
        if position - last > near:
            kept.append(frame)
            last = position
            continue
        apart = np.subtract(frame.position_mm or (), kept[-1].position_mm or ())
        beside = float(np.linalg.norm(apart - (apart @ frame.normal) * frame.normal))
        if beside > _LINE_MM:
            raise ImageError(
                f"{where}: planes lie side by side, {beside:.1f} mm apart ({kept[-1].path.name}, {frame.path.name}): "
                "several volumes in one series; split them first",
                reason="several-volumes",
            )
        if _content(kept[-1]) != _content(frame):
            raise ImageError(
                f"{where}: different images at one position ({kept[-1].path.name}, {frame.path.name}): several volumes "
                "(time points, echoes) in one series; split them first",
                reason="several-volumes",
            )
        dropped.append(frame)
    return kept, dropped


def _usual(distances: npt.NDArray[np.float64]) -> float:
    """The distance that halves the whole length when distances are summed by size: many tiny ones do not count."""
    if not len(distances):
        return 0.0
    ordered = np.sort(distances)
    summed = np.cumsum(ordered)
    return float(ordered[np.searchsorted(summed, summed[-1] / 2)])


def _content(frame: Frame) -> bytes:
    pixels, _ = read_frames([frame])
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()


def _step(
    positions: npt.NDArray[np.float64], first: Frame, where: str
) -> tuple[npt.NDArray[np.float64], list[float], bool]:
    """Vector from slice to slice (LPS), distance of each slice from the first, and whether the distances are even."""
    if len(positions) == 1:
        return first.normal * first.thickness_mm, [0.0], True
    line = positions[-1] - positions[0]
    direction = line / np.linalg.norm(line)
    offsets = (positions - positions[0]) @ direction
    beside = np.linalg.norm(positions - positions[0] - offsets[:, None] * direction, axis=1).max()
    if beside > _LINE_MM:
        raise ImageError(
            f"{where}: slice positions leave a straight line by {beside:.2f} mm", reason="curved-positions"
        )
    distances = np.diff(offsets)
    median = float(np.median(distances))
    drift = np.abs(offsets - np.linspace(0, offsets[-1], len(offsets))).max()
    uniform = bool(np.all(np.abs(distances - median) <= _tolerance(median)) and drift <= _DRIFT * median)
    step = line / (len(positions) - 1) if uniform else direction * median
    return step, [float(v) for v in offsets], uniform


def _tolerance(median: float) -> float:
    """How far a slice distance may be from the median, in mm."""
    return max(_UNIFORM * median, min(_ROUNDED_MM, 0.1 * median))


def even_offsets(found: Stack, head: Instance) -> npt.NDArray[np.float64]:
    """Distance of each slice of the volume from the first: uneven ones are evened to the median of those found.

    Raises:
        ImageError: Evened slices would take too much memory.
    """
    offsets = np.array(found.offsets_mm)
    if found.uniform:
        return offsets
    step = float(np.median(np.diff(offsets)))
    refuse_large(int(offsets[-1] / step) * head.rows * head.columns * 4, f"series {head.series_uid or head.path}")
    return np.arange(0, offsets[-1] + 1e-3 * step, step)


OPT_IN = "opt in to resampling with resample_irregular"
"""Remedy of `gap_error` for who gives the options; others say who that is."""


def gap_error(found: Stack, where: str) -> ImageError:
    """The error for slices that are not evenly spaced."""
    distances = np.diff(found.offsets_mm)
    median = float(np.median(distances))
    digits = max(2, 2 - int(np.floor(np.log10(median))))
    worst = int(np.argmax(np.abs(distances - median)))
    ratio = distances[worst] / median
    missing = abs(ratio - round(ratio)) < 2 * _UNIFORM and round(ratio) > 1
    what = f"{round(ratio) - 1} slice(s) seem to be missing" if missing else "slices are not evenly spaced"
    if abs(distances[worst] - median) <= _tolerance(median):
        what = "slice distances change by little, but add up to another place of the slices"
    return ImageError(
        f"{where}: {what}: {distances[worst]:.{digits}f} mm between slices {worst + 1} and {worst + 2}, "
        f"{median:.{digits}f} mm elsewhere; "
        f"get the whole series, or {OPT_IN}",
        reason="missing-slice" if missing else "uneven-spacing",
    )


def is_unplaced(instances: Sequence[Instance]) -> bool:
    """True for one plane without a place in the patient, such as a radiograph: a 2D image, no volume."""
    frames = [frame for instance in instances for frame in instance.frames]
    return len(frames) == 1 and (frames[0].orientation is None or frames[0].position_mm is None)


def to_volume(instances: Sequence[Instance], *, resample_irregular: bool = False) -> Volume:
    """Read the planes of one grid as a volume: (1, columns, rows, slices), or 2D (C, columns, rows) for one plane.

    Raises:
        ImageError: As `stack`, uneven spacing unless `resample_irregular`, or pixels that cannot be read.
    """
    head = instances[0]
    where = f"series {head.series_uid or head.path}"
    if is_unplaced(instances):
        return _flat(head)
    found = stack(instances)
    if not found.uniform and not resample_irregular:
        raise gap_error(found, where)
    pixels, notes = read_frames(found.frames)
    if pixels.ndim == 4 and pixels.shape[0] > 1:
        raise ImageError(f"{where}: a stack of colour pictures is no volume", reason="colour-series")
    if not found.uniform:
        pixels, found = _evened(pixels, found, head)
    if pixels.ndim == 4:
        array = np.transpose(pixels[0], (2, 1, 0))
    elif pixels.shape[0] == 1:
        array = pixels[0].T[None]
    else:
        array = np.transpose(pixels, (2, 1, 0))[None]
    geometry = Geometry(found.affine, array.shape[1:])
    # a view with slices farthest apart, as NIfTI is read too: turning it round in memory takes longer than decoding
    return Volume(array, geometry, head.modality, _source(head, found.frames, (*found.notes, *notes)))


def _flat(instance: Instance) -> Volume:
    """A plane without a place in the patient, such as a radiograph: 2D, in mm if it has a pixel spacing."""
    refuse_cut([instance])
    pixels, notes = read_frames(instance.frames)
    plane = pixels[0]
    array = np.transpose(plane, (2, 1, 0)) if plane.ndim == 3 else plane.T[None]
    spacing = instance.frames[0].spacing_mm
    known = spacing is not None and all(s > 0 for s in spacing)
    rows_mm, columns_mm = spacing if spacing is not None and known else (1.0, 1.0)
    notes = [*notes, "the image has no position in the patient; it is placed as an axial slice"]
    if not known:
        notes.append(UNKNOWN_SIZE)
    affine = np.diag([-columns_mm, -rows_mm, 1.0, 1.0])
    source = _source(instance, instance.frames, tuple(notes))
    if not known:
        source = replace(source, calibrated=False, at_detector=False)
    return Volume(np.ascontiguousarray(array), Geometry(affine, array.shape[1:]), instance.modality, source)


def _evened(pixels: npt.NDArray[np.generic], found: Stack, head: Instance) -> tuple[npt.NDArray[np.generic], Stack]:
    """Linear interpolation along the slices onto even distances: the median of those found."""
    offsets, wanted = np.array(found.offsets_mm), even_offsets(found, head)
    upper = np.clip(np.searchsorted(offsets, wanted, side="right"), 1, len(offsets) - 1)
    shares = np.clip((wanted - offsets[upper - 1]) / (offsets[upper] - offsets[upper - 1]), 0, 1)
    evened = np.empty((len(wanted), *pixels.shape[1:]), np.float32)
    for plane, above, share in zip(evened, upper, shares, strict=True):  # one by one: they are computed in double
        plane[...] = pixels[above - 1] * (1 - share) + pixels[above] * share
    note = f"uneven slices were resampled to {wanted[1]:.3f} mm on request: {len(offsets)} slices became {len(wanted)}"
    stack_ = replace(found, uniform=True, offsets_mm=tuple(wanted), notes=(*found.notes, note))
    return evened, stack_


def _source(instance: Instance, frames: Sequence[Frame], notes: tuple[str, ...]) -> Source:
    uids = {
        "StudyInstanceUID": instance.study_uid,
        "SeriesInstanceUID": instance.series_uid,
        "FrameOfReferenceUID": instance.frame_uid,
    }
    first = frames[0]
    more = (first.spacing_note, pet_note(instance.units) if instance.modality == "PT" else "")
    return Source(
        tuple(frame.path for frame in frames),
        "dicom",
        (*notes, *filter(None, more)),
        uids,
        calibrated=not first.at_detector,
        person=instance.person,
        at_detector=first.at_detector,
        units=instance.units,
    )
