"""PNG and JPEG: as they are shown, whole, and the numbers of labels as they are stored."""

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.open import read_label, read_volume
from medssl.imaging.readers.raster import PICTURE_AFFINE
from medssl.imaging.volume import Volume

_GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def _png(path: Path, rows: list[bytes], size: tuple[int, int], depth: int, colours: int) -> Path:
    """A PNG of these packed rows; Pillow writes only some kinds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", *size, depth, colours, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_viewers_show_them(tmp_path: Path, suffix: str, orientation: int):
    exif, path = PIL.Image.Exif(), tmp_path / f"a{suffix}"
    exif[274] = orientation
    PIL.Image.fromarray(np.repeat(np.repeat(_GREY, 8, 0), 8, 1)).save(path, exif=exif, quality=95)
    with PIL.Image.open(path) as file:
        shown = np.array(PIL.ImageOps.exif_transpose(file))
    assert shown.shape == ((48, 64) if orientation < 5 else (64, 48))
    np.testing.assert_array_equal(read_volume(path).array[0], shown)
    np.testing.assert_array_equal(read_label(path, read_volume(path)).array[0], shown)


@pytest.mark.parametrize(("colours", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_a_png_of_which_half_the_bits_would_be_lost_is_refused(tmp_path: Path, colours: int, channels: int):
    rows = [bytes(range(16 * channels))] * 6
    with pytest.raises(ImageError, match="of 16 bits cannot be read whole in a PNG: save it as TIFF") as error:
        read_volume(_png(tmp_path / "a.png", rows, (8, 6), 16, colours))
    assert error.value.reason == "cannot-decode"


def test_a_grey_png_of_16_bits_is_read_whole(tmp_path: Path):
    stored = _GREY.astype(np.uint16) * 250 + 3
    PIL.Image.fromarray(stored).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array[0], stored)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_label_of_few_bits_has_its_own_numbers(tmp_path: Path, depth: int):
    """Classes 0 to 3 in two bits were read as 0, 85, 170 and 255, which is how they are shown."""
    most = 2**depth - 1
    numbers = (np.arange(48).reshape(6, 8) % (most + 1)).astype(np.uint8)
    bits = np.unpackbits(numbers[..., None], axis=-1)[..., -depth:]
    rows = [np.packbits(row).tobytes() for row in bits.reshape(6, -1)]
    path = _png(tmp_path / "a.png", rows, (8, 6), depth, 0)
    like = Volume(np.zeros((1, 6, 8), np.uint8), Geometry(PICTURE_AFFINE, (6, 8)))
    np.testing.assert_array_equal(read_label(path, like).array[0], numbers)
    np.testing.assert_array_equal(read_volume(path).array[0], numbers * (255 // most))
