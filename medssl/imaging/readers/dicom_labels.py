"""DICOM-SEG and RTSTRUCT as label maps on the grid of an image."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.naming import plain
from medssl.imaging.readers.dicom_frames import SEGMENTATIONS, read_header
from medssl.imaging.readers.dicom_segments import LPS, Segment, read_segments
from medssl.imaging.resample import regrid_label
from medssl.imaging.volume import Source, Volume

_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_LINE = 1e-3
"""Contours whose points lie no farther beside a straight line, in voxels, are one."""


def read_dicom_label(path: Path, like: Volume, labels: Sequence[Label] = ()) -> Volume:
    """Read a segmentation object onto the grid of an image.

    Segments and structures become the value of the label of the same name (case and spaces aside); without labels, the
    segment or structure number, and `source.names` tells their names. Where several overlap, the one that comes later
    in `labels` wins (without labels, the larger number), and it is noted. What is no class is left out, and so is what
    was drawn outside the image.

    Args:
        path: DICOM-SEG (BINARY, FRACTIONAL, LABELMAP) or RTSTRUCT.
        like: The image.
        labels: Classes.

    Raises:
        ImageError: Neither object, of another frame of reference than the image, nothing in it that is a class,
            nothing on the image's grid, contours between its slices, or a class that lies wholly below others.
    """
    header = read_header(path)
    kind = str(header.get("SOPClassUID", ""))
    told = _frame_of_reference(header, like, path)
    image, like = like, _solid(like)
    values = {plain(label.name): label.value for label in labels}
    outside: Counter[str] = Counter()
    if kind in SEGMENTATIONS:
        parts = read_segments(path, like.geometry, refers=_refers(header, image))
    elif kind == _RTSTRUCT:
        parts = _structures(header, like.geometry, path, values, outside)
    else:
        raise ImageError(f"{path} is neither DICOM-SEG nor RTSTRUCT", reason="not-a-label")
    joined = _joined(parts, like, values, labels, path)
    lost = [
        f"{n} contour(s) of structure {name!r} lie outside the image and were left out" for name, n in outside.items()
    ]
    if lost and not bool(joined.array.any()):
        raise ImageError(f"{path}: its contours lie nowhere on the image: it belongs to another", reason="label-grid")
    source = replace(joined.source, notes=(*told, *joined.source.notes, *lost))
    source = source if kind in SEGMENTATIONS else replace(source, format="rtstruct")
    return Volume(joined.array.reshape(1, *image.geometry.shape), image.geometry, source=source)


def referenced_series(dataset: Dataset) -> set[str]:
    """SeriesInstanceUIDs anywhere inside the object but its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values are parsed when they are asked for, with pydicom's remarks
        own = str(dataset.get("SeriesInstanceUID", ""))
        return {str(e.value) for e in dataset.iterall() if e.keyword == "SeriesInstanceUID" and str(e.value) != own}


def _frame_of_reference(header: Dataset, image: Volume, path: Path) -> tuple[str, ...]:
    """Positions mean the same place only within one frame of reference; a note where only the reference says so.

    Raises:
        ImageError: Another frame of reference, and the object does not refer to the image either.
    """
    own = image.source.uids.get("FrameOfReferenceUID", "")
    found = {str(e.value) for e in header.iterall() if e.keyword == "FrameOfReferenceUID" and str(e.value or "")}
    if not own or not found or own in found:
        return ()
    if _refers(header, image):
        return ("the label has another frame of reference than the image, but refers to it: its positions were taken",)
    raise ImageError(
        f"{path} has another frame of reference than the image and does not refer to it: its positions say nothing "
        "about this image; register both, or take the label that was made on it",
        reason="frame-of-reference",
    )


def _refers(header: Dataset, image: Volume) -> bool:
    own = image.source.uids.get("SeriesInstanceUID", "")
    return bool(own) and own in referenced_series(header)


def _solid(image: Volume) -> Volume:
    """A single slice as a volume of one slice, on which segments and contours can be placed."""
    if image.spatial_dims == 3:
        return image
    return Volume(image.array[..., None], Geometry(image.geometry.affine, (*image.geometry.shape, 1)), image.modality)


def _joined(
    parts: Iterator[Segment],
    like: Volume,
    values: Mapping[str, int],
    labels: Sequence[Label],
    path: Path,
) -> Volume:
    result = np.zeros(like.geometry.shape, dtype=np.uint8)
    notes, drawn = [], False
    names: dict[int, str] = {}
    order, later = _order(values), "class that comes later in the list" if values else "larger number"
    for number, name, mask, geometry in parts:
        value = values.get(plain(name)) if values else number
        if value is None:
            notes.append(f"segment {name!r} is not in the class list and was left out")
            continue
        if not 1 <= value <= 255:
            raise ImageError(
                f"{path}: segment {name!r} has the number {value}, a label map holds 1 to 255: name the classes with "
                "labels",
                reason="label-values",
            )
        placed = regrid_label(mask.astype(np.uint8), geometry, like.geometry) > 0
        drawn = drawn or bool(mask.any())
        notes.extend(_lost(mask, geometry, like.geometry, name))
        names[value] = name if bool(placed.any()) else names.get(value, "")
        below = result[placed]
        if bool(np.any((below > 0) & (below != value))):
            notes.append(f"segment {name!r} overlaps others; there the {later} was taken")
        result[placed] = np.where(order[below] > order[value], below, value)
    if not names:
        raise ImageError(
            f"{path}: none of its segments is in the class list ({', '.join(label.name for label in labels)}); "
            f"{'; '.join(notes) or 'it has no segments'}",
            reason="label-values",
        )
    if drawn and not bool(result.any()):
        raise ImageError(f"{path}: its segments lie nowhere on the image: it belongs to another", reason="label-grid")
    if hidden := [name for value, name in names.items() if name and not bool(np.any(result == value))]:
        raise ImageError(
            f"{path}: {', '.join(map(repr, hidden))} would vanish below other segments: name the classes with labels, "
            "organs before what lies in them, because of two that overlap the later one is taken",
            reason="label-overlap",
        )
    known = {} if values else names
    return Volume(result[None], like.geometry, source=Source((path,), "dicom-seg", tuple(notes), names=known))


