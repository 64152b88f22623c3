"""The segments of a DICOM-SEG as masks: on planes of the image where its frames lie there, else on their own grid."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry

LPS = np.array([-1.0, -1.0, 1.0])
"""Signs that turn LPS mm into RAS+ mm, and back."""
Segment = tuple[int, str, npt.NDArray[np.bool_], Geometry]
"""Number, name, mask (slices, rows, columns) and its grid."""

_Floats = npt.NDArray[np.float64]
_ALONG_NORMAL = 0.5
"""The step from plane to plane may turn away from their normal until its cosine is this much below 1."""
_LINE_MM = 0.1
"""Positions of frames may lie this far beside one straight line, as those of images."""
_BESIDE = (0.1, 0.25)
"""A frame lies on the image's voxels up to `_LINE_MM` beside them, but at least and at most these shares of a voxel."""
_COARSE = 1.5
"""Planes further apart than this many slices are not one slice apart."""


@dataclass(frozen=True)
class _Frames:
    """Where the frames lie.

    Args:
        places: (F, 3) LPS mm, centre of the first pixel.
        steps: (3, 2) LPS mm from row to row and from column to column.
        size: Rows and columns.
        apart_mm: SpacingBetweenSlices; 0 where the object has none.
        thickness_mm: SliceThickness; 0 where the object has none.
    """

    places: _Floats
    steps: _Floats
    size: tuple[int, int]
    apart_mm: float
    thickness_mm: float

    @property
    def normal(self) -> _Floats:
        """Unit normal, LPS."""
        normal: _Floats = np.cross(self.steps[:, 0], self.steps[:, 1])
        return normal / np.linalg.norm(normal)


def read_segments(path: Path, like: Geometry, *, refers: bool) -> Iterator[Segment]:
    """Masks of all segments.

    Frames that lie on planes of the image, pixel on pixel, are put there one by one: a program may leave empty frames
    out, and which planes are missing cannot be told from the others alone. All else is read on a grid of its own.

    Args:
        path: DICOM-SEG.
        like: 3D grid of the image.
        refers: The object refers to the image.

    Raises:
        ImageError: It cannot be read, or its positions do not say where its planes lie.
    """
    from highdicom.seg import segread  # noqa: PLC0415 (slow to import, and few labels need it)

    with _reading(path):
        segmentation: Any = segread(path)
        frames = _frames(segmentation)
        found = None if frames is None else _on_planes(frames, like, path, refers=refers)
        masks = _volume(segmentation, frames, like, path) if found is None else _put(segmentation, *found, path)
    while True:
        with _reading(path):
            part = next(masks, None)
            if part is None:
                return
            number, mask, geometry = part
            if number == 0:
                continue  # the background of a LABELMAP, which has a description of its own
            name = str(segmentation.get_segment_description(number).segment_label)
        yield number, name, mask, geometry


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Without remarks on attributes that do not matter here, and with one error for the many kinds of decoders."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"{path}: segments cannot be read ({error})", reason="bad-dicom-seg") from error


def _frames(segmentation: Any) -> _Frames | None:
    """None for a slide, and where frames have no place or differ in orientation or pixel size."""
    shared = (segmentation.get("SharedFunctionalGroupsSequence", None) or [Dataset()])[0]
    found: list[tuple[Dataset, Dataset, Dataset]] = []
    for group in segmentation.get("PerFrameFunctionalGroupsSequence", None) or ():
        parts = [
            (group.get(name, None) or shared.get(name, None) or [Dataset()])[0]
            for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        ]
        found.append((parts[0], parts[1], parts[2]))
    complete = all(
        place.get("ImagePositionPatient", None)
        and plane.get("ImageOrientationPatient", None)
        and measures.get("PixelSpacing", None)
        for place, plane, measures in found
    )
    if not found or not complete or segmentation.is_tiled:
        return None
    cosines = np.array([plane.ImageOrientationPatient for _, plane, _ in found], dtype=np.float64)
    spacing = np.array([measures.PixelSpacing for _, _, measures in found], dtype=np.float64)
    if max(float(np.ptp(cosines, axis=0).max()), float(np.ptp(spacing, axis=0).max())) > 1e-4:
        return None
    return _Frames(
        np.array([place.ImagePositionPatient for place, _, _ in found], dtype=np.float64),
        np.stack([cosines[0, 3:] * spacing[0, 0], cosines[0, :3] * spacing[0, 1]], axis=1),
        (int(segmentation.Rows), int(segmentation.Columns)),
        abs(float(found[0][2].get("SpacingBetweenSlices", None) or 0)),
        abs(float(found[0][2].get("SliceThickness", None) or 0)),
    )


