"""NRRD and MetaImage as SimpleITK writes and reads them: values, channels, places, packings, byte orders."""

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medssl.imaging.errors import ImageError
from medssl.imaging.readers.open import read_volume

_KINDS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64)


def _image(kind: type, dims: int, components: int, rng: np.random.Generator) -> tuple[SimpleITK.Image, np.ndarray]:
    array = (rng.random((*(4, 5, 6)[:dims], components)) * 100).astype(kind)
    array = array[..., 0] if components == 1 else array
    image = SimpleITK.GetImageFromArray(array, isVector=components > 1)
    image.SetSpacing((0.7, 1.3, 2.1)[:dims])
    image.SetOrigin((1.0, -2.0, 3.5)[:dims])
    turned = SimpleITK.VersorTransform((0.1, 0.2, 0.3), 0.4).GetMatrix()
    image.SetDirection(turned if dims == 3 else (np.cos(0.3), -np.sin(0.3), np.sin(0.3), np.cos(0.3)))
    return image, array


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_type_and_number_of_channels_is_read_as_simpleitk_reads_it(
    tmp_path: Path, suffix: str, packed: bool, rng: np.random.Generator
):
    for kind in _KINDS:
        for dims, components in ((2, 1), (2, 3), (3, 1), (3, 2)):
            image, array = _image(kind, dims, components, rng)
            path = tmp_path / f"{np.dtype(kind).name}_{dims}_{components}{suffix}"
            SimpleITK.WriteImage(image, str(path), packed)
            volume = read_volume(path)
            channels = np.moveaxis(array, -1, 0) if components > 1 else array[None]
            np.testing.assert_allclose(volume.array, channels.transpose(0, *range(dims, 0, -1)), rtol=1e-6)
            affine = np.eye(4)
            affine[:dims, :dims] = np.reshape(image.GetDirection(), (dims, dims)) * np.array(image.GetSpacing())
            affine[:dims, 3] = image.GetOrigin()
            np.testing.assert_allclose(volume.geometry.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-6)


_HEAD = (
    "NRRD0004\n# a remark\ntype: short\ndimension: 3\nspace: LPS\nsizes: 2 3 1\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nkey:=value\n"
)


@pytest.mark.parametrize(
    ("more", "data"),
    [
        ("encoding: raw\nendian: big\n", np.arange(6).astype(">i2").tobytes()),
        ("encoding: text\n", b"0 1 2\n3 4 5\n"),
        ("encoding: raw\nendian: little\nbyte skip: -1\n", b"anything" + np.arange(6).astype("<i2").tobytes()),
        ("encoding: raw\nendian: little\nbyte skip: 3\n", b"abc" + np.arange(6).astype("<i2").tobytes()),
    ],
)
def test_byte_orders_text_and_skips(tmp_path: Path, more: str, data: bytes):
    path = tmp_path / "a.nrrd"
    path.write_bytes((_HEAD + more + "\n").encode() + data)
    assert read_volume(path).array[0, :, :, 0].ravel(order="F").tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("encoding: raw\nsizes: 2 3 9\n", "bad-header"),  # a field twice
        ("encoding: raw\ndata file: ../away.raw\n", "detached-data"),
        ("encoding: raw\n" + "# " + "x" * 70_000 + "\n", "truncated"),  # nothing hides behind a long header
        ("encoding: hex\n", "bad-header"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, more: str, reason: str):
    path = tmp_path / "a.nrrd"
    path.write_bytes((_HEAD + more + "\n").encode() + bytes(12))
    with pytest.raises(ImageError) as error:
        read_volume(path)
    assert error.value.reason == reason


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress)])
def test_packed_voxels_are_as_many_as_the_header_says_and_their_checksum_is_right(tmp_path: Path, encoding: str, pack):
    path, head = tmp_path / "a.nrrd", (_HEAD + f"encoding: {encoding}\nendian: little\n\n").encode()
    voxels = np.arange(6, dtype="<i2").tobytes()
    path.write_bytes(head + pack(voxels))
    assert read_volume(path).array[0, :, :, 0].ravel(order="F").tolist() == [0, 1, 2, 3, 4, 5]
    whole = bytearray(pack(voxels))
    whole[-8 if encoding == "gzip" else 12] ^= 1  # a bit of the checksum
    for content, reason in ((pack(voxels + b"\0"), "bad-header"), (whole, "truncated"), (whole[:-4], "truncated")):
        path.write_bytes(head + content)
        with pytest.raises(ImageError) as error:
            read_volume(path)
        assert error.value.reason == reason


