"""DICOM objects on their way: what the network parts of the server need of a data set."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from medssl.imaging.errors import ImageError
from medssl.imaging.files import atomic_path
from medssl.imaging.own_results import is_own_result
from medssl.imaging.readers.guard import refuse_full_disk

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K Lossless RPCL
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    "1.2.840.10008.1.2.5",  # RLE
)
"""Transfer syntaxes that are received, those that the readers decode; without the deflated one, whose few bytes can
unpack to any number before a cap is looked at."""

DUPLICATE = 0x0111
"""Status of an object that an archive holds already (PS3.7 annex C: duplicate SOP instance)."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True)
class Identity:
    """Which object a file holds, and whether it is a result of medssl."""

    study_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    own_result: bool = False


def is_uid(text: str) -> bool:
    """Whether a text has the form of a DICOM unique identifier (PS3.5 section 9)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def identity(path: Path) -> Identity:
    """Which object a file holds; only the head of the file is read.

    Raises:
        ImageError: No DICOM file, or identifiers that are none.
    """
    tags = ["StudyInstanceUID", "SOPClassUID", "SOPInstanceUID", "Manufacturer"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            study, kind, instance = (str(head.get(tag, "")) for tag in tags[:3])
            syntax = str(head.file_meta.get("TransferSyntaxUID", ""))
            found = Identity(study, kind, instance, syntax, is_own_result(head))
        except Exception as error:  # damaged files make pydicom raise many kinds
            raise ImageError(f"the object is no DICOM file ({type(error).__name__})", reason="bad-dicom") from error
    if not all(is_uid(uid) for uid in (study, kind, instance, syntax)):
        raise ImageError("the object lacks a valid study, class or instance UID", reason="bad-uid")
    return found


def read_object(path: Path) -> Dataset:
    """A data set as it is, for sending it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


def save_objects(
    datasets: Iterable[Dataset], folder: Path, *, max_files: int, max_bytes: int, keep_free: int = 0
) -> set[str]:
    """Write received data sets as numbered files, but for results of medssl, which are no part of the image.

    Args:
        datasets: As they come in.
        folder: Where to write.
        max_files: Files that may come.
        max_bytes: Bytes that may come.
        keep_free: Bytes that must stay free on the disk.

    Returns:
        SOP instance UIDs of what came, results among them.

    Raises:
        ImageError: More than the limits.
    """
    size, came = 0, set()
    for number, dataset in enumerate(datasets, start=1):
        came.add(str(dataset.get("SOPInstanceUID", "")))
        if not is_own_result(dataset):
            refuse_full_disk(folder, keep_free)
            size += _save(dataset, folder / f"{number:06d}.dcm")
        if number > max_files or size > max_bytes:
            raise ImageError(
                f"the study is larger than {max_files} files or {max_bytes / 2**20:.0f} MiB", reason="too-large"
            )
    return came


def _save(dataset: Dataset, path: Path) -> int:
    """Bytes of the file that was written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    return path.stat().st_size


def refused_instances(answer: Dataset) -> Sequence[str]:
    """SOP classes that the answer to a STOW request lists as refused (PS3.18 section 10.5), but for what it holds."""
    failed = answer.get("FailedSOPSequence") or ()
    refused = [item for item in failed if item.get("FailureReason") != DUPLICATE]
    return [str(item.get("ReferencedSOPClassUID", "")) for item in refused]


def from_dicom_json(text: str) -> Dataset:
    """The data set that an answer in DICOM JSON is (PS3.18 annex F).

    Raises:
        ImageError: It is none.
    """
    try:
        return Dataset.from_json(text)
    except Exception as error:  # whatever stands there, pydicom and json have errors of their own for it
        raise ImageError("the answer is not DICOM JSON", reason="not-dicom-json") from error