def _turned(frames: _Frames, like: Geometry) -> tuple[npt.NDArray[np.int_], _Floats, int] | None:
    """How rows and columns run along the image's voxels; None where they do not.

    Returns:
        (3, 2) the image's index from row to row and column to column; (3,) by how much of a voxel it is off at the far
        corner; the axis of the image from plane to plane.
    """
    steps = np.linalg.inv(like.affine[:3, :3]) @ (LPS[:, None] * frames.steps)
    whole = np.rint(steps)
    if np.any(np.abs(whole).sum(axis=0) != 1) or np.abs(whole).sum(axis=1).max() != 1:
        return None
    drift = np.abs(steps - whole) @ (np.array(frames.size) - 1.0)
    if np.any(drift > _beside(like)):
        return None
    return whole.astype(int), drift, int(np.argmin(np.abs(whole).sum(axis=1)))


def _beside(like: Geometry) -> _Floats:
    return np.clip(_LINE_MM / np.array(like.spacing_mm), *_BESIDE)


def _on_planes(
    frames: _Frames, like: Geometry, path: Path, *, refers: bool
) -> tuple[npt.NDArray[np.int_], Geometry] | None:
    """The slice of each frame in a grid of whole voxels of the image; None where frames lie elsewhere.

    Frames beyond the image are kept beyond it, side by side.

    Raises:
        ImageError: The planes may be those of the image or of a series of thicker slices.
    """
    turned = _turned(frames, like)
    if turned is None:
        return None
    steps, drift, axis = turned
    count = like.shape[axis]
    index = like.to_index(frames.places * LPS)
    whole = np.rint(index).astype(int)
    along = index[:, axis]
    before, after = along < -0.5 - _BESIDE[1], along > count - 0.5 + _BESIDE[1]
    if count == 1 and refers:  # the distance to the next slice is not known: all others lie beyond
        before, after = along < -_BESIDE[1], along > _BESIDE[1]
    due = ~(before | after) if refers else np.ones(len(along), dtype=bool)
    due = due if due.any() else ~due
    corner = np.delete(whole[due], axis, axis=1)
    if not np.all(np.abs(index - whole)[due] + drift <= _beside(like)) or np.any(corner != corner[0]):
        return None
    if _coarse(frames, like, axis, whole[:, axis], path, refers=refers):
        return None
    planes = whole[:, axis].copy()
    planes[before] = np.unique(along[before], return_inverse=True)[1] - len(np.unique(along[before]))
    planes[after] = np.unique(along[after], return_inverse=True)[1] + count
    first = int(planes.min())
    place = np.zeros((4, 4))
    place[axis, 0], place[:3, 1:3], place[3, 3] = 1, steps, 1
    place[:3, 3] = whole[np.flatnonzero(due)[0]]
    place[axis, 3] = first
    return planes - first, Geometry(like.affine @ place, (int(planes.max()) - first + 1, *frames.size))


def _coarse(
    frames: _Frames, like: Geometry, axis: int, planes: npt.NDArray[np.int_], path: Path, *, refers: bool
) -> bool:
    """Whether planes that coincide with some of the image's are those of a series of thicker slices."""
    gaps = np.diff(np.unique(planes))
    if like.shape[axis] == 1 or (len(gaps) and gaps.min() == 1):
        return False
    distance = _distance(frames, like, axis)
    if frames.apart_mm:
        return frames.apart_mm > _COARSE * distance
    if frames.thickness_mm > _COARSE * distance and not refers:
        raise ImageError(
            f"{path}: its planes are {frames.thickness_mm:g} mm thick, the image's {distance:.4g} mm apart, and it "
            "does not say how far apart its own are (SpacingBetweenSlices): whether the slices between belong to a "
            "segment cannot be told; read it with the series that it was drawn on",
            reason="segment-planes",
        )
    return False


def _distance(frames: _Frames, like: Geometry, axis: int) -> float:
    """From plane to plane of the image along the normal of the frames, in mm."""
    return abs(float((LPS * like.affine[:3, axis]) @ frames.normal))