def test_a_space_without_a_name_gives_no_left_and_right(tmp_path: Path):
    path = tmp_path / "a.nrrd"
    path.write_bytes((_HEAD.replace("space: LPS", "space dimension: 3") + "encoding: raw\n\n").encode() + bytes(12))
    with pytest.raises(ImageError, match="left and right"):
        read_volume(path)


_META = (
    "NDims = 3\nDimSize = 2 3 1\nElementSpacing = 1 1 1\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
    "ElementType = MET_SHORT\nElementNumberOfChannels = 1\nHeaderSize = 0\n"
)
_NAME = "MUELLER_HANS_19600101"


@pytest.mark.parametrize(
    ("suffix", "field", "value"),
    [
        *(
            (".nrrd", field, value)
            for field, value in (
                ("dimension: 3", f"dimension: {_NAME}"),
                ("sizes: 2 3 1", f"sizes: {_NAME}"),
                ("sizes: 2 3 1", "sizes: 19600101 0 1"),
                ("space directions: (1,0,0)", f"space directions: ({_NAME},0,0)"),
                ("space origin: (0,0,0)", f"space origin: (0,0,{_NAME})"),
                ("space origin: (0,0,0)", "space origin: (0,19600101)"),
                ("type: short", f"type: {_NAME}"),
                ("key:=value", f"{_NAME}: 1\n{_NAME}: 2"),
                ("key:=value", f"data file: {_NAME}.raw"),
                ("key:=value", f"byte skip: {_NAME}"),
                ("key:=value", "spacings: -19600101 1 1"),
            )
        ),
        *(
            (".mha", field, value)
            for field, value in (
                ("NDims = 3", f"NDims = {_NAME}"),
                ("DimSize = 2 3 1", f"DimSize = 2 3 {_NAME}"),
                ("ElementSpacing = 1 1 1", f"ElementSpacing = 1 1 {_NAME}"),
                ("ElementSpacing = 1 1 1", "ElementSpacing = 1 1 -19600101"),
                ("Offset = 0 0 0", f"Offset = 0 0 {_NAME}"),
                ("ElementType = MET_SHORT", f"ElementType = {_NAME}"),
                ("ElementNumberOfChannels = 1", f"ElementNumberOfChannels = {_NAME}"),
                ("HeaderSize = 0", f"HeaderSize = {_NAME}"),
                ("ElementDataFile = LOCAL", f"ElementDataFile = {_NAME}.raw"),
            )
        ),
    ],
)
def test_the_first_line_of_an_error_quotes_nothing_of_the_header(tmp_path: Path, suffix: str, field: str, value: str):
    head = _HEAD + "encoding: raw\n\n" if suffix == ".nrrd" else _META + "ElementDataFile = LOCAL\n"
    assert field in head
    path = tmp_path / f"000001{suffix}"
    path.write_bytes(head.replace(field, value).encode() + bytes(12))
    with pytest.raises(ImageError) as error:
        read_volume(path)
    first, *others = error.value.message.split("\n")
    assert error.value.reason in ("bad-header", "bad-spacing", "detached-data")
    assert not [word for word in ("MUELLER", "mueller", "19600101") if word in first]
    assert "19600101" in "".join(others), "who sits before the image must find what is wrong"
