"""Every transfer syntax in use: compressed here, or real files of odd origin."""

import io
import os
import subprocess
import sys
from pathlib import Path

import gdcm
import numpy as np
import PIL.Image
import pytest
from dicom_phantom import slice_dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medssl.imaging.errors import ImageError
from medssl.imaging.readers import dicom_decoder
from medssl.imaging.readers.open import read_volume

_R, _C = np.indices((32, 48))
_SMOOTH = (4 * _R + _C).astype(np.uint16)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_lossless_compression_gives_the_same_pixels(tmp_path: Path, syntax: str):
    dataset = slice_dataset(_SMOOTH, (0, 0, 0))
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(tmp_path / "0.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "0.dcm").array[0].T, _SMOOTH)


def test_deflated_gives_the_same_pixels(tmp_path: Path):
    dataset = slice_dataset(_SMOOTH, (0, 0, 0))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "0.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "0.dcm").array[0].T, _SMOOTH)


def test_jpeg_baseline_is_decoded(tmp_path: Path):
    pixels = (_SMOOTH / 2).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="JPEG", quality=95)
    dataset = slice_dataset(pixels, (0, 0, 0))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "0.dcm", enforce_file_format=True)
    assert np.abs(read_volume(tmp_path / "0.dcm").array[0].T.astype(int) - pixels).max() <= 3


def _packed(path: Path, syntax: int) -> Path:
    """The file compressed by GDCM."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path.with_name("packed.dcm")))
    assert writer.Write()
    return path.with_name("packed.dcm")


@pytest.mark.parametrize(
    ("syntax", "tolerance"),
    [(gdcm.TransferSyntax.JPEGExtendedProcess2_4, 4), (gdcm.TransferSyntax.JPEGLosslessProcess14_1, 0)],
)
def test_jpeg_with_12_and_16_bits_is_decoded(tmp_path: Path, syntax: int, tolerance: int):
    dataset = slice_dataset(_SMOOTH, (0, 0, 0), BitsStored=12, HighBit=11)
    dataset.save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    read = read_volume(_packed(tmp_path / "plain.dcm", syntax)).array[0].T.astype(int)
    assert np.abs(read - _SMOOTH).max() <= tolerance


@pytest.mark.parametrize(
    "syntax", [gdcm.TransferSyntax.JPEGLosslessProcess14_1, gdcm.TransferSyntax.JPEGLSLossless, None]
)
def test_a_palette_gives_colours_in_every_compression(tmp_path: Path, syntax: int | None):
    """In JPEG and JPEG-LS its numbers were read as grey."""
    numbers, table = (_SMOOTH % 4).astype(np.uint8), np.zeros((3, 256), np.uint16)
    table[:, :4] = np.array([[0, 255, 0, 9], [0, 0, 255, 9], [0, 7, 0, 255]]) * 257
    dataset = slice_dataset(numbers, (0, 0, 0), PhotometricInterpretation="PALETTE COLOR")
    for name, colours in zip(("Red", "Green", "Blue"), table, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", colours.tobytes())
    path = tmp_path / "plain.dcm"
    dataset.save_as(path, enforce_file_format=True)
    read = read_volume(path if syntax is None else _packed(path, syntax)).array
    np.testing.assert_array_equal(read.transpose(0, 2, 1) >> 8, table[:, numbers] >> 8)  # GDCM keeps these of a table


_FORGED = (
    b"no json\n",
    b'{"dtype": "<u2"}\n',
    b'{"shape": [32, 48], "dtype": "no type"}\n',
    b'{"shape": [32, 49], "dtype": "<u2"}\n' + bytes(2 * 32 * 49),
    b'{"shape": [32, 48], "dtype": "<u2"}\n' + bytes(100),
)


@pytest.mark.parametrize("answer", _FORGED)
def test_a_decoder_that_gives_nonsense_is_ended_and_the_next_file_is_read(tmp_path: Path, answer: bytes):
    dataset = slice_dataset(_SMOOTH, (0, 0, 0))
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "0.dcm", enforce_file_format=True)
    decoder = dicom_decoder.Decoder()
    forged = f"import sys; sys.stdin.readline(); sys.stdout.buffer.write({answer!r})"
    decoder._child = child = subprocess.Popen(
        [sys.executable, "-c", forged], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    decoder._owner = os.getpid()
    with pytest.raises(ValueError, match=r"nonsense|is due"):
        decoder.decode(tmp_path / "0.dcm", _SMOOTH.shape)
    assert child.returncode is not None
    np.testing.assert_array_equal(decoder.decode(tmp_path / "0.dcm", _SMOOTH.shape), _SMOOTH)
    with pytest.raises(ValueError, match=r"\[32, 48\], \[2, 32, 48\] is due"):
        decoder.decode(tmp_path / "0.dcm", (2, *_SMOOTH.shape))
    decoder.close()


_DECODED = {
    "693_J2KR.dcm": (1, 512, 512),
    "JPEG-LL.dcm": (1, 256, 1024),
    "JLSL_16_15_1_1F.dcm": (1, 128, 128),
    "OBXXXX1A_rle.dcm": (3, 800, 600),
    "SC_rgb_expb.dcm": (3, 100, 100),
    "US1_J2KR.dcm": (3, 640, 480),
}
"""Spatial axes are columns, rows."""


def test_real_files_of_many_syntaxes_are_read(real_data: Path):
    for name, shape in _DECODED.items():
        assert read_volume(real_data / "dicom_odd_pydicom" / name).array.shape == shape


def test_every_odd_file_is_read_or_refused_with_a_reason(real_data: Path):
    refused = {}
    for path in sorted((real_data / "dicom_odd_pydicom").glob("*.dcm")):
        try:
            read_volume(path)
        except ImageError as error:
            refused[path.name] = error.reason
    assert "error" not in refused.values()
    assert refused["liver.dcm"] == "not-an-image"  # a segmentation
    assert set(_DECODED).isdisjoint(refused)
