"""DICOM-SR out: an imaging measurement report (TID 1500) with what was measured, and what must be read with it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from highdicom.sr import (
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medssl.imaging.labels import Label
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_source import (
    DEFAULT_CATEGORY,
    DEFAULT_TYPE,
    RESEARCH_ONLY,
    Identity,
    Maker,
    concept,
    identity,
    quiet,
    read_source,
    save,
)

_SCHEME = "99MEDSSL"
"""Private coding scheme (PS3.3 section 8.2) for classes, which have names of their maker's choice."""
_ANATOMICAL = (DEFAULT_CATEGORY.value, DEFAULT_CATEGORY.scheme)
_PROCEDURES = {
    "CT": CodedConcept("25045-6", "LN", "CT Unspecified body region"),
    "MR": CodedConcept("25056-3", "LN", "MRI Unspecified body region"),
}
_IMAGING = CodedConcept("363679005", "SCT", "Imaging procedure")
_COMMENT = CodedConcept("121106", "DCM", "Comment")
_NO_UNIT = CodedConcept("1", "UCUM", "no units")
_MILLILITRE = CodedConcept("mL", "UCUM", "milliliter")
_SQUARE_MM = CodedConcept("mm2", "UCUM", "square millimeter")
_MOST_REFERENCES = 500
"""Source images named in each measurement group; the report as a whole names them all."""


@dataclass(frozen=True)
class Structure:
    """A segmented structure and its size.

    Args:
        label: What it is.
        volume_ml: Volume, None where the image is 2D or its voxel size unknown.
        area_mm2: Area on a 2D image, None otherwise.
        remark: What must be read with the number, such as its interval; may be empty.
    """

    label: Label
    volume_ml: float | None
    area_mm2: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Findings:
    """What a report says.

    Args:
        structures: Of a segmentation.
        probabilities: Of the classes of a classification.
        called: The class that is reported, empty without a classification.
    """

    structures: Sequence[Structure] = ()
    probabilities: Mapping[str, float] = field(default_factory=dict)
    called: str = ""


def write_dicom_sr(
    findings: Findings, source: Volume, path: Path, maker: Maker, segmentation: Path | None = None
) -> tuple[str, ...]:
    """Write a Comprehensive 3D SR that follows TID 1500; cautions are comments of the report.

    Args:
        findings: What was found.
        source: The DICOM image; the files of all its channels are referred to.
        path: File to write.
        maker: The algorithm, and its cautions.
        segmentation: DICOM-SEG with one segment a structure, in the same order, which the report refers to.

    Returns:
        Notes for the user: what was left out of the image's headers.

    Raises:
        ImageError: The source is not DICOM.
    """
    datasets, further, notes = read_source(source)
    with quiet():
        segments = None if segmentation is None else pydicom.dcmread(segmentation, stop_before_pixels=True)
        own = identity(datasets, further, maker, "dicom-sr", _said(findings, segments))
        groups = [*_structures(findings, datasets, maker, own, segments), *_classes(findings, datasets, maker, own)]
        report = MeasurementReport(
            observation_context=ObservationContext(observer_device_context=_device(maker, own)),
            procedure_reported=_PROCEDURES.get(str(datasets[0].get("Modality", "")), _IMAGING),
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )
        remarks = [f"{s.label.name}: {s.remark}" for s in findings.structures if s.remark]
        for text in (f"{RESEARCH_ONLY}.", *maker.cautions, *remarks):
            item = TextContentItem(_COMMENT, text, RelationshipTypeValues.CONTAINS)
            report[0].ContentSequence.append(item)
        document = Comprehensive3DSR(
            evidence=[*datasets, *further, *([] if segments is None else [segments])],
            content=report[0],
            series_instance_uid=own.uid("series"),
            series_number=910,
            sop_instance_uid=own.uid("instance"),
            instance_number=1,
            is_complete=True,
            series_description=maker.description(),
            **maker.equipment(),
        )
        save(document, datasets[0], path)
    return notes


