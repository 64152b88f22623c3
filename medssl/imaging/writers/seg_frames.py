"""Frames of a DICOM-SEG, written behind its header plane by plane: highdicom holds them all, several times over.

highdicom makes the header from a sketch, planes of one row that hold each value of the real ones: which frames there
are depends on nothing else.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medssl.imaging.errors import ImageError
from medssl.imaging.writers.dicom_source import Planes, Stacked

_MOST_PIXELS = 2**32 - 2
"""Bytes of the pixels that the length in front of them can tell."""


@dataclass(frozen=True)
class Content:
    """What a segmentation shows.

    Args:
        layers: One with the number of the segment of each pixel, or one a segment, of what its frames hold.
        said: What its identity follows from.
        sketch: Planes of one row that need the same frames: (F, 1, columns), or (F, 1, columns, L) of floats.
    """

    layers: Sequence[Planes]
    said: Stacked
    sketch: npt.NDArray[Any]


class Probabilities:
    """Planes (rows, columns, L) float32 of layers that hold 255 times each probability."""

    def __init__(self, layers: Sequence[Planes]) -> None:
        self._layers = layers
        self.shape = (*layers[0].shape, len(layers))

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for parts in zip(*self._layers, strict=True):
            yield np.stack(parts, axis=-1, dtype=np.float32) / np.float32(255)


def present(frames: Planes) -> npt.NDArray[np.bool_]:
    """(F, 256) which values each plane holds."""
    return np.stack([np.bincount(plane.ravel(), minlength=256) > 0 for plane in frames])


def sketch(held: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """(F, 1, 256) planes that hold the same values, (F, 256), as the real ones."""
    first = held.argmax(axis=1).astype(np.uint8)
    return np.where(held, np.arange(256, dtype=np.uint8), first[:, None])[:, None]


def renamed(held: npt.NDArray[np.bool_], table: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(F, 256) which values each plane holds after each was replaced as the table (256,) says."""
    result = np.zeros_like(held)
    for value in np.flatnonzero(held.any(axis=0)):
        result[:, table[value]] |= held[:, value]
    return result


@contextmanager
def sized(datasets: Sequence[Dataset], shape: tuple[int, ...]) -> Iterator[None]:
    """Let the source images have the size of a sketch (F, rows, columns[, L]) for a while."""
    sizes = [(dataset.Rows, dataset.Columns) for dataset in datasets]
    try:
        for dataset in datasets:
            dataset.Rows, dataset.Columns = shape[1:3]
        yield
    finally:
        for dataset, (rows, columns) in zip(datasets, sizes, strict=True):
            dataset.Rows, dataset.Columns = rows, columns


def without_pixels(
    segmentation: Dataset, layers: Sequence[Planes], datasets: Sequence[Dataset]
) -> Callable[[BinaryIO], None]:
    """Take a sketch's pixels out of a segmentation; what writes the real ones into its file.

    Args:
        segmentation: Made from a sketch; it is changed.
        layers: The real planes, as of `Content`.
        datasets: Source images.

    Raises:
        ImageError: The pixels are more than a DICOM element can hold.
    """
    segmentation.Rows, segmentation.Columns = layers[0].shape[1:]
    segmentation.PixelData = b""  # the last element: it is written, and its length and value are mended in the file
    places = _places(segmentation, datasets, len(layers))
    bits = int(segmentation.BitsAllocated)
    chosen = segmentation.SegmentationType == "BINARY"
    frame_bits = bits * segmentation.Rows * segmentation.Columns
    size = -(-int(segmentation.NumberOfFrames) * frame_bits // 8)
    if size > _MOST_PIXELS:
        raise ImageError(f"{size / 2**30:.1f} GiB of frames are more than DICOM allows", reason="seg-too-large")

    def fill(stream: BinaryIO) -> None:
        begin = stream.seek(0, 2)
        stream.seek(begin - 4)
        stream.write((size + size % 2).to_bytes(4, "little"))
        stream.truncate(begin + size)  # what is not written to is 0
        for layer, at in zip(layers, places, strict=True):
            for number, plane in enumerate(layer):
                for frame, segment in at[number]:
                    values = plane == segment if chosen else plane
                    _put(stream, begin, frame * frame_bits, values, bits)
        if size % 2:
            stream.seek(begin + size)
            stream.write(b"0")  # as highdicom pads

    return fill


def _places(
    segmentation: Dataset, datasets: Sequence[Dataset], layers: int
) -> list[defaultdict[int, list[tuple[int, int]]]]:
    """Of each layer, the frames (number, segment) that each plane goes to, as the header says."""
    planes_of = {str(dataset.SOPInstanceUID): number for number, dataset in enumerate(datasets)}
    found: list[defaultdict[int, list[tuple[int, int]]]] = [defaultdict(list) for _ in range(layers)]
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for frame, group in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        plane = planes_of[str(source.ReferencedSOPInstanceUID)] if len(datasets) > 1 else 0
        if len(datasets) == 1:
            plane = int(source.get("ReferencedFrameNumber", 1)) - 1
        named = group.get("SegmentIdentificationSequence", None) or shared.get("SegmentIdentificationSequence", None)
        segment = int(named[0].ReferencedSegmentNumber) if named else 0
        found[segment - 1 if layers > 1 else 0][plane].append((frame, segment))
    return found


def _put(stream: BinaryIO, begin: int, bit: int, values: npt.NDArray[Any], bits: int) -> None:
    """Write a frame at its bit behind `begin`; frames of single bits may share a byte with their neighbours."""
    stream.seek(begin + bit // 8)
    if bits == 8:
        stream.write(values.data)
        return
    packed = np.packbits(np.pad(values.ravel(), (bit % 8, 0)), bitorder="little")
    if bit % 8 or values.size % 8:
        there = np.frombuffer(stream.read(len(packed)), np.uint8)
        packed[: len(there)] |= there
        stream.seek(begin + bit // 8)
    stream.write(packed.data)
