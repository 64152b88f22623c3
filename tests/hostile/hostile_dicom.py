"""DICOM files with hostile headers."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
from dicom_phantom import ramp, slice_dataset, write_series
from hostile_families import family, zeros
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

_CUT = ("truncated", "bad-dicom", "not-an-image")


def plain(**attributes: object) -> Dataset:
    """One valid slice."""
    return slice_dataset(ramp(1)[0], (0, 0, 0), **attributes)


def encoded(dataset: Dataset) -> bytes:
    """Bytes of a DICOM file, without any check of its values."""
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write(folder: Path, content: bytes, name: str = "slice.dcm") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def element(tag: tuple[int, int], vr: str, value: bytes, length: int | None = None) -> bytes:
    """An explicit element with a length of our choice."""
    size = len(value) if length is None else length
    head = struct.pack("<HH", *tag) + vr.encode()
    long = vr in ("OB", "OW", "SQ", "UN", "UT", "OF")
    return head + (b"\0\0" + struct.pack("<I", size) if long else struct.pack("<H", size & 0xFFFF)) + value


def before_pixels(extra: bytes) -> bytes:
    """A valid slice with raw bytes put before its pixels."""
    content = encoded(plain())
    at = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    return content[:at] + extra + content[at:]


def elements(content: bytes) -> list[tuple[int, int, int]]:
    """Place, header size and value size of each element behind the file's meta information."""
    found, at = [], 128 + 4 + 12 + struct.unpack("<I", content[140:144])[0]
    while at + 8 <= len(content):
        long = content[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        head, form, start = (12, "<I", at + 8) if long else (8, "<H", at + 6)
        size = struct.unpack_from(form, content, start)[0]
        found.append((at, head, size))
        at += head + size
    return found


def with_element(name: str, vr: str, value: bytes) -> bytes:
    """A valid slice in which one element has another representation and value."""
    content, tag = encoded(plain()), pydicom.datadict.tag_for_keyword(name)
    made = element((tag >> 16, tag & 0xFFFF), vr, value + b" " * (len(value) % 2))
    for at, head, size in elements(content):
        if struct.unpack_from("<HH", content, at) >= (tag >> 16, tag & 0xFFFF):
            same = struct.unpack_from("<HH", content, at) == (tag >> 16, tag & 0xFFFF)
            return content[:at] + made + content[at + (head + size if same else 0) :]
    return content + made


@family(20, reasons=_CUT)
def dicom_truncated(folder: Path, number: int) -> Path:
    content = encoded(plain())
    return write(folder, content[: len(content) * (number + 1) // 21])


@family(20, reasons=(*_CUT, "image-limit", "cannot-decode"), harmless=True)
def dicom_length_bomb(folder: Path, number: int) -> Path:
    length = (0xFFFFFFFE, 0x7FFFFFFF, 0xFFFFFFFF, 0x40000000, 0x10000)[number % 5]
    if number < 10:
        vr = ("OB", "UN", "UT", "SQ")[number % 4]
        return write(folder, before_pixels(element((0x0029, 0x1010), vr, b"12345678", length)))
    content = encoded(plain())
    at = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    head = struct.pack("<HH", 0x7FE0, 0x0010) + (b"OW", b"OB")[number % 2] + b"\0\0" + struct.pack("<I", length)
    return write(folder, content[:at] + head + content[at + 12 : at + 12 + 20 * number])


@family(10, reasons=("image-limit",))
def dicom_deflated_bomb(folder: Path, number: int) -> Path:
    dataset = plain()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = encoded(dataset)
    end = 128 + 4 + 12 + struct.unpack("<I", content[140:144])[0]
    inside = zlib.decompress(content[end:], -zlib.MAX_WBITS)
    at = inside.index(struct.pack("<HH", 0x7FE0, 0x0010))
    mebibytes = (300, 600, 1024, 2048, 4000)[number % 5]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = element((0x0029, 0x1010), "OB", b"", mebibytes << 20) if number < 5 else b""
    head = packer.compress(inside[:at] + bomb) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    tail = packer.compress(inside[at:]) + packer.flush()
    return write(folder, content[:end] + head + zeros(mebibytes) + tail)


_VR = [
    ("Rows", "LO", b"ten "),
    ("Rows", "US", b"\n\0\n\0"),
    ("Columns", "SQ", b""),
    ("Rows", "UN", b"\1\2\3"),
    ("PixelSpacing", "LO", b"a\\b"),
    ("PixelSpacing", "SQ", b"12345678"),
    ("ImagePositionPatient", "UI", b"1.2.3"),
    ("ImageOrientationPatient", "DS", b"1\\0"),
    ("NumberOfFrames", "LO", b"many"),
    ("NumberOfFrames", "IS", b"1\\2"),
    ("BitsAllocated", "LO", b"sixteen"),
    ("SamplesPerPixel", "FD", struct.pack("<d", 1.5)),
    ("RescaleSlope", "LO", b"steep"),
    ("PixelRepresentation", "LO", b"x"),
    ("SeriesInstanceUID", "SQ", b""),
    ("ImageType", "US", b"\3\0"),
    ("SliceThickness", "DS", b"1\\2"),
    ("SOPClassUID", "US", b"\7\0"),
    ("PatientAge", "UI", b"1.2"),
    ("PhotometricInterpretation", "SQ", b"\0" * 16),
]


@family(20, harmless=True)
def dicom_wrong_vr(folder: Path, number: int) -> Path:
    return write(folder, with_element(*_VR[number]))


@family(20, harmless=True)
def dicom_nested(folder: Path, number: int) -> Path:
    depth = (50, 200, 900, 1100, 3000, 20_000)[number % 6]
    tag = ((0x0040, 0x0555), (0x5200, 0x9229), (0x0028, 0x3000), (0x0029, 0x1010))[number % 4]
    if number < 12:  # undefined lengths
        opening = struct.pack("<HH", *tag) + b"SQ\0\0" + struct.pack("<I", 0xFFFFFFFF)
        opening += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return write(folder, before_pixels(opening * depth + closing * depth))
    parts, size = [], 0
    for _ in range(depth):  # told lengths, from the inside out
        item = struct.pack("<HHI", 0xFFFE, 0xE000, size)
        parts.append(struct.pack("<HH", *tag) + b"SQ\0\0" + struct.pack("<I", size + 8) + item)
        size += 20
    return write(folder, before_pixels(b"".join(reversed(parts))))


@family(20, reasons=("image-limit", "truncated", "bad-dicom", "cannot-decode", "no-orientation", "not-an-image"))
def dicom_huge_dimensions(folder: Path, number: int) -> Path:
    changes = (
        {"Rows": 65535, "Columns": 65535},
        {"NumberOfFrames": 2**31 - 1},
        {"NumberOfFrames": 10**12},
        {"Rows": 65535, "Columns": 65535, "BitsAllocated": 64},
        {"SamplesPerPixel": 65535},
        {"Rows": 65535, "Columns": 65535, "NumberOfFrames": 60000},
        {"NumberOfFrames": 5_000_000},
        {"BitsAllocated": 65528, "BitsStored": 65528},
        {"Rows": 0},
        {"Columns": 0},
    )[number % 10]
    dataset = plain()
    with pydicom.config.disable_value_validation():
        for name, value in changes.items():
            setattr(dataset, name, value)
        if number >= 10:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
            dataset.PixelData = pydicom.encaps.encapsulate([bytes(64)])
            dataset["PixelData"].VR = "OB"
    return write(folder, encoded(dataset))


_PREAMBLES = (
    b"\x7fELF\x02\x01\x01",
    b"MZ\x90\x00",
    b"<html><script>alert(1)</script>",
    b"PK\x03\x04",
    b"%PDF-1.7\n",
    b"#!/bin/sh\n",
    b"II*\0\x08\0\0\0",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"\x1f\x8b\x08",
)


@family(20, harmless=True)
def dicom_polyglot(folder: Path, number: int) -> Path:
    content = encoded(plain())
    preamble = _PREAMBLES[number % 10].ljust(128, b"\0")
    tail = b"PK\x05\x06" + bytes(18) if number >= 10 else b""
    return write(folder, preamble + content[128:] + tail, ("slice.dcm", "slice.exe", "slice")[number % 3])


@family(12, reasons=("not-an-image", "bad-dicom", "truncated", "no-orientation"))
def dicom_no_image(folder: Path, number: int) -> Path:
    classes = ("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.9.1.1", "9.9")
    if number < 4:
        dataset = plain(Rows=None, Columns=None, PixelData=None)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = classes[number]
        return write(folder, encoded(dataset))
    noise = np.random.default_rng(number).bytes(4096 * number)
    return write(folder, bytes(128) + b"DICM" + noise if number % 2 else noise)


@family(12, reasons=("not-an-image", "bad-dicom", "no-images", "truncated"))
def dicomdir(folder: Path, number: int) -> Path:
    dataset = Dataset()
    dataset.FileSetID = "SET"
    records = []
    for index in range(4):
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = (400, 0xFFFFFFFF, 0)[number % 3]  # to itself, beyond, nowhere
        record.OffsetOfReferencedLowerLevelDirectoryEntity = 400
        record.DirectoryRecordType = "IMAGE"
        away = (["..", "..", "etc", "passwd"], ["/etc/passwd"], ["DICOMDIR"], ["C:\\secret"])[(number + index) % 4]
        with pydicom.config.disable_value_validation():
            record.ReferencedFileID = away
        records.append(record)
    dataset.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 400
    dataset.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 400
    dataset.DirectoryRecordSequence = Sequence(records)
    dataset.file_meta = plain().file_meta
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    dataset.preamble = bytes(128)
    path = write(folder, encoded(dataset), "DICOMDIR")
    return folder if number % 2 else path


_BAD = (
    {"ImagePositionPatient": ["nan", "0", "0"]},
    {"ImagePositionPatient": ["1e308", "1e308", "1e308"]},
    {"ImageOrientationPatient": ["0"] * 6},
    {"ImageOrientationPatient": ["inf", "0", "0", "0", "1", "0"]},
    {"PixelSpacing": ["0", "0"]},
    {"PixelSpacing": ["-1", "1"]},
    {"PixelSpacing": ["nan", "1"]},
    {"PixelSpacing": ["1e300", "1e300"]},
    {"PixelSpacing": ["1"]},
    {"SliceThickness": "inf"},
    {"SliceThickness": "nan"},
    {"RescaleSlope": "nan", "RescaleIntercept": "0"},
    {"RescaleSlope": "1e300", "RescaleIntercept": "1e300"},
    {"RescaleSlope": "inf", "RescaleIntercept": "0"},
    {"RescaleIntercept": "1e18", "RescaleSlope": "1"},
    {"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]},
    {"ImagePositionPatient": []},
    {"PixelSpacing": ["1e-300", "1e-300"]},
    {"RescaleSlope": "9223372036854775808", "RescaleIntercept": "0"},
    {"RescaleSlope": "0", "RescaleIntercept": "0"},
)


@family(20, harmless=True)
def dicom_numbers(folder: Path, number: int) -> Path:
    dataset = plain()
    with pydicom.config.disable_value_validation():
        for name, value in _BAD[number].items():
            tag = pydicom.datadict.tag_for_keyword(name)
            dataset[tag] = DataElement(tag, "LO", value)  # text; the reader looks the real VR up by length alone
    content = encoded(dataset)
    for name in _BAD[number]:
        tag = pydicom.datadict.tag_for_keyword(name)
        mark = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        content = content.replace(mark + b"LO", mark + b"DS")
    return write(folder, content)


@family(20, harmless=True)
def dicom_groups_of_frames(folder: Path, number: int) -> Path:
    dataset = plain()
    count = (2, 100, 10_000, 100_000)[number % 4]
    with pydicom.config.disable_value_validation():
        dataset.NumberOfFrames = count
        shared, own = Dataset(), Dataset()
        plane = Dataset()
        plane.PixelSpacing = ["1", "1"]
        shared.PixelMeasuresSequence = Sequence([plane])
        own.PlanePositionSequence = Sequence([Dataset()])
        kind = number // 4
        dataset.SharedFunctionalGroupsSequence = Sequence([shared] if kind != 1 else [])
        groups = [own] * (0 if kind == 0 else min(count, 300) if kind < 4 else 1)
        dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return write(folder, encoded(dataset))


@family(20, harmless=True)
def dicom_text(folder: Path, number: int) -> Path:
    names = ("PatientID", "SeriesInstanceUID", "SeriesDescription", "StudyInstanceUID", "SpecificCharacterSet")
    texts = (
        b"../../etc/passwd",
        b"\x1b$B" * 200,
        b"A" * 60_000,
        b"\\" * 5000,
        b"\0\xff\xfe\n\r\t;#",
        b"ISO 2022 IR 87",
        b"NO SUCH",
    )
    return write(folder, with_element(names[number % 5], ("LO", "UN", "UT")[number % 3], texts[number % 7]))


@family(20, harmless=True)
def dicom_flips(folder: Path, number: int) -> Path:
    content = bytearray(encoded(plain()))
    rng = np.random.default_rng(number)
    for at in rng.integers(132, len(content) - 240, 1 + number * 2):
        content[at] = rng.integers(256)
    return write(folder, bytes(content))


@family(10, entry="below", harmless=True)
def dicom_folder(folder: Path, number: int) -> Path:
    write_series(folder / "good", ramp(4))
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "away").symlink_to("/etc/passwd")
    (folder / "device").symlink_to("/dev/zero")
    (folder / "nowhere").symlink_to(folder / "missing")
    os.mkfifo(folder / "pipe")
    for index in range(100 * number):
        (folder / f"{index:06d}").write_bytes(b"x" * (index % 200))
    deep = folder
    for _ in range(20 * number):
        deep = deep / "d"
    deep.mkdir(parents=True, exist_ok=True)
    return folder


@family(20, entry="label", harmless=True)
def dicom_structure_set(folder: Path, number: int) -> Path:
    dataset = plain(Rows=None, Columns=None, PixelData=None)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    points = (
        [],
        ["1"] * 4,
        ["nan"] * 9,
        ["1e300"] * 9,
        ["x"] * 9,
        ["1", "1", "0", "3", "1", "0", "3", "3", "0"],
        ["0", "0", "0"] * 30_000,
        ["-1e9", "0", "0", "1e9", "0", "0", "0", "1e9", "0"],
        ["inf", "0", "0"] * 3,
        ["5"] * 3,
    )[number % 10]
    contour, roi, name = Dataset(), Dataset(), Dataset()
    with pydicom.config.disable_value_validation():
        contour.ContourGeometricType = ("CLOSED_PLANAR", "CLOSED_" * 3)[number % 2]
        contour[0x30060050] = DataElement(0x30060050, "LT", "\\".join(points))
        roi.ContourSequence = Sequence([contour] * (1 if number < 10 else 50))
        roi.ReferencedROINumber = ("1", "-5", "99999", "300")[number % 4]
        name.ROINumber, name.ROIName = "1", "liver"
        dataset.ROIContourSequence = Sequence([roi])
        dataset.StructureSetROISequence = Sequence([name] if number % 3 else [Dataset()])
    content = encoded(dataset).replace(b"\x06\x30\x50\x00LT", b"\x06\x30\x50\x00DS")
    return write(folder, content)
