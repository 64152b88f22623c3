"""DICOM-SEG out: BINARY, LABELMAP or FRACTIONAL, every frame, coded, referring to the images it was made from."""

from collections.abc import Sequence
from math import prod
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
from medssl.imaging.writers.seg_frames import Content, Probabilities, present, renamed, sized, sketch, without_pixels

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
    ordered = sorted(labels, key=lambda label: label.value)
    numbers = [label.value for label in ordered] if kind == "labelmap" else list(range(1, len(ordered) + 1))
    table = np.zeros(256, dtype=np.uint8)
    table[[label.value for label in ordered]] = numbers
    with quiet():
        held = present(planes(mask.array[0], mask.geometry, datasets))
        _check_values(np.any(held, axis=0), labels)
        frames = planes(mask.array[0], mask.geometry, datasets, table)
        _share_orientation(datasets, mask.geometry)
        content = Content((frames,), frames, sketch(renamed(held, table)))
        named = "dicom-seg" if kind == "binary" else "dicom-seg-labelmap"
        _save(content, datasets, further, dict(zip(numbers, ordered, strict=True)), path, maker, named)
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
        empty = np.zeros((len(layers[0]), 1, 1, len(layers)), np.float32)  # a frame each, whatever is in it
        content = Content(layers, Probabilities(layers), empty)
        _save(content, datasets, further, dict(enumerate(ordered, start=1)), path, maker, "dicom-seg-fractional")
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


def _check_values(held: npt.NDArray[np.bool_], labels: Sequence[Label]) -> None:
    foreign = sorted(set(np.flatnonzero(held).tolist()) - {0, *(label.value for label in labels)})
    if foreign or not labels:
        raise ImageError(
            f"mask values {foreign} have no label; a DICOM-SEG needs a name for each"
            if labels
            else "no labels are given",
            reason="label-values",
        )


def _save(
    content: Content,
    datasets: Sequence[Dataset],
    further: Sequence[Dataset],
    labels: dict[int, Label],
    path: Path,
    maker: Maker,
    kind: str,
) -> None:
    """Write frames of segment numbers, or of the probability of each label."""
    if positions(datasets) is not None and not datasets[0].get("FrameOfReferenceUID", ""):
        raise ImageError(
            f"{kind} needs the image's frame of reference, which its files do not name; leave {kind} out of --format",
            reason="no-frame-of-reference",
        )
    own = identity(datasets, further, maker, kind, content.said)
    every = kind != "dicom-seg" or len(labels) * prod(content.said.shape) // 8 <= _EVERY_FRAME
    drawn = content.sketch if every else _sparse(content)
    types = {
        "dicom-seg": SegmentationTypeValues.BINARY,
        "dicom-seg-labelmap": SegmentationTypeValues.LABELMAP,
        "dicom-seg-fractional": SegmentationTypeValues.FRACTIONAL,
    }
    with sized(datasets, drawn.shape):
        segmentation = Segmentation(
            source_images=list(datasets),
            pixel_array=drawn,
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
    fill = without_pixels(segmentation, content.layers, datasets)
    _refer(segmentation, further)
    if "ImagePositionPatient" not in datasets[0] and positions(datasets) is None:
        segmentation.PatientOrientation = datasets[0].get("PatientOrientation", "")  # due where there is no position
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = own.uid("dimensions")  # highdicom draws one at random
    for item, label in zip(segmentation.SegmentSequence[-len(labels) :], labels.values(), strict=True):
        item.SegmentDescription = " | ".join((label.name, f"{RESEARCH_ONLY}.", *maker.cautions))[:_DESCRIPTION]
    save(segmentation, datasets[0], path, fill)


def _sparse(content: Content) -> npt.NDArray[Any]:
    """The sketch of a binary object without its empty frames; where all are empty, the first of them stands for all.

    Raises:
        ImageError: It is too large even so.
    """
    drawn = content.sketch
    if not drawn.any():
        drawn = drawn.copy()
        drawn[0] = 1
    frames = sum(np.count_nonzero(np.unique(plane)) for plane in drawn)
    size = frames * prod(content.said.shape[1:]) // 8
    if size > _MOST_BYTES:
        raise ImageError(
            f"a binary DICOM-SEG of {frames} frames would have {size / 2**30:.1f} GiB, more than "
            f"{_MOST_BYTES / 2**30:.0f} GiB: take dicom-seg-labelmap or nifti in place of dicom-seg in --format",
            reason="seg-too-large",
        )
    return drawn


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
