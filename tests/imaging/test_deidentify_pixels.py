"""Pixels stay as they are; what else their bytes hold goes, or the file is left out and told."""

import csv
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, slice_dataset
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from medssl.__main__ import main
from medssl.imaging.deidentify_pixels import unused_bits
from medssl.imaging.readers.open import read_volume

_NOTE = b"MEIERSECRET"


def _run(dataset: FileDataset | None, tmp_path: Path, *more: str) -> tuple[list[Path], dict[str, str]]:
    """Files written, and reasons with their messages."""
    (tmp_path / "in").mkdir(exist_ok=True)
    if dataset is not None:
        dataset.save_as(tmp_path / "in" / "a.dcm", enforce_file_format=True)
    main(["deidentify", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *more])
    with (tmp_path / "out-private" / "problems.csv").open(newline="") as stream:
        told = {row["reason"]: row["message"] for row in csv.DictReader(stream)}
    return sorted((tmp_path / "out").rglob("*.dcm")), told


def _odd(**attributes: object) -> FileDataset:
    """35 pixels of one byte."""
    return slice_dataset(np.arange(35, dtype=np.uint8).reshape(5, 7), (0, 0, 0), **attributes)


@pytest.mark.parametrize("make", [lambda: slice_dataset(ramp(1)[0], (0, 0, 0)), _odd])
def test_bytes_behind_the_pixels_are_cut_off_and_told(tmp_path: Path, make: Callable[[], FileDataset]):
    original = make()
    due = original.Rows * original.Columns * original.BitsAllocated // 8
    pixels = original.PixelData[:due]
    original.PixelData = pixels + _NOTE
    files, told = _run(original, tmp_path)
    assert _NOTE not in files[0].read_bytes()
    assert pydicom.dcmread(files[0]).PixelData == pixels + b"\0" * (due % 2)
    assert told == {
        "bytes-behind-pixels": f"{len(_NOTE) + (due + len(_NOTE)) % 2} bytes behind the last pixel were cut off; "
        "where they are images, NumberOfFrames is wrong"
    }
    np.testing.assert_array_equal(read_volume(files[0]).array, read_volume(tmp_path / "in").array)


@pytest.mark.parametrize(
    ("photometric", "length"), [("YBR_FULL_422", 16), ("YBR_FULL_422", 24), ("YBR_FULL", 24), ("RGB", 24)]
)
def test_colours_keep_all_their_bytes(tmp_path: Path, photometric: str, length: int):
    """Colours of half of the pixels take two thirds, or as much as the others where a program wrote them in full."""
    content = bytes(range(length))
    dataset = _odd(
        Rows=2, Columns=4, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation=photometric,
        PixelData=content,
    )  # fmt: skip
    files, told = _run(dataset, tmp_path)
    assert (pydicom.dcmread(files[0]).PixelData, told) == (content, {})


def test_padding_a_stack_and_compressed_pixels_are_no_excess(tmp_path: Path):
    padded, filled, stack, compressed = _odd(), _odd(), _odd(NumberOfFrames=2), _odd()
    padded.PixelData += bytes(6)
    filled.PixelData += b"0"  # as some programs fill an odd number of bytes up
    stack.PixelData = _odd().PixelData * 2
    compressed.compress(RLELossless, encoding_plugin="pydicom")
    before = compressed.PixelData
    for number, dataset in enumerate((padded, filled, stack, compressed)):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        (tmp_path / "in").mkdir(exist_ok=True)
        dataset.save_as(tmp_path / "in" / f"{number}.dcm", enforce_file_format=True)
    files, told = _run(None, tmp_path)
    assert told == {}
    assert {pydicom.dcmread(file).PixelData for file in files} == {
        bytes(range(35)) + b"\0", bytes(range(35)) + b"0", bytes(range(35)) * 2, before
    }  # fmt: skip


_TWELVE = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}