def _said(findings: Findings, segments: Dataset | None) -> str:
    """Everything that a report tells of what was found, to as many digits as it tells them."""
    sizes = [
        (s.label.value, *(None if n is None else f"{n:.4f}" for n in (s.volume_ml, s.area_mm2)), s.remark)
        for s in findings.structures
    ]
    classes = [(name, f"{p:.6f}") for name, p in findings.probabilities.items()]
    return repr((sizes, classes, findings.called, "" if segments is None else str(segments.SOPInstanceUID)))


def _device(maker: Maker, own: Identity) -> ObserverContext:
    return ObserverContext(
        codes.DCM.Device,
        DeviceObserverIdentifyingAttributes(
            uid=own.uid("device"), name="medssl", manufacturer_name="medssl", model_name=maker.model[:64] or "medssl"
        ),
    )


def _images(datasets: Sequence[Dataset]) -> list[SourceImageForMeasurementGroup]:
    return [
        SourceImageForMeasurementGroup(str(d.SOPClassUID), str(d.SOPInstanceUID)) for d in datasets[:_MOST_REFERENCES]
    ]


def _structures(
    findings: Findings, datasets: Sequence[Dataset], maker: Maker, own: Identity, segments: Dataset | None
) -> list[Any]:
    groups: list[Any] = []
    own_segments = [] if segments is None else segments.SegmentSequence[-len(findings.structures) :]  # no background
    for number, structure in enumerate(sorted(findings.structures, key=lambda s: s.label.value)):
        label = structure.label
        common: dict[str, Any] = {
            "tracking_identifier": TrackingIdentifier(own.uid("group", str(label.value)), label.name),
            "finding_category": concept(label.category or DEFAULT_CATEGORY),
            "finding_type": concept(label.type or DEFAULT_TYPE),
            "finding_sites": _sites(label),
            "algorithm_id": maker.algorithm_of_measurements(),
            "measurements": _sizes(structure),
        }
        if segments is None or structure.volume_ml is None:
            groups.append(MeasurementsAndQualitativeEvaluations(**common, source_images=_images(datasets)))
            continue
        referenced = ReferencedSegment(
            sop_class_uid=str(segments.SOPClassUID),
            sop_instance_uid=str(segments.SOPInstanceUID),
            segment_number=int(own_segments[number].SegmentNumber),
            source_series=SourceSeriesForSegmentation(str(datasets[0].SeriesInstanceUID)),
        )
        groups.append(VolumetricROIMeasurementsAndQualitativeEvaluations(**common, referenced_segment=referenced))
    return groups


def _sites(label: Label) -> list[FindingSite] | None:
    """Where the finding is: an anatomical structure is its own site, of a lesion the label does not tell it."""
    category = label.category
    anatomical = category is not None and (category.value, category.scheme) == _ANATOMICAL
    return [FindingSite(concept(label.type))] if label.type is not None and anatomical else None


def _sizes(structure: Structure) -> list[Measurement]:
    sizes = []
    if structure.volume_ml is not None:
        sizes.append(Measurement(codes.SCT.Volume, round(structure.volume_ml, 4), _MILLILITRE))
    if structure.area_mm2 is not None:
        sizes.append(Measurement(codes.SCT.Area, round(structure.area_mm2, 4), _SQUARE_MM))
    return sizes


def _code(kind: str, name: str) -> str:
    """Code of a class, of at most 16 characters: the same name has the same one in every bundle, and no other."""
    return f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:14]}"


def _classes(findings: Findings, datasets: Sequence[Dataset], maker: Maker, own: Identity) -> list[Any]:
    if not findings.probabilities:
        return []
    names = list(findings.probabilities)
    concepts = {name: CodedConcept(_code("c", name), _SCHEME, name[:64]) for name in names}
    measured = [
        Measurement(CodedConcept(_code("p", name), _SCHEME, f"Probability of {name}"[:64]), round(p, 6), _NO_UNIT)
        for name, p in findings.probabilities.items()
    ]
    called = QualitativeEvaluation(CodedConcept("called-class", _SCHEME, "Class reported"), concepts[findings.called])
    return [
        MeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(own.uid("group", "classes"), "classes"),
            algorithm_id=maker.algorithm_of_measurements(),
            measurements=measured,
            qualitative_evaluations=[called],
            source_images=_images(datasets),
        )
    ]
