"""RTSTRUCT out: contours of each class in the planes of the image, for planning systems."""

from collections.abc import Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian, RTStructureSetStorage

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.own_results import MANUFACTURER
from medssl.imaging.volume import Volume
from medssl.imaging.writers.contours import Ring, keyhole, outlines
from medssl.imaging.writers.dicom_source import (
    LPS,
    RESEARCH_ONLY,
    WHERE_KNOWN,
    Identity,
    Maker,
    copy_present,
    identity,
    planes,
    positions,
    quiet,
    read_source,
    reference,
    save,
)
from medssl.imaging.writers.overlay import colour

_OF_PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)
_MOST_CONTOURS = 20_000
_DETACHED_STUDY = UID("1.2.840.10008.3.1.2.3.1")
"""SOP class by which a structure set names a study (retired, but PS3.3 still asks for it here)."""


def write_rtstruct(mask: Volume, source: Volume, labels: Sequence[Label], path: Path, maker: Maker) -> tuple[str, ...]:
    """Write the outlines of a mask as RTSTRUCT.

    Contours run half-way between voxel centres inside and outside a class, by marching squares (contourpy), so that
    filling them at voxel centres, by the even-odd or the non-zero rule, gives the mask back. Holes are cut by keyholes:
    PS3.3 C.8.8.6.3 knows no contour that is a hole in another, and a program may fill both.

    Args:
        mask: (1, *S) uint8 on the grid of `source`.
        source: The DICOM image; its files are referred to.
        labels: Classes; one without voxels is a structure without contours.
        path: File to write.
        maker: The algorithm; its cautions are written into the description of the structure set.

    Returns:
        Notes for the user: what was left out of the image's headers.

    Raises:
        ImageError: The source is not DICOM, has no place in the patient, its planes are not those of its files, or a
            class is so torn that it has tens of thousands of outlines and holes.
    """
    datasets, further, notes = read_source(source)
    places = positions(datasets)
    if not datasets[0].get("FrameOfReferenceUID", "") or places is None:
        raise ImageError(
            "RTSTRUCT needs an image with a place in the patient; leave rtstruct out of --format", reason="no-position"
        )
    drawn = planes(mask.array[0], mask.geometry, datasets)
    own = identity(datasets, further, maker, "rtstruct", drawn)
    ordered = sorted(labels, key=lambda item: item.value)
    shapes: list[list[tuple[int, list[Ring]]]] = [[] for _ in ordered]
    for frame, plane in enumerate(drawn):
        for label, found in zip(ordered, shapes, strict=True):
            found += [(frame, rings) for rings in outlines(plane == label.value)]
    for label, found in zip(ordered, shapes, strict=True):
        _refuse_noise(label, sum(len(rings) for _, rings in found))
    with quiet(), disable_value_validation():  # the numbers are ours; checking each takes longer than all the rest
        dataset = _structure_set(datasets, maker, own)
        for number, (label, found) in enumerate(zip(ordered, shapes, strict=True), start=1):
            _add_structure(dataset, number, label)
            contours = [
                _contour(_placed(keyhole(rings), mask.geometry, places[frame]), datasets, frame)
                for frame, rings in found
            ]
            if contours:
                dataset.ROIContourSequence[-1].ContourSequence = contours
        save(dataset, datasets[0], path)
    return notes


def _refuse_noise(label: Label, count: int) -> None:
    if count > _MOST_CONTOURS:
        raise ImageError(
            f"{label.name} has {count} outlines and holes, more than {_MOST_CONTOURS}: it is noise and "
            "no planning system could load it: leave rtstruct out of --format",
            reason="too-many-contours",
        )


def _placed(points: Ring, grid: Geometry, place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points (n, 3) LPS mm in the plane whose first pixel is at `place`.

    The file's own place is taken, not the grid's, which is even where positions are rounded.
    """
    placed: npt.NDArray[np.float64] = place + points @ grid.affine[:3, :2].T * LPS
    return placed


def _contour(points: npt.NDArray[np.float64], datasets: Sequence[Dataset], frame: int) -> Dataset:
    item = Dataset()
    if len(datasets) > 1:
        item.ContourImageSequence = [reference(datasets[frame])]
    else:
        item.ContourImageSequence = [reference(datasets[0])]
        if "NumberOfFrames" in datasets[0]:
            item.ContourImageSequence[0].ReferencedFrameNumber = frame + 1
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    item.ContourData = [f"{v:.4f}" for v in points.ravel()]
    return item


def _structure_set(datasets: Sequence[Dataset], maker: Maker, own: Identity) -> FileDataset:
    meta = FileMetaDataset()
    # in explicit VR a contour may hold 64 KiB, which an outline of noise exceeds
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = RTStructureSetStorage, ImplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = UID(own.uid("instance"))
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    copy_present(datasets[0], dataset, (*_OF_PATIENT_AND_STUDY, *WHERE_KNOWN))
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = "RTSTRUCT", own.uid("series"), 930
    dataset.SeriesDescription = maker.description()
    dataset.OperatorsName = ""
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, maker.model[:64] or "medssl"
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = version("medssl"), maker.key[:16] or "0"
    dataset.StructureSetLabel, dataset.StructureSetName = "RESEARCH ONLY", maker.model[:64]
    dataset.StructureSetDescription = " | ".join((f"{RESEARCH_ONLY}.", *maker.cautions))[:1024]
    dataset.StructureSetDate = dataset.StructureSetTime = ""
    dataset.ApprovalStatus, dataset.InstanceNumber = "UNAPPROVED", 1
    dataset.ReferencedFrameOfReferenceSequence = [_referenced(datasets)]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    return dataset


def _referenced(datasets: Sequence[Dataset]) -> Dataset:
    """Frame of reference, study, series and images that the contours were drawn on."""
    series = []
    for uid, group in groupby(datasets, key=lambda d: str(d.SeriesInstanceUID)):
        item = Dataset()
        item.SeriesInstanceUID, item.ContourImageSequence = UID(uid), [reference(d) for d in group]
        series.append(item)
    study, frame = Dataset(), Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _DETACHED_STUDY, datasets[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = series
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = datasets[0].FrameOfReferenceUID, [study]
    return frame


def _add_structure(dataset: Dataset, number: int, label: Label) -> None:
    roi, contour, observation = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, label.name[:64], "AUTOMATIC"
    roi.ReferencedFrameOfReferenceUID = dataset.FrameOfReferenceUID
    contour.ReferencedROINumber, contour.ROIDisplayColor = number, list(colour(label))
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType, observation.ROIInterpreter = "", ""
    if label.type is not None:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = label.type.value, label.type.scheme
        code.CodeMeaning = label.type.meaning
        observation.RTROIIdentificationCodeSequence = [code]
    dataset.StructureSetROISequence.append(roi)
    dataset.ROIContourSequence.append(contour)
    dataset.RTROIObservationsSequence.append(observation)
