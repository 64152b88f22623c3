"""What a DICOM header says of each image plane: where it lies, and how its stored values become intensities."""

import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medssl.imaging.ages import dicom_years
from medssl.imaging.errors import ImageError, MedsslError
from medssl.imaging.modality import pet_units
from medssl.imaging.own_results import is_own_result
from medssl.imaging.patients import KEYWORDS, Person
from medssl.imaging.readers.dicom_spacing import pixel_size
from medssl.imaging.readers.guard import MAX_FRAMES, max_image_bytes, refuse_large

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of DICOM-SEG: BINARY and FRACTIONAL, and LABELMAP."""
UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
"""Transfer syntaxes whose pixels have a length that the header tells."""
_NAMES = (".dcm", ".dicom", ".ima")
_PREAMBLE = 132
"""Bytes of a DICOM file before its first attribute."""
_GEOMETRY = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
)


@dataclass(frozen=True)
class Frame:
    """One image plane.

    Args:
        path: File it is in.
        number: Frame number from 0 in a multi-frame file, None in a single-frame file.
        position_mm: Centre of the first pixel, LPS mm; None where the header has none.
        orientation: Row and column direction cosines, LPS; None where the header has none.
        spacing_mm: Distance between rows and between columns; None where the header has none.
        thickness_mm: Slice thickness, 1 when unknown.
        slope: Factor of the stored value.
        intercept: Summand after the factor.
        at_detector: The spacing is no size in the patient.
        spacing_note: What the user should know of the spacing.
    """

    path: Path
    number: int | None
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, float] | None
    thickness_mm: float
    slope: float
    intercept: float
    at_detector: bool = False
    spacing_note: str = ""

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit normal of the plane, LPS."""
        row, column = np.reshape(self.orientation or (1, 0, 0, 0, 1, 0), (2, 3))
        normal: npt.NDArray[np.float64] = np.cross(row, column)
        return normal / np.linalg.norm(normal)


@dataclass(frozen=True)
class Instance:
    """A DICOM image file: what `scan` and the series reader need of its header, and its planes.

    `cut` says what is wrong with an uncompressed file that ends within its pixels; its length alone tells. `frame_uid`
    is the FrameOfReferenceUID: positions of two files can be compared where it is the same. `pixel_bytes` is the size
    of its decoded pixels, `units` the code for the unit of a PET image.
    """

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    study_uid: str
    modality: str
    description: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    frames: tuple[Frame, ...]
    person: Person
    sex: str
    age: str
    scanner: str
    transfer_syntax: str
    cut: str = ""
    frame_uid: str = ""
    pixel_bytes: int = 0
    units: str = ""


