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


def write_dicom_seg(mask: Volume, source: Volume, labels: Sequence[Label], path: Path, *, model: str, key: str) -> None:
    """Write a mask as DICOM-SEG.

    Args:
        mask: (1, *S) uint8 on the grid of `source`.
        source: The DICOM image it was made from; its files are referred to.
        labels: Classes; without codes they are written as "Tissue", named by their label.
        path: File to write.
        model: Name of the algorithm.
        key: What identifies the algorithm (the bundle's hash); with the source it determines the UIDs, so that the same
            result written again has the same identity.

    Raises:
        ImageError: The source is not DICOM, or mask and source lie on different grids.
    """
    if source.source.format != "dicom" or not source.source.paths:
        raise ImageError("a DICOM-SEG needs a DICOM image to refer to", reason="not-dicom")
    if not mask.geometry.is_close(source.geometry):
        raise ImageError("mask and source image lie on different grids", reason="label-grid")
    files = list(dict.fromkeys(source.source.paths))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks of pydicom and highdicom on attributes of the source
        datasets = [_complete(pydicom.dcmread(file)) for file in files]
        if len(datasets[0].get("PerFrameFunctionalGroupsSequence", ())) == 0 and len(files) != _planes(source):
            raise ImageError(
                "the image was resampled on the way in, so its slices are not those of the source; write NIfTI instead",
                reason="resampled-source",
            )
        segmentation = _segmentation(_frames(mask, datasets), datasets, labels, model, key)
        with atomic_path(path) as temporary:
            segmentation.save_as(temporary)


def _complete(dataset: Dataset) -> Dataset:
    """Source with empty values for attributes that must be present but may be empty (type 2) and that are missing."""
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    if not dataset.get("SpecificCharacterSet", None) and "SpecificCharacterSet" in dataset:
        del dataset.SpecificCharacterSet  # empty means the default, which highdicom wants absent
    return dataset


def _planes(volume: Volume) -> int:
    return volume.geometry.shape[2] if volume.spatial_dims == 3 else 1


def _frames(mask: Volume, datasets: Sequence[Dataset]) -> npt.NDArray[np.uint8]:
    """(frames, rows, columns) in the order of the source's files, or of the frames of its one file."""
    array = mask.array[0] if mask.spatial_dims == 3 else mask.array[0][..., None]
    planes = np.ascontiguousarray(np.transpose(array, (2, 1, 0)))
    groups = datasets[0].get("PerFrameFunctionalGroupsSequence", None)
    if not groups:
        return planes
    positions = [_position(group, datasets[0]) for group in groups]
    order = [round(float(mask.geometry.to_index(p * np.array([-1.0, -1.0, 1.0]))[2])) for p in positions]
    if sorted(order) != list(range(len(planes))):
        raise ImageError("the source's frames are not the planes of the mask", reason="label-grid")
    return planes[order]


def _position(group: Dataset, dataset: Dataset) -> npt.NDArray[np.float64]:
    own = group.get("PlanePositionSequence", None) or dataset.SharedFunctionalGroupsSequence[0].PlanePositionSequence
    return np.array([float(v) for v in own[0].ImagePositionPatient])


def _segmentation(
    frames: npt.NDArray[np.uint8], datasets: Sequence[Dataset], labels: Sequence[Label], model: str, key: str
) -> Segmentation:
    ordered = sorted(labels, key=lambda label: label.value)
    layers = np.stack([frames == label.value for label in ordered], axis=-1)
    algorithm = AlgorithmIdentificationSequence(
        name=model[:64], version=key[:16] or "0", family=_ARTIFICIAL_INTELLIGENCE
    )
    descriptions = [_description(number, label, algorithm) for number, label in enumerate(ordered, start=1)]
    seed = [d.SOPInstanceUID for d in datasets] + [key]
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
    # Writing the same result again gives the same object: its date is the source's, not the clock's.
    stamp = _timestamp(datasets[0])
    segmentation.ContentDate = segmentation.SeriesDate = segmentation.InstanceCreationDate = stamp.strftime("%Y%m%d")
    segmentation.ContentTime = segmentation.SeriesTime = segmentation.InstanceCreationTime = stamp.strftime("%H%M%S")
    return segmentation


def _description(number: int, label: Label, algorithm: AlgorithmIdentificationSequence) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label.name[:64],
        segmented_property_category=_concept(label.category or _DEFAULT_CATEGORY),
        segmented_property_type=_concept(label.type or _DEFAULT_TYPE),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=_uid([label.name, str(label.value)]),
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
