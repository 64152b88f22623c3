"""Sizes in the headers of compressed frames, by hand-made headers and by pydicom's encoders."""

import struct

import numpy as np
import pydicom
import pytest
from dicom_phantom import slice_dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from medssl.imaging.readers.codestream import FrameSize, frame_size


def _jpeg2000(right: int, bottom: int, tile: tuple[int, int], components: int = 1) -> bytes:
    head = struct.pack(">HH8IH", 41, 0, right, bottom, 0, 0, *tile, 0, 0, components)
    return b"\xff\x4f\xff\x51" + head + b"\x07\x01\x01"


def _jpeg(marker: int, rows: int, columns: int, end: bytes = b"\xff\xd9") -> bytes:
    start = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff" + bytes([marker])  # an APP0 segment and a fill byte before
    return start + struct.pack(">HBHHB", 11, 8, rows, columns, 3) + bytes(3) + end


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_streams_of_encoders(syntax: str):
    dataset = slice_dataset(np.zeros((40, 56), np.uint16), (0, 0, 0))
    dataset.compress(syntax, generate_instance_uid=False)
    stream = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    assert frame_size(stream) == FrameSize(40, 56, 1)


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xC3, 0xF7])
@pytest.mark.parametrize("end", [b"\xff\xd9", b"\xff\xd9\0", b"\xff\xd9\xff"])
def test_jpeg_headers_and_padded_ends(marker: int, end: bytes):
    assert frame_size(_jpeg(marker, 300, 200, end)) == FrameSize(300, 200, 3)


def test_jpeg2000_headers_bare_and_boxed():
    assert frame_size(_jpeg2000(200, 300, (64, 64))) == FrameSize(300, 200, 1)
    assert frame_size(b"\0\0\0\x0cjP  \r\n\x87\n" + _jpeg2000(200, 300, (200, 300), 3)) == FrameSize(300, 200, 3)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8 no marker \xff\xd9",
        _jpeg(0xC0, 300, 200, b""),
        _jpeg2000(200, 300, (0, 0)),
        _jpeg2000(200, 300, (1, 1)),
        _jpeg2000(0, 0, (64, 64)),
        _jpeg2000(200, 300, (64, 64), 99),
        _jpeg2000(200, 300, (64, 64))[:30],
    ],
)
def test_headers_that_no_decoder_should_see(stream: bytes):
    with pytest.raises(ValueError, match="compressed frame"):
        frame_size(stream)