def _put(
    segmentation: Any, planes: npt.NDArray[np.int_], geometry: Geometry, path: Path
) -> Iterator[tuple[int, npt.NDArray[np.bool_], Geometry]]:
    """Masks from the frames, each in its plane."""
    labelmap = segmentation.SegmentationType == "LABELMAP"
    stored = segmentation.get_stored_frames() if labelmap else None
    owners = np.zeros(len(planes), dtype=int) if labelmap else _numbers(segmentation)
    if len(set(zip(owners.tolist(), planes.tolist(), strict=True))) != len(planes):
        raise ImageError(f"{path}: several frames of one segment lie in one plane", reason="bad-dicom-seg")
    unknown = sorted(set(owners.tolist()) - {0, *segmentation.segment_numbers})
    if unknown:
        raise ImageError(
            f"{path}: frames belong to segments {unknown}, which it does not describe", reason="bad-dicom-seg"
        )
    half = segmentation.MaximumFractionalValue / 2 if segmentation.SegmentationType == "FRACTIONAL" else 0
    for number in segmentation.segment_numbers:
        mask = np.zeros(geometry.shape, dtype=bool)
        if stored is not None:
            mask[planes] = stored == number
        else:
            for frame in np.flatnonzero(owners == number):
                mask[planes[frame]] = segmentation.get_stored_frame(int(frame), as_index=True) > half
        yield int(number), mask, geometry


def _numbers(segmentation: Any) -> npt.NDArray[np.int_]:
    """(F,) segment of each frame."""
    shared = (segmentation.get("SharedFunctionalGroupsSequence", None) or [Dataset()])[0]
    name = "SegmentIdentificationSequence"
    groups = segmentation.PerFrameFunctionalGroupsSequence
    return np.array([int((g.get(name, None) or shared[name].value)[0].ReferencedSegmentNumber) for g in groups])


def _volume(
    segmentation: Any, frames: _Frames | None, like: Geometry, path: Path
) -> Iterator[tuple[int, npt.NDArray[np.bool_], Geometry]]:
    """Masks on the grid of the object; highdicom places the frames."""
    if frames is not None:
        _check_gaps(frames, path)
    volume = segmentation.get_volume(combine_segments=False, skip_overlap_checks=True, perpendicular_tol=_ALONG_NORMAL)
    affine = np.asarray(volume.affine, dtype=np.float64)
    if frames is not None:
        affine = _with_tilt(affine, frames, like, path)
    geometry = Geometry(np.diag([*LPS, 1.0]) @ affine, volume.spatial_shape)
    array = np.asarray(volume.array)
    for channel, number in enumerate(segmentation.segment_numbers):
        yield int(number), array[..., channel] > 0.5, geometry


def _check_gaps(frames: _Frames, path: Path) -> None:
    """Refuse planes of which nobody knows whether others between them were left out."""
    if frames.apart_mm:
        return
    gaps = np.diff(np.unique(np.round(frames.places @ frames.normal, 3)))
    if not frames.thickness_mm:
        raise ImageError(
            f"{path}: it says neither how far apart its planes are (SpacingBetweenSlices) nor how thick "
            "(SliceThickness), and they are not the image's: read it with the series that it was drawn on",
            reason="segment-planes",
        )
    if len(gaps) and gaps.min() > _COARSE * frames.thickness_mm:
        raise ImageError(
            f"{path}: its planes are {gaps.min():.4g} mm apart and {frames.thickness_mm:g} mm thick, and are not the "
            "image's: whether empty planes between them were left out cannot be told without SpacingBetweenSlices; "
            "read it with the series that it was drawn on",
            reason="segment-planes",
        )


def _with_tilt(affine: _Floats, frames: _Frames, like: Geometry, path: Path) -> _Floats:
    """The affine of (plane, row, column) with the step from plane to plane that the positions of the frames have.

    highdicom orders the planes along their normal and takes that for the step. In a tilted stack (gantry tilt) the
    planes shift along themselves as well; a small tilt, which it lets pass, is millimetres at the end of a stack. One
    plane alone is followed in the direction of the image's, where rows and columns are the image's.

    Args:
        affine: (4, 4), LPS mm, of highdicom's volume.
        frames: Where the frames lie.
        like: Grid of the image.
        path: File, for the error.

    Raises:
        ImageError: The positions lie on no straight line.
    """
    places = frames.places
    index = (places - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    planes = np.rint(index[:, 0])
    first, last = int(np.argmin(planes)), int(np.argmax(planes))
    tilted = affine.copy()
    if planes[first] == planes[last]:
        apart = frames.apart_mm or frames.thickness_mm
        turned = _turned(frames, like)
        step = frames.normal if turned is None else LPS * like.affine[:3, turned[2]]
        tilted[:3, 0] = step * apart / abs(float(step @ frames.normal))
        return tilted
    step = (places[last] - places[first]) / (planes[last] - planes[first])
    beside = np.linalg.norm(places - places[first] - (planes - planes[first])[:, None] * step, axis=1).max()
    if beside > _LINE_MM:
        raise ImageError(
            f"{path}: positions of its frames leave a straight line by {beside:.2f} mm", reason="curved-positions"
        )
    tilted[:3, 0] = step
    tilted[:3, 3] = places[first] - planes[first] * step
    return tilted
