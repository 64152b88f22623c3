"""Pixels of DICOM frames as intensities: decoded, slope and intercept applied, MONOCHROME1 radiographs turned round."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    UID,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from medssl.imaging.errors import ImageError, MedsslError
from medssl.imaging.readers.codestream import frame_size
from medssl.imaging.readers.dicom_decoder import DECODER
from medssl.imaging.readers.dicom_frames import UNCOMPRESSED, Frame, refuse_deflated_bomb
from medssl.imaging.readers.plane_stack import PlaneStack, whole_kind

_CODE_STREAMS = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)
_MEASURED = ("CT", "MR", "NM", "PT")
"""Modalities whose intensities are measurements: MONOCHROME1 says how they are shown, no more."""


def read_frames(frames: Sequence[Frame]) -> tuple[npt.NDArray[np.generic], list[str]]:
    """Intensities of the frames in their order.

    Returns:
        (n, rows, columns) or (n, rows, columns, 3), in the smallest type that keeps the values, and notes.

    Raises:
        ImageError: A file is truncated, or its compression cannot be decoded.
    """
    places: dict[Path, dict[int, list[int]]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(frame.path, {}).setdefault(frame.number or 0, []).append(place)
    result, notes = PlaneStack(len(frames)), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on odd headers; what matters is refused or noted
        for path, wanted in places.items():
            dataset = _read(path)
            for number, stored in enumerate(_stored(dataset, path)):  # each is dropped before the next is decoded
                for place in wanted.get(number, ()):
                    result.put(place, _plane(stored, dataset, frames[place]))
            if _is_turned(dataset):
                notes.append("MONOCHROME1: intensities were turned round, so that high is bright")
    return result.array(), list(dict.fromkeys(notes))


def _plane(plane: npt.NDArray[np.generic], dataset: Dataset, frame: Frame) -> npt.NDArray[np.generic]:
    """Intensities of one frame of a file."""
    try:
        with np.errstate(over="raise", invalid="raise"):
            values = _intensities(plane, dataset, frame)
            return _turned(values, dataset, frame) if _is_turned(dataset) else values
    except Exception as error:  # lookup tables and factors of a wrong kind fail in many ways
        raise ImageError(
            f"{frame.path}: stored values cannot be turned into intensities ({' '.join(str(error).split())[:200]})",
            reason="bad-dicom",
        ) from error


def _read(path: Path) -> Dataset:
    """A file with its pixels as they are stored."""
    try:
        refuse_deflated_bomb(path)
        dataset = pydicom.dcmread(path, force=True)
    except (MedsslError, PermissionError):
        raise
    except Exception as error:  # damaged files fail in many ways
        raise ImageError(f"{path} is damaged DICOM ({error})", reason="bad-dicom") from error
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageError(f"{path} ends before its pixels: copy it again", reason="truncated")
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _stored(dataset: Dataset, path: Path) -> Iterator[npt.NDArray[np.generic]]:
    """Stored values of each frame of a file, in its order."""
    syntax, count = dataset.file_meta.TransferSyntaxUID, int(dataset.get("NumberOfFrames", 1) or 1)
    palette = str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR"
    with _decoding(path, syntax):
        _refuse_other_size(dataset, path)
        if syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
            whole = DECODER.decode(path, _shape(dataset))
        elif palette or count == 1:
            whole = dataset.pixel_array
        else:
            yield from _one_by_one(dataset, count)
            return
        whole = apply_color_lut(whole, dataset) if palette else whole
    yield from whole if count > 1 else (whole,)


def _one_by_one(dataset: Dataset, count: int) -> Iterator[npt.NDArray[np.generic]]:
    """Frames of a file whose decoder may stay in this process: as a whole they would be the image a second time."""
    found = 0
    for stored in islice(iter_pixels(dataset), count):
        found += 1
        yield stored
    if found < count:
        raise ValueError(f"{found} frames are there, {count} are due")


@contextmanager
def _decoding(path: Path, syntax: UID) -> Iterator[None]:
    """One kind of error for all that decoders raise."""
    try:
        yield
    except MedsslError:
        raise
    except Exception as error:  # each decoder has errors of its own
        raise ImageError(
            f"{path}: pixels cannot be decoded ({syntax.name}; {' '.join(str(error).split())[:300]})",
            reason="truncated" if syntax in UNCOMPRESSED else "cannot-decode",
        ) from error


def _refuse_other_size(dataset: Dataset, path: Path) -> None:
    """Decoders take the memory that the compressed frames ask for, so these must be what the DICOM header says.

    Raises:
        ImageError: A frame of another size.
    """
    if dataset.file_meta.TransferSyntaxUID not in _CODE_STREAMS:
        return
    due = (int(dataset.Rows), int(dataset.Columns))
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    for stream in generate_frames(dataset.PixelData, number_of_frames=count):
        size = frame_size(stream)
        if (size.rows, size.columns) != due or size.components != int(dataset.SamplesPerPixel):
            raise ImageError(
                f"{path}: a compressed frame has {size.rows} x {size.columns} pixels of {size.components} values, the "
                f"header says {due[0]} x {due[1]} of {dataset.SamplesPerPixel}: it is damaged",
                reason="pixel-size",
            )


def _shape(dataset: Dataset) -> tuple[int, ...]:
    """Shape of the pixels as the header tells it."""
    frames, samples = int(dataset.get("NumberOfFrames", 1) or 1), int(dataset.SamplesPerPixel)
    plane = (int(dataset.Rows), int(dataset.Columns))
    return (*((frames,) if frames > 1 else ()), *plane, *((samples,) if samples > 1 else ()))


def jpeg_pixels(path: Path) -> npt.NDArray[np.generic]:
    """Stored values of a JPEG or JPEG-LS file, for the process that decodes such files."""
    dataset = pydicom.dcmread(path, force=True)
    if dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and int(dataset.BitsStored) > 8:
        return _extended(path)
    return dataset.pixel_array


def _extended(path: Path) -> npt.NDArray[np.generic]:
    """JPEG extended with 12 bits, which pydicom's plugins leave out, by GDCM itself."""
    import gdcm  # noqa: PLC0415 (slow to import, and few files need it)

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError("GDCM cannot read the file")
    image = reader.GetImage()
    columns, rows = image.GetDimension(0), image.GetDimension(1)
    kind = np.dtype(np.int16 if image.GetPixelFormat().GetPixelRepresentation() else np.uint16)
    pixels = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), dtype=kind)
    frames = pixels.size // (rows * columns)
    return pixels.reshape((frames, rows, columns) if frames > 1 else (rows, columns))