@pytest.mark.parametrize(
    ("values", "attributes", "found"),
    [
        ([0, 4095, 17], {}, False),
        ([0, 0x8001, 17], {}, True),
        ([0, 0x0FFF, 17], {"PixelRepresentation": 1}, False),  # -1, its sign not repeated
        ([0, 0xFFFF, 0xF800], {"PixelRepresentation": 1}, False),  # -1 and the smallest, their signs repeated
        ([0, 0x1FFF, 17], {"PixelRepresentation": 1}, True),
        ([0, 0xF001, 17], {"PixelRepresentation": 1}, True),
        ([0, 0xF830, 17], {"PixelPaddingValue": 0xF830}, False),  # the field of view is round
        ([0, 0xF830, 0xF831], {"PixelPaddingValue": 0xF830}, True),
        ([0, 0x0010, 0xFFF0], {"HighBit": 15}, False),
        ([0, 0x0011, 0xFFF0], {"HighBit": 15}, True),
        ([0, 0xFFFF, 17], {"BitsStored": 16, "HighBit": 15}, False),
        ([0, 0xFFFF, 17], {"HighBit": 3}, False),  # the header makes no sense
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_bits_that_values_do_not_use_are_looked_at(
    values: list[int], attributes: dict[str, int], found: bool, order: str
):
    dataset = slice_dataset(np.array([values], np.uint16), (0, 0, 0), **{**_TWELVE, **attributes})
    dataset.PixelData = np.array(values, f"{order}u2").tobytes() + _NOTE + b"\0"
    if order == ">":
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert unused_bits(dataset) is found


def test_an_image_with_unused_bits_set_is_left_out_and_kept_as_it_is_where_that_is_accepted(tmp_path: Path):
    """Clearing them would damage images whose BitsStored is wrong."""
    pixels = np.arange(120, dtype=np.uint16).reshape(10, 12)
    pixels[3:6, 2:10] |= 0x8000
    _, told = _run(slice_dataset(pixels, (0, 0, 0), **_TWELVE), tmp_path)
    assert list(told) == ["burned-in-text"]
    assert "12 of 16 are used" in told["burned-in-text"]
    files, told = _run(None, tmp_path, "--accept-burned-in")
    assert told == {}
    assert pydicom.dcmread(files[0]).PixelData == pixels.tobytes()


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_a_file_without_a_header_is_written_as_it_was_read(tmp_path: Path, implicit: bool, little: bool):
    (tmp_path / "in").mkdir()
    order = "<" if little else ">"
    plain = Dataset()
    plain.update(slice_dataset(ramp(1)[0].astype(f"{order}i2"), (0, 0, 0)))
    pydicom.dcmwrite(tmp_path / "in" / "a.dcm", plain, implicit_vr=implicit, little_endian=little)
    assert struct.unpack(f"{order}H", (tmp_path / "in" / "a.dcm").read_bytes()[:2]) == (8,), "no preamble"
    files, told = _run(None, tmp_path)
    assert told == {}
    np.testing.assert_array_equal(read_volume(files[0]).array[0].T, ramp(1)[0])
    if implicit:
        assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian


@pytest.mark.parametrize(
    ("kind", "said", "left_out"),
    [
        ("6.1", None, True),
        ("3.1", None, True),
        ("77.1.1.1", None, True),
        ("77.1.4", None, True),
        ("6.1", "NO", False),
        ("2", None, False),
        ("1.1", None, False),
    ],
)
def test_kinds_of_objects_tell_of_text_where_the_modality_is_missing(
    tmp_path: Path, kind: str, said: str | None, left_out: bool
):
    dataset = slice_dataset(ramp(1)[0], (0, 0, 0), Modality=None)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{kind}"
    if said:
        dataset.BurnedInAnnotation = said
    files, told = _run(dataset, tmp_path)
    assert (list(told), len(files)) == ((["burned-in-text"], 0) if left_out else ([], 1))


def test_a_file_cut_within_compressed_pixels_and_one_of_a_newer_syntax_are_told(tmp_path: Path):
    (tmp_path / "in").mkdir()
    dataset = _odd()
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(tmp_path / "in" / "a.dcm", enforce_file_format=True)
    whole = (tmp_path / "in" / "a.dcm").read_bytes()
    (tmp_path / "in" / "a.dcm").write_bytes(whole[:-30])
    newer = whole.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.99")
    (tmp_path / "in" / "b.dcm").write_bytes(newer)
    files, told = _run(None, tmp_path)
    assert (files, sorted(told)) == ([], ["cannot-decode", "truncated"])
    assert "transfer syntax 1.2.840.10008.1.2.99 cannot be written" in told["cannot-decode"]
