"""DICOM files whose compressed pixels are hostile: offset tables, RLE, JPEG, JPEG-LS, JPEG 2000."""

import io
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
from dicom_phantom import slice_dataset
from hostile_dicom import encoded, plain, write
from hostile_families import family
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)


def with_pixels(dataset: Dataset, syntax: str, pixels: bytes) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pixels
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return encoded(dataset)


def _grey(dataset: Dataset) -> Dataset:
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    return dataset


def compressed(syntax: str) -> bytes:
    """The code stream of a valid 16-bit frame."""
    pixels = np.tile(np.arange(64, dtype=np.uint16), (64, 1))
    dataset = slice_dataset(pixels, (0, 0, 0))
    dataset.compress(syntax, generate_instance_uid=False)
    return next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))


def holder() -> Dataset:
    return slice_dataset(np.zeros((64, 64), np.uint16), (0, 0, 0))


def _jpeg(size: int = 64) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.tile(np.arange(size, dtype=np.uint8), (size, 1))).save(buffer, "JPEG")
    return buffer.getvalue()


@family(20, harmless=True)
def rle_broken(folder: Path, number: int) -> Path:
    segments = (0, 1, 2, 15, 16, 2**32 - 1)[number % 6]
    offsets = ([64] * 15, [0] * 15, [2**32 - 1] * 15, list(range(64, 79)), [78] * 15)[number % 5]
    body = (b"\x81\0" * 500, b"\x7f" * 10, b"\x80" * 100, b"", np.random.default_rng(number).bytes(500))[number % 5]
    frame = struct.pack("<16I", segments, *offsets) + body
    return write(folder, with_pixels(plain(), RLELossless, encapsulate([frame[: len(frame) // 2 * 2]])))


@family(20, harmless=True)
def offset_tables(folder: Path, number: int) -> Path:
    frame = compressed(RLELossless)
    frame += bytes(len(frame) % 2)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    table = (
        struct.pack("<2I", 0, 2**32 - 1),
        struct.pack("<2I", 100, 0),
        struct.pack("<2I", 1, 2),
        b"\0" * 2,
        b"",
        struct.pack("<I", 0) * 5000,
        struct.pack("<2I", 0, len(item)),
    )[number % 7]
    start = struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table
    bodies = (
        start + item + item + end,
        start + end,
        start + item * 40 + end,
        start + item + item,
        start + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFF0) + frame,
        start + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 9 + end,
    )
    dataset = holder()
    dataset.NumberOfFrames = (2, 1, 40)[number % 3]
    if number >= 14:
        dataset.ExtendedOffsetTable = struct.pack("<2Q", 2**63, 5)
        dataset.ExtendedOffsetTableLengths = struct.pack("<2Q", 2**62, 1)
    return write(folder, with_pixels(dataset, RLELossless, bodies[number % 6]))


def _sized(stream: bytes, marker: bytes, at: int, values: bytes) -> bytes:
    """A code stream with the bytes behind a marker replaced, `at` bytes after it."""
    place = stream.index(marker) + 2 + at
    return stream[:place] + values + stream[place + len(values) :]


@family(20, reasons=("cannot-decode", "image-limit", "pixel-size", "truncated"))
def jpeg2000(folder: Path, number: int) -> Path:
    syntax = JPEG2000Lossless
    stream = compressed(syntax)
    big = 2**31 - 1
    changes = (
        (4, struct.pack(">2I", big, big)),
        (4, struct.pack(">2I", 65535, 65535)),
        (20, struct.pack(">2I", 1, 1)),
        (4, struct.pack(">2I", 0, 0)),
        (12, struct.pack(">2I", big, big)),
        (36, struct.pack(">H", 16384)),
        (20, struct.pack(">2I", 0, 0)),
        (4, struct.pack(">8I", 60000, 60000, 0, 0, 1, 1, 0, 0)),
        (36, struct.pack(">H", 0)),
        (4, struct.pack(">2I", 20000, 20000)),
    )
    if number < 10:
        stream = _sized(stream, b"\xff\x51", *changes[number])
    elif number < 15:
        stream = stream[: len(stream) * (number - 9) // 12]
    else:
        stream = (b"\xff\x4f\xff\x51", b"\0" * 64, b"jP  \r\n\x87\n" * 9, b"\xff\x4f" * 99, stream[:60] * 50)[
            number - 15
        ]
    return write(
        folder,
        with_pixels(holder(), (syntax, HTJ2KLossless)[number % 2], encapsulate([stream + bytes(len(stream) % 2)])),
    )


@family(20, harmless=True)
def jpeg2000_flips(folder: Path, number: int) -> Path:
    stream = bytearray(compressed(JPEG2000Lossless))
    rng = np.random.default_rng(number)
    for at in rng.integers(60, len(stream), 1 + number):
        stream[at] = rng.integers(256)
    return write(folder, with_pixels(holder(), JPEG2000Lossless, encapsulate([bytes(stream) + bytes(len(stream) % 2)])))


@family(20, reasons=("cannot-decode", "image-limit", "pixel-size", "truncated"))
def jpeg_ls(folder: Path, number: int) -> Path:
    stream = compressed(JPEGLSLossless)
    sizes = ((65535, 65535), (0, 0), (1, 65535), (30000, 30000), (65, 64))
    if number < 5:
        stream = _sized(stream, b"\xff\xf7", 3, struct.pack(">2H", *sizes[number]))
    elif number < 10:
        stream = _sized(stream, b"\xff\xf7", 7, bytes([(0, 255, 4, 17, 2)[number - 5]]))
    elif number < 16:
        stream = stream[: len(stream) * (number - 9) // 12]
    else:
        stream = (b"\xff\xd8\xff\xf7", b"\xff\xd8" * 99, bytes(64), b"\xff\xd8\xff\xda\0\0")[number - 16]
    return write(folder, with_pixels(holder(), JPEGLSLossless, encapsulate([stream + bytes(len(stream) % 2)])))


@family(20, reasons=("cannot-decode", "image-limit", "pixel-size", "truncated"))
def jpeg_in_dicom(folder: Path, number: int) -> Path:
    stream = _jpeg()
    sizes = ((65535, 65535), (0, 0), (1, 65535), (30000, 30000), (65, 64))
    if number < 5:
        stream = _sized(stream, b"\xff\xc0", 3, struct.pack(">2H", *sizes[number]))
    elif number < 8:
        stream = _sized(stream, b"\xff\xc0", 7, bytes([(0, 255, 4)[number - 5]]))
    elif number < 14:
        stream = stream[: len(stream) * (number - 7) // 16]
    else:
        starts = (
            b"\xff\xd8\xff\xc0",
            b"\xff\xd8" * 99,
            bytes(64),
            b"\xff\xd8\xff\xda\0\0",
            b"\xff\xd8\xff\xc4\xff\xff",
            b"GIF89a" * 9,
        )
        stream = starts[number - 14]
    syntax = (JPEGBaseline8Bit, JPEGLosslessSV1, JPEGExtended12Bit)[number % 3]
    return write(folder, with_pixels(_grey(holder()), syntax, encapsulate([stream + bytes(len(stream) % 2)])))


@family(20, harmless=True)
def jpeg_flips(folder: Path, number: int) -> Path:
    stream = bytearray(_jpeg())
    rng = np.random.default_rng(number)
    for at in rng.integers(2, len(stream), 1 + number):
        stream[at] = rng.integers(256)
    syntax = (JPEGBaseline8Bit, JPEGExtended12Bit)[number % 2]
    dataset = _grey(holder())
    if number % 4 == 3:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    return write(folder, with_pixels(dataset, syntax, encapsulate([bytes(stream) + bytes(len(stream) % 2)])))


@family(20, harmless=True)
def pixel_attributes(folder: Path, number: int) -> Path:
    changes = (
        {"BitsAllocated": 1},
        {"BitsAllocated": 3},
        {"BitsAllocated": 0},
        {"BitsStored": 255},
        {"BitsStored": 0},
        {"HighBit": 200},
        {"PixelRepresentation": 7},
        {"PhotometricInterpretation": "MONOCHROME9"},
        {"PhotometricInterpretation": "RGB"},
        {"PhotometricInterpretation": "YBR_FULL_422"},
        {"SamplesPerPixel": 0},
        {"SamplesPerPixel": 3, "PlanarConfiguration": 9},
        {"SamplesPerPixel": 3},
        {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 0},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 65535},
        {"PixelData": b""},
        {"PixelData": b"1"},
        {"BitsAllocated": 8},
        {"BitsAllocated": 32},
    )[number]
    dataset = plain()
    with pydicom.config.disable_value_validation():
        for name, value in changes.items():
            setattr(dataset, name, value)
    return write(folder, encoded(dataset))


@family(16, harmless=True)
def lookup_tables(folder: Path, number: int) -> Path:
    descriptor = ([0, 0, 16], [65535, 65535, 16], [256, 0, 255], [3, 0, 16], [16, 60000, 8], [1, 0, 0])[number % 6]
    data = (b"", b"\1", bytes(6), bytes(70_000))[number % 4]
    dataset = plain()
    with pydicom.config.disable_value_validation():
        if number < 8:
            table = Dataset()
            table.add_new("LUTDescriptor", "US", descriptor[: 3 - number % 2])
            table.add_new("LUTData", "OW", data)
            dataset.ModalityLUTSequence = Sequence([table])
        else:
            dataset.PhotometricInterpretation = "PALETTE COLOR"
            for colour in ("Red", "Green", "Blue"):
                dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", descriptor)
                dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", data)
    return write(folder, encoded(dataset))
