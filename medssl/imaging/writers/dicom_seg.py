"""DICOM-SEG out: BINARY, LABELMAP or FRACTIONAL, every frame, coded, referring to the images it was made from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from pydicom.dataset import Dataset

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_source import (
    DEFAULT_CATEGORY,
    DEFAULT_TYPE,
    LPS,
    RESEARCH_ONLY,
    Identity,
    Maker,
    concept,
    identity,
    planes,
    positions,
    quiet,
    read_source,
    reference,
    save,
)

Kind = Literal["binary", "labelmap"]
_EVERY_FRAME = 2**28
"""Bytes of a binary object up to which empty frames are written too: no reader then has to guess where a frame lies."""
_MOST_BYTES = 2**30
"""Bytes of a binary object; archives and viewers hold it in memory as a whole."""
_DESCRIPTION = 1024
"""Longest SegmentDescription (ST)."""


def write_dicom_seg(
    mask: Volume, source: Volume, labels: Sequence[Label], path: Path, maker: Maker, kind: Kind = "binary"
) -> tuple[str, ...]:
    """Write a mask as DICOM-SEG.

    Args:
        mask: (1, *S) uint8 on the grid of `source`.
        source: The DICOM image it was made from; its files are referred to.
        labels: Classes; without codes they are written as "Tissue", named by their label.
        path: File to write.
        maker: The algorithm; its cautions are written into the description of every segment.
        kind: `binary` (a frame a class and slice, every viewer reads it; above 256 MiB without the empty ones) or
            `labelmap` (a frame a slice, its values those of the labels; DICOM supplement 243, 2024).

    Returns:
        Notes for the user: what was left out of the image's headers, and labels that have no code of their own.

    Raises:
        ImageError: The source is not DICOM or names no frame of reference, mask and source lie on different grids, the
            planes of the image are not those of its files, or the mask holds values that are no label.
    """
    datasets, further, notes = read_source(source)
    _check_grid(mask, source)
    _check_values(mask, labels)
    ordered = sorted(labels, key=lambda label: label.value)
    numbers = [label.value for label in ordered] if kind == "labelmap" else list(range(1, len(ordered) + 1))
    table = np.zeros(256, dtype=np.uint8)
    table[[label.value for label in ordered]] = numbers
    with quiet():
        frames = planes(table[mask.array[0]], mask.geometry, datasets)
        _share_orientation(datasets, mask.geometry)
        named = "dicom-seg" if kind == "binary" else "dicom-seg-labelmap"
        _save(frames, datasets, further, dict(zip(numbers, ordered, strict=True)), path, maker, named)
    return (*notes, *_uncoded(labels))


def write_fractional_seg(
    shares: Volume, source: Volume, labels: Sequence[Label], path: Path, maker: Maker
) -> tuple[str, ...]:
    """Write the probability of each class as DICOM-SEG FRACTIONAL (PROBABILITY, 0 to 255).

    Args:
        shares: (L, *S) uint8 on the grid of `source`: 255 times the probability of each label, in the order of the
            labels' values.
        source: As for `write_dicom_seg`.
        labels: Classes.
        path: File to write.
        maker: The algorithm.

    Raises:
        ImageError: As `write_dicom_seg`.
    """
    datasets, further, notes = read_source(source)
    _check_grid(shares, source)
    ordered = sorted(labels, key=lambda label: label.value)
    with quiet():
        layers = [planes(share, shares.geometry, datasets) for share in shares.array]
        _share_orientation(datasets, shares.geometry)
        # highdicom takes probabilities as floats and writes round(255 p): 255 * (n / 255) gives n back
        frames = np.stack(layers, axis=-1, dtype=np.float32)
        frames /= np.float32(255)  # in place: this is four bytes a voxel and class
        _save(frames, datasets, further, dict(enumerate(ordered, start=1)), path, maker, "dicom-seg-fractional")
    return (*notes, *_uncoded(labels))


def _check_grid(mask: Volume, source: Volume) -> None:
    if not mask.geometry.is_close(source.geometry):
        raise ImageError("mask and source image lie on different grids", reason="label-grid")


def _share_orientation(datasets: Sequence[Dataset], grid: Geometry) -> None:
    """Give all planes one orientation, that of the grid: headers round theirs, and highdicom refuses two.

    Of an enhanced file it moves orientation and pixel size from the frames into the part that they share, where
    highdicom looks for them.
    """
    groups = datasets[0].get("PerFrameFunctionalGroupsSequence", None)
    due = (grid.affine[:3, :2] / np.linalg.norm(grid.affine[:3, :2], axis=0)).T * LPS  # (2, 3): of rows and columns
    if not groups:
        placed = [dataset for dataset in datasets if dataset.get("ImageOrientationPatient", None)]
        if placed:
            nearest = min(placed, key=lambda item: _turn(item, due)).ImageOrientationPatient
            for dataset in placed:
                dataset.ImageOrientationPatient = nearest
        return
    shared = datasets[0].SharedFunctionalGroupsSequence[0]
    turned = [item for group in groups for item in group.get("PlaneOrientationSequence", None) or ()]
    if turned and "PlaneOrientationSequence" not in shared:
        shared.PlaneOrientationSequence = [min(turned, key=lambda item: _turn(item, due))]
    if "PixelMeasuresSequence" in groups[0] and "PixelMeasuresSequence" not in shared:
        shared.PixelMeasuresSequence = groups[0].PixelMeasuresSequence


def _turn(plane: Dataset, due: npt.NDArray[np.float64]) -> float:
    """By how much the direction cosines of a plane differ from those due."""
    return float(np.abs(np.array(plane.ImageOrientationPatient, dtype=np.float64) - due.ravel()).max())


def _uncoded(labels: Sequence[Label]) -> tuple[str, ...]:
    return tuple(
        f"label {label.name!r} has no code, so DICOM-SEG calls it {DEFAULT_TYPE.meaning!r}; add type and category "
        "(SNOMED CT) to the label"
        for label in labels
        if label.type is None
    )


def _check_values(mask: Volume, labels: Sequence[Label]) -> None:
    foreign = sorted({int(v) for v in np.unique(mask.array)} - {0, *(label.value for label in labels)})
    if foreign or not labels:
        raise ImageError(
            f"mask values {foreign} have no label; a DICOM-SEG needs a name for each"
            if labels
            else "no labels are given",
            reason="label-values",
        )


def _save(
    frames: npt.NDArray[Any],
    datasets: Sequence[Dataset],
    further: Sequence[Dataset],
    labels: dict[int, Label],
    path: Path,
    maker: Maker,
    kind: str,
) -> None:
    """Write frames (F, rows, columns) of segment numbers, or (F, rows, columns, L) of probabilities."""
    if positions(datasets) is not None and not datasets[0].get("FrameOfReferenceUID", ""):
        raise ImageError(
            f"{kind} needs the image's frame of reference, which its files do not name; leave {kind} out of --format",
            reason="no-frame-of-reference",
        )
    own = identity(datasets, further, maker, kind, frames)
    every = kind != "dicom-seg" or len(labels) * frames.size // 8 <= _EVERY_FRAME
    if not every:
        _check_size(frames)
    types = {
        "dicom-seg": SegmentationTypeValues.BINARY,
        "dicom-seg-labelmap": SegmentationTypeValues.LABELMAP,
        "dicom-seg-fractional": SegmentationTypeValues.FRACTIONAL,
    }
    segmentation = Segmentation(
        source_images=list(datasets),
        pixel_array=frames,
        segmentation_type=types[kind],
        segment_descriptions=[_description(number, label, maker, own) for number, label in labels.items()],
        series_instance_uid=own.uid("series"),
        series_number=900 + list(types).index(kind),
        sop_instance_uid=own.uid("instance"),
        instance_number=1,
        fractional_type=SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=255,
        content_label="SEGMENTATION",
        content_description=RESEARCH_ONLY,
        series_description=maker.description(),
        omit_empty_frames=not every,
        **maker.equipment(),
    )
    _refer(segmentation, further)
    if "ImagePositionPatient" not in datasets[0] and positions(datasets) is None:
        segmentation.PatientOrientation = datasets[0].get("PatientOrientation", "")  # due where there is no position
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = own.uid("dimensions")  # highdicom draws one at random
    for item, label in zip(segmentation.SegmentSequence[-len(labels) :], labels.values(), strict=True):
        item.SegmentDescription = " | ".join((label.name, f"{RESEARCH_ONLY}.", *maker.cautions))[:_DESCRIPTION]
    save(segmentation, datasets[0], path)


def _check_size(frames: npt.NDArray[Any]) -> None:
    """Refuse a binary object that is too large even without its empty frames."""
    present = sum(int(np.count_nonzero(np.bincount(plane.ravel(), minlength=2)[1:])) for plane in frames)
    size = present * frames[0].size // 8
    if size > _MOST_BYTES:
        raise ImageError(
            f"a binary DICOM-SEG of {present} frames would have {size / 2**30:.1f} GiB, more than "
            f"{_MOST_BYTES / 2**30:.0f} GiB: take dicom-seg-labelmap or nifti in place of dicom-seg in --format",
            reason="seg-too-large",
        )


def _refer(segmentation: Segmentation, further: Sequence[Dataset]) -> None:
    """Name the other channels' images behind those of the first, which viewers take for the segmentation's own."""
    within = [d for d in further if d.get("StudyInstanceUID", "") == segmentation.StudyInstanceUID]
    for uid in dict.fromkeys(str(d.SeriesInstanceUID) for d in within):
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = [reference(d) for d in within if d.SeriesInstanceUID == uid]
        segmentation.ReferencedSeriesSequence.append(item)
        segmentation.SourceImageSequence.extend(item.ReferencedInstanceSequence)


def _description(number: int, label: Label, maker: Maker, own: Identity) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label.name[:64],
        segmented_property_category=concept(label.category or DEFAULT_CATEGORY),
        segmented_property_type=concept(label.type or DEFAULT_TYPE),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=maker.algorithm(),
        tracking_uid=own.uid("segment", str(label.value)),
        tracking_id=label.name[:64],
    )