def _order(values: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """(256,): of two values at one place the one with the larger number here is taken."""
    order = np.zeros(256, dtype=np.int64) if values else np.arange(256)
    for place, value in enumerate(values.values()):
        order[value] = place + 1
    return order


def _lost(mask: npt.NDArray[np.bool_], own: Geometry, image: Geometry, name: str) -> list[str]:
    """What the user should know of a segment that was not drawn on the image's grid."""
    notes = []
    size = np.array(image.shape)
    index = image.to_index(own.to_world(np.argwhere(mask)))
    outside = int(np.count_nonzero(np.any((index < -0.5) | (index > size - 0.5), axis=1)))
    if outside:
        notes.append(f"{outside} of {len(index)} voxels of segment {name!r} lie outside the image and were left out")
    between = float(np.max(np.abs(index - np.rint(index)), initial=0.0)) > 0.1
    if between or not 0.9 < own.voxel_ml / image.voxel_ml < 1.1:
        notes.append(f"segment {name!r} was drawn on another grid and was resampled to the image's")
    return notes


def _structures(
    dataset: Dataset, geometry: Geometry, path: Path, values: Mapping[str, int], outside: Counter[str]
) -> Iterator[Segment]:
    """Number, name, mask on the image's grid, and that grid, of each structure with closed planar contours.

    Structures that are no class stay empty. `outside` counts, by name, contours beyond the first or last slice.
    """
    names = {int(s.ROINumber): str(s.ROIName) for s in dataset.get("StructureSetROISequence", ())}
    for roi in dataset.get("ROIContourSequence", ()):
        number = int(roi.ReferencedROINumber)
        name = names.get(number, str(number))
        mask = np.zeros(geometry.shape, dtype=bool)
        for contour in roi.get("ContourSequence", ()) if not values or plain(name) in values else ():
            if str(contour.get("ContourGeometricType", "")).startswith("CLOSED"):
                points = np.reshape([float(v) for v in contour.ContourData], (-1, 3))
                if not _fill(mask, points, geometry, f"{path}: a contour of structure {name!r}"):
                    outside[name] += 1
        yield number, name, mask, geometry


def _fill(mask: npt.NDArray[np.bool_], points_lps: npt.NDArray[np.float64], geometry: Geometry, what: str) -> bool:
    """Turn the voxels inside a contour round (even-odd rule), so that a contour within another cuts a hole.

    False where it lies before the first slice or behind the last.
    """
    index = geometry.to_index(points_lps * LPS)
    if len(index) < 3 or np.linalg.svd(index - index.mean(axis=0), compute_uv=False)[1] < _LINE:
        return True  # it encloses nothing, and lies in many planes
    axis = int(np.argmin(np.ptp(index, axis=0)))
    plane = float(np.mean(index[:, axis]))
    at = ", ".join(f"{v:.1f}" for v in np.mean(points_lps, axis=0))
    if float(np.ptp(index[:, axis])) > 0.5:
        raise ImageError(f"{what} around ({at}) mm does not lie in a plane of the image", reason="label-grid")
    place = round(plane)
    if not -0.5 <= plane <= geometry.shape[axis] - 0.5:
        return False
    if abs(plane - place) > 0.3 or not 0 <= place < geometry.shape[axis]:
        raise ImageError(
            f"{what} around ({at}) mm lies between the image's slices: it was drawn on another image; take the label "
            "that was drawn on this one, or draw it anew",
            reason="label-grid",
        )
    others = [a for a in range(3) if a != axis]
    flat = inside_polygon(index[:, others], tuple(geometry.shape[a] for a in others))
    where: list[Any] = [slice(None)] * 3
    where[axis] = place
    mask[tuple(where)] ^= flat
    return True


def inside_polygon(vertices: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Voxel centres inside a polygon by the even-odd rule.

    Args:
        vertices: (n, 2) fractional indices.
        shape: Size of the plane.

    Returns:
        (*shape) bool.
    """
    ahead = np.roll(vertices, -1, axis=0)
    rows = np.arange(shape[0])[:, None]
    crosses = (vertices[:, 0] > rows) != (ahead[:, 0] > rows)  # (rows, n): edges that cross the row
    rise = np.where(ahead[:, 0] == vertices[:, 0], 1.0, ahead[:, 0] - vertices[:, 0])
    at = vertices[:, 1] + (rows - vertices[:, 0]) / rise * (ahead[:, 1] - vertices[:, 1])
    columns = np.arange(shape[1])
    inside = np.zeros(shape, dtype=bool)
    for edge in range(len(vertices)):
        hit = crosses[:, edge]
        inside[hit] ^= columns[None] < at[hit, edge][:, None]
    return inside
