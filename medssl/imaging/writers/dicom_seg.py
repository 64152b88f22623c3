"""DICOM-SEG out: BINARY, every frame, coded, referring to the images it was made from."""

import datetime
import hashlib
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode

from medssl.imaging.errors import ImageError
from medssl.imaging.files import atomic_path
from medssl.imaging.labels import Code, Label
from medssl.imaging.volume import Volume

_ARTIFICIAL_INTELLIGENCE = DicomCode("123110", "DCM", "Artificial Intelligence")
_DEFAULT_CATEGORY = Code("123037004", "SCT", "Anatomical Structure")
_DEFAULT_TYPE = Code("85756007", "SCT", "Tissue")
_ROOT = "2.25."
_LPS = np.array([-1.0, -1.0, 1.0])
_BESIDE = 0.25
"""A plane may lie this share of a voxel beside its place on the mask's grid: headers round their numbers."""
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)


def write_dicom_seg(
    mask: Volume, source: Volume, labels: Sequence[Label], path: Path, *, model: str, key: str
) -> tuple[str, ...]:
    """Write a mask as DICOM-SEG.

    Args:
        mask: (1, *S) uint8 on the grid of `source`.
        source: The DICOM image it was made from; its files are referred to.
        labels: Classes; without codes they are written as "Tissue", named by their label.
        path: File to write.
        model: Name of the algorithm.
        key: What identifies the algorithm (the bundle's hash); with the source it determines the UIDs, so that the same
            result written again has the same identity.

    Returns:
        Notes for the user: labels that have no code of their own.

    Raises:
        ImageError: The source is not DICOM, mask and source lie on different grids, the planes of the image are not
            those of its files, or the mask holds values that are no label.
    """
    if source.source.format != "dicom" or not source.source.paths:
        raise ImageError("a DICOM-SEG needs a DICOM image to refer to", reason="not-dicom")
    if not mask.geometry.is_close(source.geometry):
        raise ImageError("mask and source image lie on different grids", reason="label-grid")
    _check_values(mask, labels)
    files = list(dict.fromkeys(source.source.paths))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks of pydicom and highdicom on attributes of the source
        datasets = [_complete(_header(file)) for file in files]
        segmentation = _segmentation(_frames(mask, datasets), datasets, labels, model, key)
        with atomic_path(path) as temporary:
            segmentation.save_as(temporary)
    return tuple(
        f"label {label.name!r} has no code, so DICOM-SEG calls it {_DEFAULT_TYPE.meaning!r}; add type and category "
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


def _header(file: Path) -> Dataset:
    """The pixels are not needed, only what a segmentation repeats of its source."""
    return pydicom.dcmread(file, stop_before_pixels=True, force=True)


def _complete(dataset: Dataset) -> Dataset:
    """Source with empty values for attributes that must be present but may be empty (type 2) and that are missing."""
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    if not dataset.get("SpecificCharacterSet", None) and "SpecificCharacterSet" in dataset:
        del dataset.SpecificCharacterSet  # empty means the default, which highdicom wants absent
    return dataset


def _frames(mask: Volume, datasets: Sequence[Dataset]) -> npt.NDArray[np.uint8]:
    """(frames, rows, columns) in the order of the source's files, or of the frames of its one file."""
    array = mask.array[0] if mask.spatial_dims == 3 else mask.array[0][..., None]
    planes = np.ascontiguousarray(np.transpose(array, (2, 1, 0)))
    positions = _positions(datasets)
    if positions is None and len(planes) == 1 == len(datasets):
        return planes  # a radiograph has no place in the patient, and but one plane
    index = None if positions is None else mask.geometry.to_index(positions * _LPS)
    order = [] if index is None else [round(float(k)) for k in index[:, 2]]
    if index is None or sorted(order) != list(range(len(planes))) or np.abs(index - np.rint(index)).max() > _BESIDE:
        raise ImageError(
            "the planes of the image are not those of its DICOM files (it was resampled on the way in, or its planes "
            "are spread over multi-frame files), so a DICOM-SEG cannot refer to them; write NIfTI instead",
            reason="resampled-source",
        )
    return planes[order]


def _positions(datasets: Sequence[Dataset]) -> npt.NDArray[np.float64] | None:
    """(planes, 3) LPS mm of the first pixel of each plane; None where a plane has none."""
    groups = datasets[0].get("PerFrameFunctionalGroupsSequence", None)
    if groups:
        shared = datasets[0].SharedFunctionalGroupsSequence[0]
        owners = [(group.get("PlanePositionSequence", None) or shared.PlanePositionSequence)[0] for group in groups]
    else:
        owners = list(datasets)
    found = [owner.get("ImagePositionPatient", None) for owner in owners]
    if (groups and len(datasets) > 1) or not all(found):
        return None
    return np.array([[float(v) for v in position] for position in found if position])


def _segmentation(
    frames: npt.NDArray[np.uint8], datasets: Sequence[Dataset], labels: Sequence[Label], model: str, key: str
) -> Segmentation:
    ordered = sorted(labels, key=lambda label: label.value)
    layers = np.stack([frames == label.value for label in ordered], axis=-1)
    algorithm = AlgorithmIdentificationSequence(
        name=model[:64], version=key[:16] or "0", family=_ARTIFICIAL_INTELLIGENCE
    )
    seed = [str(d.SOPInstanceUID) for d in datasets] + [key]
    descriptions = [_description(number, label, algorithm, seed) for number, label in enumerate(ordered, start=1)]
    segmentation = Segmentation(
        source_images=list(datasets),
        pixel_array=layers,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=_uid([*seed, "series"]),
        series_number=900,
        sop_instance_uid=_uid([*seed, "instance"]),
        instance_number=1,
        manufacturer="medssl",
        manufacturer_model_name=model[:64] or "medssl",
        software_versions=version("medssl"),
        device_serial_number=key[:16] or "0",
        content_label="SEGMENTATION",
        content_description="Not a medical device; for research only",
        series_description=f"{model} (research only)"[:64],
        omit_empty_frames=False,
    )
    segmentation.SpecificCharacterSet = "ISO_IR 192"  # names of labels and models may be in any language
    # Writing the same result again gives the same object: its date is the source's, not the clock's.
    stamp = _timestamp(datasets[0])
    for kind in ("Content", "Series", "InstanceCreation"):
        setattr(segmentation, f"{kind}Date", stamp.strftime("%Y%m%d"))
        setattr(segmentation, f"{kind}Time", stamp.strftime("%H%M%S"))
    if "ImagePositionPatient" not in datasets[0] and _positions(datasets) is None:
        segmentation.PatientOrientation = datasets[0].get("PatientOrientation", "")  # due where there is no position
    return segmentation


def _description(
    number: int, label: Label, algorithm: AlgorithmIdentificationSequence, seed: Sequence[str]
) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label.name[:64],
        segmented_property_category=_concept(label.category or _DEFAULT_CATEGORY),
        segmented_property_type=_concept(label.type or _DEFAULT_TYPE),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=_uid([*seed, "segment", str(label.value)]),
        tracking_id=label.name[:64],
    )


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _uid(parts: Sequence[str]) -> str:
    """UID below 2.25 from a hash, as DICOM PS3.5 B.2 allows for UUIDs."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()[:16]
    return _ROOT + str(int.from_bytes(digest, "big"))


def _timestamp(dataset: Dataset) -> datetime.datetime:
    for name in ("SeriesDate", "StudyDate", "ContentDate"):
        text = str(dataset.get(name, "") or "")
        if len(text) == 8 and text.isdigit():
            return datetime.datetime.strptime(text, "%Y%m%d").replace(tzinfo=datetime.UTC)
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
