"""What every DICOM object made from a result takes from its source: patient, study, planes, identity and date."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pydicom
from highdicom import AlgorithmIdentificationSequence, PatientSexValues
from highdicom.sr import AlgorithmIdentification, CodedConcept
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code as DicomCode
from pydicom.valuerep import DA, TM

from medssl.imaging.errors import ImageError
from medssl.imaging.files import atomic_path
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Code
from medssl.imaging.own_results import MANUFACTURER, UID_ROOT
from medssl.imaging.volume import Volume

RESEARCH_ONLY = "Not a medical device; for research only"
LPS = np.array([-1.0, -1.0, 1.0])
"""Factors between RAS, in which a volume lies, and LPS, in which DICOM counts."""
DEFAULT_CATEGORY = Code("123037004", "SCT", "Anatomical Structure")
DEFAULT_TYPE = Code("85756007", "SCT", "Tissue")
_ARTIFICIAL_INTELLIGENCE = DicomCode("123110", "DCM", "Artificial Intelligence")
UNICODE = "ISO_IR 192"
_BESIDE = 0.25
"""A plane may lie this share of a voxel beside its place on the grid: headers round their numbers."""
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
WHERE_KNOWN = ("IssuerOfPatientID", "StudyDescription", "PatientAge", "PatientSize", "PatientWeight")
"""Of patient and study, what a result repeats where the source says it."""
_DATES = ("SeriesDate", "StudyDate", "ContentDate", "PatientBirthDate", "LastMenstrualDate")
_TIMES = ("StudyTime", "PatientBirthTime")
"""Dates and times that a result takes from its source, the first three of them for its own date, in this order."""
_SEXES = ("", *(sex.value for sex in PatientSexValues))


class Stacked(Protocol):
    """Planes that need not exist all at once; an array is such, too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of planes, and the shape of each."""

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """One plane after the other."""


class Headers(NamedTuple):
    """Headers of the files that an image was read from, as far as a result repeats them.

    Args:
        own: Of the series that gave the image its grid, complete enough to be repeated in an object. Of several
            channels the first one's series is taken: the mask lies on its grid.
        further: Of the other channels: a result is made of them too, and names them.
        notes: For the user: what was left out because no object may hold it.
    """

    own: list[Dataset]
    further: list[Dataset]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Maker:
    """What a result was made by and what must be read with it.

    Args:
        model: Name of the algorithm.
        key: What identifies the algorithm (the bundle's hash); with the source, the kind of object and its content it
            determines the UIDs, so that the same result written again has the same identity, and another one has not.
        cautions: Sentences to be shown wherever the result is: reasons not to use it first, then warnings.
    """

    model: str
    key: str
    cautions: tuple[str, ...] = ()

    def algorithm(self) -> AlgorithmIdentificationSequence:
        """The algorithm as DICOM names it."""
        return AlgorithmIdentificationSequence(
            name=self.model[:64], version=self.key[:16] or "0", family=_ARTIFICIAL_INTELLIGENCE
        )

    def algorithm_of_measurements(self) -> AlgorithmIdentification:
        """The algorithm as a report names it."""
        return AlgorithmIdentification(name=self.model[:64], version=self.key[:16] or "0")

    def equipment(self) -> dict[str, Any]:
        """Arguments of highdicom's objects that name the device."""
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.model[:64] or "medssl",
            "software_versions": version("medssl"),
            "device_serial_number": self.key[:16] or "0",
        }

    def description(self) -> str:
        """SeriesDescription."""
        return f"{self.model[:48]} (research only)"


@dataclass(frozen=True)
class Identity:
    """UIDs of an object: the same source, algorithm, kind and content give the same, so that a PACS holds it once.

    Args:
        parts: Source instances of all channels, the algorithm's key, the kind of object and a hash of its content.
    """

    parts: tuple[str, ...]

    def uid(self, *more: str) -> str:
        """UID below 2.25 from a hash, as DICOM PS3.5 B.2 allows for UUIDs."""
        digest = hashlib.sha256("\0".join((*self.parts, *more)).encode()).digest()[:16]
        return UID_ROOT + str(int.from_bytes(digest, "big"))


def read_source(source: Volume) -> Headers:
    """Headers that a result of this image repeats and refers to.

    Raises:
        ImageError: The image is not DICOM.
    """
    if source.source.format != "dicom" or not source.source.paths:
        raise ImageError("a DICOM result needs a DICOM image to refer to", reason="not-dicom")
    with quiet():
        datasets = [_complete(_header(file)) for file in dict.fromkeys(source.source.paths)]
        series = source.source.uids.get("SeriesInstanceUID", "")
        own = [d for d in datasets if str(d.get("SeriesInstanceUID", "")) == series] or datasets
        emptied = dict.fromkeys(name for dataset in own for name in _empty_impossible(dataset))
        notes = [f"{name} of the image holds no possible {_kind(name)}: DICOM results leave it out" for name in emptied]
        return Headers(own, [_header(file) for file in source.source.further], tuple(notes))


def identity(
    datasets: Sequence[Dataset],
    further: Sequence[Dataset],
    maker: Maker,
    kind: str,
    *content: str | Stacked,
) -> Identity:
    """Identity of an object: one UID never stands for two results, of which an archive would keep the first.

    The version of medssl is no part of it: a new one that finds the same makes the same object.

    Args:
        datasets: Source images.
        further: Those of the other channels.
        maker: The algorithm; its cautions are part of what the object says.
        kind: Kind of object.
        content: What else it says: masks, numbers in words.
    """
    instances = (str(d.SOPInstanceUID) for d in (*datasets, *further))
    said = _hash((*maker.cautions, *content))
    return Identity((str(datasets[0].StudyInstanceUID), *instances, maker.key, kind, said))


