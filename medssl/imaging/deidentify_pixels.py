"""What lies in a file's pixels beside the pixels: bytes behind them, and bits that their values do not use."""

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medssl.imaging.readers.dicom_frames import UNCOMPRESSED

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SIZE = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation")
_WHOLE = (8, 16, 32)
"""Bits of a value that takes whole bytes."""


def transfer_syntax(dataset: FileDataset) -> UID:
    """How a data set is written; as it was read where its file has no header that tells."""
    told = getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID", None)
    if told:
        return UID(told)
    implicit, little = dataset.original_encoding
    if implicit is False:
        return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return ImplicitVRLittleEndian


def bytes_behind(dataset: FileDataset) -> bytes:
    """What an uncompressed image holds behind its last pixel, where one byte may fill an odd number up."""
    found = _native(dataset)
    return found[1] if found else b""


def cut_behind(dataset: FileDataset) -> None:
    """Take away what lies behind the last pixel of an uncompressed image."""
    found = _native(dataset)
    if found and found[1]:
        name, behind = found
        kept = dataset[name].value[: -len(behind)]
        dataset[name].value = kept + b"\0" * (len(kept) % 2)


def _native(dataset: FileDataset) -> tuple[str, bytes] | None:
    """Name of the pixels of an uncompressed image, and what lies behind them; none where its size is not told."""
    name = next((name for name in _PIXELS if name in dataset), "")
    syntax = transfer_syntax(dataset)
    told = all(dataset.get(keyword, None) for keyword in _SIZE)
    if not name or not told or syntax not in (*UNCOMPRESSED, DeflatedExplicitVRLittleEndian):
        return None
    value = dataset[name].value or b""
    due = get_expected_length(dataset)
    if dataset.PhotometricInterpretation == "YBR_FULL_422" and len(value) >= due // 2 * 3:
        due = due // 2 * 3  # as many programs write it: colours of all pixels
    behind = value[due:]
    return name, b"" if due % 2 and len(behind) == 1 else behind  # which is 0 in most files, not in all


def unused_bits(dataset: FileDataset) -> bool:
    """Whether bits that the values of an uncompressed image do not use hold something, as old overlays do.

    A sign that is repeated in the bits above a value, and the value that pads an image, are nothing.
    """
    found = _native(dataset)
    if not found or found[0] != "PixelData" or dataset.BitsAllocated not in _WHOLE:
        return False
    allocated, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored", 0) or dataset.BitsAllocated)
    high = int(dataset.get("HighBit", stored - 1))
    low = high - stored + 1
    if low < 0 or high >= allocated:
        return False  # such a header says nothing of which bits are used
    order = ">" if transfer_syntax(dataset) == ExplicitVRBigEndian else "<"
    count = (len(dataset.PixelData) - len(found[1])) * 8 // allocated
    pixels = np.frombuffer(dataset.PixelData, f"{order}u{allocated // 8}", count=count)
    above, below = (1 << allocated) - (1 << high + 1), (1 << low) - 1
    suspect = pixels[(pixels & pixels.dtype.type(above | below)) != 0]
    if dataset.get("PixelRepresentation", 0):
        suspect = suspect[(suspect >> high != (1 << allocated - high) - 1) | (suspect & suspect.dtype.type(below) != 0)]
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if isinstance(padding := dataset.get(keyword, None), int):
            suspect = suspect[suspect != padding % (1 << allocated)]
    return bool(suspect.size)