def _is_turned(dataset: Dataset) -> bool:
    """True for a picture whose low values are bright, as films are stored."""
    inverse = str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"
    return inverse and str(dataset.get("Modality", "")).strip() not in _MEASURED


def _turned(values: npt.NDArray[np.generic], dataset: Dataset, frame: Frame) -> npt.NDArray[np.generic]:
    """Mirror intensities within those that the smallest and the largest stored value stand for.

    Stored values come first through the modality's table or factors, which are made for them and not for their mirror.
    """
    bits = int(dataset.BitsStored)
    lowest = -(1 << bits - 1) if int(dataset.PixelRepresentation) else 0
    ends = np.array([lowest, lowest + (1 << bits) - 1], dtype=np.int64)
    total: int | float = sum(_intensities(ends, dataset, frame).tolist())
    if values.dtype.kind not in "iu" or isinstance(total, float):
        return np.asarray(total - values.astype(np.float64), np.float32)
    mirrored: npt.NDArray[np.int64] = np.asarray(total - values.astype(np.int64))
    return mirrored.astype(whole_kind(float(mirrored.min()), float(mirrored.max())) or np.float64)


def _intensities(plane: npt.NDArray[np.generic], dataset: Dataset, frame: Frame) -> npt.NDArray[np.generic]:
    if dataset.get("ModalityLUTSequence", None):
        return np.asarray(apply_modality_lut(plane, dataset))
    if frame.slope == 1 and frame.intercept == 0:
        return plane
    if plane.dtype.kind in "iu" and frame.slope.is_integer() and frame.intercept.is_integer():
        whole = plane.astype(np.int64) * int(frame.slope) + int(frame.intercept)
        return whole.astype(whole_kind(float(whole.min()), float(whole.max())) or np.float64)
    return (plane.astype(np.float64) * frame.slope + frame.intercept).astype(np.float32)
