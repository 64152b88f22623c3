"""Pixels of DICOM frames as intensities: decoded, slope and intercept applied, MONOCHROME1 radiographs turned round."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.uid import (
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
    decoded: dict[Path, tuple[Dataset, npt.NDArray[np.generic]]] = {}
    planes, notes = [], []
    for frame in frames:
        if frame.path not in decoded:
            decoded = {frame.path: _decode(frame.path)}  # one file at a time stays in memory
        dataset, pixels = decoded[frame.path]
        planes.append(_plane(pixels, dataset, frame))
        if _is_turned(dataset):
            notes.append("MONOCHROME1: intensities were turned round, so that high is bright")
    return _stacked(planes), list(dict.fromkeys(notes))


def _plane(pixels: npt.NDArray[np.generic], dataset: Dataset, frame: Frame) -> npt.NDArray[np.generic]:
    """Intensities of one frame of a file."""
    try:
        several = int(dataset.get("NumberOfFrames", 1) or 1) > 1
        plane = pixels[frame.number or 0] if several else pixels
        with np.errstate(over="raise", invalid="raise"):
            values = _intensities(plane, dataset, frame)
            return _turned(values, dataset, frame) if _is_turned(dataset) else values
    except Exception as error:  # lookup tables and factors of a wrong kind fail in many ways
        raise ImageError(
            f"{frame.path}: stored values cannot be turned into intensities ({' '.join(str(error).split())[:200]})",
            reason="bad-dicom",
        ) from error


def _decode(path: Path) -> tuple[Dataset, npt.NDArray[np.generic]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on odd headers; what matters is refused or noted
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
        try:
            _refuse_other_size(dataset, path)
            jpeg = dataset.file_meta.TransferSyntaxUID in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes)
            pixels = DECODER.decode(path, _shape(dataset)) if jpeg else dataset.pixel_array
            if str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
                return dataset, apply_color_lut(pixels, dataset)
            return dataset, pixels
        except MedsslError:
            raise
        except Exception as error:  # each decoder has errors of its own
            syntax = dataset.file_meta.TransferSyntaxUID
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
    return mirrored.astype(_whole_kind(float(mirrored.min()), float(mirrored.max())) or np.float64)


def _intensities(plane: npt.NDArray[np.generic], dataset: Dataset, frame: Frame) -> npt.NDArray[np.generic]:
    if dataset.get("ModalityLUTSequence", None):
        return np.asarray(apply_modality_lut(plane, dataset))
    if frame.slope == 1 and frame.intercept == 0:
        return plane
    if plane.dtype.kind in "iu" and frame.slope.is_integer() and frame.intercept.is_integer():
        whole = plane.astype(np.int64) * int(frame.slope) + int(frame.intercept)
        return whole.astype(_whole_kind(float(whole.min()), float(whole.max())) or np.float64)
    return (plane.astype(np.float64) * frame.slope + frame.intercept).astype(np.float32)


def _stacked(planes: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
    """One array for all planes; a type is chosen over all of them, so that no later slice is cut off."""
    kinds = {plane.dtype for plane in planes}
    if len(kinds) == 1 and next(iter(kinds)).kind in "iu":
        return np.stack(planes)
    low, high = min(float(p.min()) for p in planes), max(float(p.max()) for p in planes)
    kind = _whole_kind(low, high) if all(p.dtype.kind in "iu" for p in planes) else None
    return np.stack([plane.astype(kind or np.float32) for plane in planes])


def _whole_kind(low: float, high: float) -> type[np.integer[Any]] | None:
    """The smallest of the usual integer types that holds a range."""
    for kind in (np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    return None