def _hash(content: Iterable[str | Stacked]) -> str:
    digest = hashlib.sha256()
    for part in content:
        size = len(part) if isinstance(part, str) else part.shape
        digest.update(f"\0{size}\0".encode())  # so that no two contents are one string of bytes
        planes = (part.encode(),) if isinstance(part, str) else (np.ascontiguousarray(plane).data for plane in part)
        for plane in planes:
            digest.update(plane)
    return digest.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """No remarks of pydicom and highdicom on attributes that were taken over from the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def concept(code: Code) -> CodedConcept:
    """The code as highdicom takes it."""
    return CodedConcept(code.value, code.scheme, code.meaning)


def save(dataset: Dataset, source: Dataset, path: Path, fill: Callable[[BinaryIO], None] = lambda _: None) -> None:
    """Write an object with the source's date instead of the clock's: written again, it is the same object.

    Args:
        dataset: The object.
        source: An image that it was made from.
        path: File to write.
        fill: Adds to the file what is too large for the object.
    """
    dataset.SpecificCharacterSet = UNICODE  # names of labels and models may be in any language
    date = _own_date(source)
    for name in ("Content*", "Series*", "InstanceCreation*", "StructureSet*", "*OfSecondaryCapture"):
        for part, text in (("Date", date), ("Time", "000000")):
            if (keyword := name.replace("*", part)) in dataset:
                setattr(dataset, keyword, text)
    for equipment in dataset.get("ContributingEquipmentSequence", None) or ():
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = f"{date}000000"
    with atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
        with temporary.open("r+b") as stream:
            fill(stream)


def _kind(name: str) -> str:
    return "date" if name in _DATES else "time" if name in _TIMES else "value"


def _own_date(source: Dataset) -> str:
    """Date of the series or study, YYYYMMDD; that of 1970 where there is none."""
    found = (DA(str(source.get(name, "") or "")) for name in _DATES[:3])
    date = next((date for date in found if date is not None), None)
    return "19700101" if date is None else date.isoformat().replace("-", "")  # strftime gives year 1 one digit


def copy_present(source: Dataset, result: Dataset, names: Iterable[str]) -> None:
    """Attributes that the source has, into a result."""
    for name in names:
        if name in source:
            setattr(result, name, source[name].value)


def reference(dataset: Dataset) -> Dataset:
    """Item that names an instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    return item


class Planes:
    """Planes of an array (*S) in the order of the source's files or frames, each copied when it is asked for.

    Args:
        array: (*S), 2D or 3D.
        order: Number along the last axis of each plane.
        table: What each value is replaced with, nothing where it is None.
    """

    def __init__(
        self, array: npt.NDArray[Any], order: Sequence[int], table: npt.NDArray[np.uint8] | None = None
    ) -> None:
        self._array, self._order, self._table = array if array.ndim == 3 else array[..., None], order, table
        self.shape = (len(order), self._array.shape[1], self._array.shape[0])

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """(rows, columns) each."""
        for number in self._order:
            plane = np.ascontiguousarray(self._array[:, :, number].T)
            yield plane if self._table is None else self._table[plane]


def planes(
    array: npt.NDArray[Any], grid: Geometry, datasets: Sequence[Dataset], table: npt.NDArray[np.uint8] | None = None
) -> Planes:
    """Planes of an array (*S) in the order of the source's files, or of its frames.

    Raises:
        ImageError: The planes of the grid are not those of the files.
    """
    count = array.shape[2] if array.ndim == 3 else 1
    found = positions(datasets)
    if found is None and count == 1 == len(datasets):
        return Planes(array, [0], table)  # a radiograph has no place in the patient, and but one plane
    index = None if found is None else grid.to_index(found * LPS)
    order = [] if index is None else [round(float(k)) for k in index[:, 2]]
    if index is None or sorted(order) != list(range(count)) or np.abs(index - np.rint(index)).max() > _BESIDE:
        raise ImageError(
            "the planes of the image are not those of its DICOM files (it was resampled on the way in, or its planes "
            "are spread over multi-frame files), so DICOM-SEG and RTSTRUCT cannot refer to them; write NIfTI instead",
            reason="resampled-source",
        )
    return Planes(array, order, table)


def positions(datasets: Sequence[Dataset]) -> npt.NDArray[np.float64] | None:
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


def _header(file: Path) -> Dataset:
    """The pixels are not needed, only what a result repeats of its source."""
    return pydicom.dcmread(file, stop_before_pixels=True, force=True)


def _complete(dataset: Dataset) -> Dataset:
    """Source whose text is Unicode, with empty values for attributes that must be present but may be empty (type 2) and
    that are missing.

    Results are written in Unicode; of ways to encode text that are in use, highdicom takes some alone.
    """
    with quiet():
        dataset.decode()
    dataset.SpecificCharacterSet = UNICODE
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    return dataset


def _empty_impossible(dataset: Dataset) -> list[str]:
    """Empty what highdicom makes no object of: dates and times such as 00000000, a sex such as W, two referring
    physicians. Names of these.
    """
    found = []
    if isinstance(dataset.get("ReferringPhysicianName", None), MultiValue):
        dataset.ReferringPhysicianName = ""
        found.append("ReferringPhysicianName")
    if str(dataset.get("PatientSex", "") or "") not in _SEXES:
        dataset.PatientSex = ""
        found.append("PatientSex")
    for name in (*_DATES, *_TIMES):
        try:
            (DA if name in _DATES else TM)(dataset.get(name, None))
        except (TypeError, ValueError):
            setattr(dataset, name, "")
            found.append(name)
    return found