def read_header(path: Path) -> Dataset:
    """Header of a DICOM file, without its pixels.

    Raises:
        ImageError: No DICOM file, or cut before the end of its header.
        PermissionError: The file may not be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on odd headers; what matters is refused or noted
        try:
            refuse_deflated_bomb(path)
            with path.open("rb") as file:
                dataset = pydicom.dcmread(file, stop_before_pixels=True)
                left = path.stat().st_size - file.tell()
        except InvalidDicomError:
            return _headless(path)
        except (PermissionError, MedsslError):
            raise
        except FileNotFoundError as error:
            raise ImageError(f"{path} does not exist", reason="no-such-file") from error
        except (OSError, EOFError) as error:
            raise ImageError(f"{path} is cut or unreadable ({error}): copy it again", reason="truncated") from error
        except Exception as error:  # pydicom raises many kinds on damaged files; each means the same to the user
            raise ImageError(
                f"{path} is damaged DICOM ({type(error).__name__}: {error})", reason="bad-dicom"
            ) from error
        dataset.bytes_after_header = left  # a plain attribute, no element: instance_of tells a cut file by it
    return dataset


def refuse_deflated_bomb(path: Path) -> None:
    """Unpack a deflated data set piece by piece and drop it: pydicom unpacks it whole before it looks at anything.

    Raises:
        ImageError: It unpacks to more than an image may have.
    """
    with path.open("rb") as file:
        read_preamble(file, force=True)
        if _read_file_meta_info(file).get("TransferSyntaxUID", "") != DeflatedExplicitVRLittleEndian:
            return
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        left = max_image_bytes()
        while not unpacker.eof and (block := unpacker.unconsumed_tail or file.read(1 << 16)):
            left -= len(unpacker.decompress(block, 1 << 22))
            if left < 0:
                refuse_large(max_image_bytes() - left, path)


def _cut(dataset: Dataset, path: Path) -> str:
    """What to say of a file with fewer bytes after its header than its pixels need; empty where they are enough."""
    left: int | None = getattr(dataset, "bytes_after_header", None)
    syntax = _meta(dataset).get("TransferSyntaxUID", "")
    if left is None or syntax not in UNCOMPRESSED:
        return ""
    left = max(0, left - (8 if syntax == ImplicitVRLittleEndian else 12))  # tag, type and length of the pixels
    bits = _bits(dataset)
    if str(dataset.get("PhotometricInterpretation", "")) == "YBR_FULL_422":
        bits = bits * 2 // 3
    if left >= bits // 8:
        return ""
    return f"{path} is cut: {bits // 8} bytes of pixels are due, {left} are there: copy it again"


def _bits(dataset: Dataset) -> int:
    """Size of the decoded pixels, in bits."""
    samples = int(dataset.get("SamplesPerPixel", 1) or 1) * int(dataset.get("NumberOfFrames", 1) or 1)
    return int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.get("BitsAllocated", 8) or 8)


def _headless(path: Path) -> Dataset:
    """A data set without the file preamble is accepted when it says what kind of object it is."""
    with suppress(Exception):  # forced reading of arbitrary bytes fails in many ways
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if "SOPClassUID" in dataset and "Rows" in dataset:
            return dataset
    with path.open("rb") as file:
        nothing = not any(file.read(_PREAMBLE))
    if nothing and named_as_dicom(path):  # what a full disk or a loss of power leaves
        raise ImageError(f"{path} is empty or holds nothing but zeros: copy it again", reason="truncated")
    raise ImageError(f"{path} is no DICOM file", reason="not-an-image")


def named_as_dicom(path: Path) -> bool:
    """Whether a file is called as DICOM files are: by their ending, or by a number."""
    if path.name.startswith("."):
        return False  # what file systems and programs put beside others
    numbered = path.suffix[1:].isdigit() or (not path.suffix and any(c.isdigit() for c in path.name))
    return numbered or path.suffix.lower() in _NAMES


def instance_of(dataset: Dataset, path: Path) -> Instance:
    """Read what matters from a header.

    Raises:
        ImageError: Not an image, or values that make no sense.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values are parsed when they are asked for, with pydicom's remarks
        try:
            return _instance(dataset, path)
        except ImageError as error:
            error.series_uid = _text(dataset, "SeriesInstanceUID")
            raise
        except MedsslError:
            raise
        except Exception as error:  # values of a wrong kind fail in many ways
            text = " ".join(str(error).split())[:200]
            damaged = ImageError(f"{path}: plane attributes are damaged ({text})", reason="bad-dicom")
            damaged.series_uid = _text(dataset, "SeriesInstanceUID")
            raise damaged from error


def _text(dataset: Dataset, keyword: str) -> str:
    """Text of an attribute that no image needs, empty where it is damaged."""
    try:
        return str(dataset.get(keyword, "") or "")
    except Exception:  # as above
        return ""


def _instance(dataset: Dataset, path: Path) -> Instance:
    if "Rows" not in dataset or "Columns" not in dataset or dataset.get("SOPClassUID", "") in SEGMENTATIONS:
        kind = _meta(dataset).get("MediaStorageSOPClassUID", None) or dataset.get("SOPClassUID", None)
        name = getattr(kind, "name", "")
        if not name or name.endswith("Image Storage"):
            raise ImageError(f"{path} is cut before the end of its header: copy it again", reason="truncated")
        raise ImageError(f"{path} holds no image but {name}", reason="not-an-image")
    if is_own_result(dataset):
        raise ImageError(f"{path} is a picture that medssl made of a result, no scan", reason="own-result")
    if "TotalPixelMatrixRows" in dataset:
        raise ImageError(f"{path} is a tiled whole-slide image: export the region wanted as TIFF", reason="whole-slide")
    if int(dataset.Rows) < 1 or int(dataset.Columns) < 1:
        raise ImageError(f"{path}: {dataset.Rows} rows and {dataset.Columns} columns", reason="bad-dicom")
    size = _bits(dataset) // 8
    refuse_large(size, path)
    frames = tuple(_frames(dataset, path))
    return Instance(
        path,
        str(dataset.get("SOPInstanceUID", "")),
        str(dataset.get("SOPClassUID", "")),
        str(dataset.get("SeriesInstanceUID", "")),
        str(dataset.get("StudyInstanceUID", "")),
        str(dataset.get("Modality", "")),
        str(dataset.get("SeriesDescription", "")),
        tuple(str(v).upper() for v in dataset.get("ImageType", None) or ()),
        int(dataset.Rows),
        int(dataset.Columns),
        frames,
        person_of(dataset),
        str(dataset.get("PatientSex", "") or ""),
        _years(str(dataset.get("PatientAge", "") or "").strip()),
        _scanner(dataset),
        str(_meta(dataset).get("TransferSyntaxUID", "")),
        _cut(dataset, path),
        str(dataset.get("FrameOfReferenceUID", "") or ""),
        size,
        pet_units(_text(dataset, "Units")),
    )


def person_of(dataset: Dataset) -> Person:
    """Whom a header names, by hashes; empty where it says nothing."""
    return Person.hashed(*(_text(dataset, keyword) for keyword in KEYWORDS))


def _meta(dataset: Dataset) -> Dataset:
    found: Dataset | None = getattr(dataset, "file_meta", None)
    return Dataset() if found is None else found


def _scanner(dataset: Dataset) -> str:
    """Manufacturer and model, what is there of both."""
    parts = (str(dataset.get(name, "") or "").strip() for name in ("Manufacturer", "ManufacturerModelName"))
    return " ".join(part for part in parts if part)


def _years(age: str) -> str:
    """DICOM age (`034Y`, `006M`) in years; empty where it is none."""
    found = dicom_years(age)
    return "" if found is None else f"{round(found, 2):g}"


def _frames(dataset: Dataset, path: Path) -> list[Frame]:
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    if not 1 <= count <= MAX_FRAMES:
        raise ImageError(f"{path}: {count} frames; 1 to {MAX_FRAMES} are read", reason="image-limit")
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    each = dataset.get("PerFrameFunctionalGroupsSequence", None)
    if shared is None and not each:
        return [_frame(dataset, dataset, dataset, dataset, path, None if count == 1 else k) for k in range(count)]
    if each is None or len(each) < count:
        raise ValueError(f"{count} frames, but {len(each or ())} functional groups")
    frames = []
    for number in range(count):
        groups = [_group(each[number], shared, name) for name in _GEOMETRY]
        measures, position, orientation, transform = (g if g is not None else Dataset() for g in groups)
        frames.append(_frame(measures, position, orientation, transform, path, number))
    return frames


def _group(own: Dataset, shared: Dataset | None, name: str) -> Dataset | None:
    found = _first(own, name)
    return found if found is not None or shared is None else _first(shared, name)


def _first(dataset: Dataset, name: str) -> Dataset | None:
    sequence: Any = dataset.get(name, None)
    return sequence[0] if sequence else None


def _frame(
    measures: Dataset, position: Dataset, orientation: Dataset, transform: Dataset, path: Path, number: int | None
) -> Frame:
    place = _numbers(position.get("ImagePositionPatient", None), 3)
    cosines = _numbers(orientation.get("ImageOrientationPatient", None), 6)
    size = pixel_size(measures, placed=place is not None and cosines is not None)
    thickness = measures.get("SliceThickness", None)
    slope, intercept = transform.get("RescaleSlope", None), transform.get("RescaleIntercept", None)
    return Frame(
        path,
        number,
        place,
        cosines,
        size.spacing_mm,
        float(thickness) if thickness and float(thickness) > 0 else 1.0,
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        size.at_detector,
        size.note,
    )


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    if values is None or len(values) != count:
        return None
    numbers = tuple(float(v) for v in values)
    return numbers if all(np.isfinite(numbers)) else None
