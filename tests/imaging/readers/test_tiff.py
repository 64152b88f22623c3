"""TIFF: one picture, one result, whatever its compression; colours and brightness as they are shown."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.readers.open import read_label, read_volume
from medssl.imaging.readers.raster import PICTURE_AFFINE
from medssl.imaging.volume import Volume

_COMPRESSIONS = {"raw": 1, "tiff_lzw": 5, "tiff_adobe_deflate": 8, "packbits": 32773}
_GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
_TABLE = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) * 7 % 256]).astype(np.uint8)
"""Red, green and blue of each number."""

compressed = pytest.mark.parametrize("compression", _COMPRESSIONS)


def _save(path: Path, image: PIL.Image.Image, compression: str, tags: Mapping[int, int] | None = None) -> Path:
    image.save(path, compression=compression, tiffinfo=dict(tags or {}))
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].compression == _COMPRESSIONS[compression]
    return path


def _label(path: Path) -> np.ndarray:
    like = Volume(np.zeros((1, 6, 8), np.uint8), Geometry(PICTURE_AFFINE, (6, 8)))
    return read_label(path, like).array[0]


def _stored(path: Path) -> np.ndarray:
    """What the file holds, where tifffile can unpack it."""
    with tifffile.TiffFile(path) as file:
        return file.pages[0].asarray()


def _palette(numbers: np.ndarray) -> PIL.Image.Image:
    image = PIL.Image.fromarray(numbers)
    image.putpalette(_TABLE.T.ravel().tolist())
    return image


@compressed
def test_a_palette_gives_colours_and_the_numbers_of_a_label(tmp_path: Path, compression: str):
    path = _save(tmp_path / "a.tif", _palette(_GREY), compression)
    np.testing.assert_array_equal(read_volume(path).array, _TABLE[:, _GREY])
    np.testing.assert_array_equal(_label(path), _GREY)
    _palette(_GREY).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array, read_volume(path).array)


def test_a_palette_of_16_bits_gives_colours(tmp_path: Path):
    table = np.stack([np.arange(2**16), np.arange(2**16)[::-1], np.full(2**16, 300)]).astype(np.uint16)
    numbers = _GREY.astype(np.uint16) * 200
    tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="palette", colormap=table)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, table[:, numbers] >> 8)


def test_a_stack_of_pictures_with_a_palette_is_refused(tmp_path: Path):
    numbers = np.stack([_GREY, _GREY])
    tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="palette", colormap=_TABLE.astype(np.uint16) << 8)
    with pytest.raises(ImageError, match="2D picture"):
        read_volume(tmp_path / "a.tif")


@compressed
def test_where_zero_is_white_intensities_are_turned_round_and_labels_are_not(tmp_path: Path, compression: str):
    path = _save(tmp_path / "a.tif", PIL.Image.fromarray(_GREY), compression, {262: 0})
    np.testing.assert_array_equal(read_volume(path).array[0], _GREY)
    if compression != "tiff_lzw":
        np.testing.assert_array_equal(_stored(path), 255 - _GREY)
    np.testing.assert_array_equal(_label(path), 255 - _GREY)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_16_bits_whose_zero_is_white_are_turned_round(tmp_path: Path, compression: str):
    stored = _GREY.astype(np.uint16) * 250 + 3
    path = _save(tmp_path / "a.tif", PIL.Image.fromarray(stored), compression, {262: 0})
    np.testing.assert_array_equal(read_volume(path).array[0], 65535 - stored)


@compressed
@pytest.mark.parametrize("photometric", [0, 1])
def test_black_and_white_is_0_and_255_and_a_label_0_and_1(tmp_path: Path, compression: str, photometric: int):
    bright = _GREY > 100
    path = _save(tmp_path / "a.tif", PIL.Image.fromarray(bright), compression, {262: photometric})
    read = read_volume(path).array
    np.testing.assert_array_equal(read[0], np.where(bright, 255, 0))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(_label(path), bright if photometric else ~bright)


def test_a_label_of_one_bit_has_the_class_of_its_number(tmp_path: Path):
    """As before for plain and deflated files; in LZW it was 255."""
    like = Volume(np.zeros((1, 6, 8), np.uint8), Geometry(PICTURE_AFFINE, (6, 8)))
    for compression in _COMPRESSIONS:
        path = _save(tmp_path / f"{compression}.tif", PIL.Image.fromarray(_GREY > 100), compression)
        np.testing.assert_array_equal(read_label(path, like, (Label(1, "x"),)).array[0], _GREY > 100)


@compressed
@pytest.mark.parametrize("mode", ["CMYK", "LA", "RGBA", "RGB"])
def test_colours_and_alpha_are_those_of_the_plain_picture(tmp_path: Path, compression: str, mode: str):
    bands = [PIL.Image.fromarray(_GREY // k) for k in range(1, len(PIL.Image.new(mode, (1, 1)).getbands()) + 1)]
    image = PIL.Image.merge(mode, bands)
    read = read_volume(_save(tmp_path / "a.tif", image, compression)).array
    if mode == "LA":
        np.testing.assert_array_equal(read, _GREY[None])
    else:
        shown = image.convert("RGB") if mode == "CMYK" else image
        np.testing.assert_array_equal(read, np.moveaxis(np.array(shown)[..., :3], -1, 0))


def test_colours_of_half_size_are_read_by_one_program_or_refused(tmp_path: Path):
    pixels = np.dstack([_GREY, 255 - _GREY, _GREY])
    tifffile.imwrite(tmp_path / "whole.tif", pixels, photometric="ycbcr", subsampling=(1, 1))
    shown = np.array(PIL.Image.fromarray(pixels, "YCbCr").convert("RGB"))
    np.testing.assert_array_equal(read_volume(tmp_path / "whole.tif").array, np.moveaxis(shown, -1, 0))
    (tmp_path / "half.tif").write_bytes((tmp_path / "whole.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "half.tif", mode="r+") as file:
        file.pages[0].tags["YCbCrSubSampling"].overwrite((2, 2))
    with pytest.raises(ImageError, match="half size"):
        read_volume(tmp_path / "half.tif")


@compressed
def test_a_stack_of_pages_has_a_channel_for_each(tmp_path: Path, compression: str):
    pages = [PIL.Image.fromarray(_GREY), PIL.Image.fromarray(255 - _GREY), PIL.Image.fromarray(_GREY // 2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, [_GREY, 255 - _GREY, _GREY // 2])
    colours = [page.convert("RGB") for page in pages]
    colours[0].save(tmp_path / "b.tif", save_all=True, append_images=colours[1:], compression=compression)
    with pytest.raises(ImageError, match="2D picture"):
        read_volume(tmp_path / "b.tif")


def _as_if_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tifffile answers to LZW without imagecodecs."""

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("LZW requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refuse)


def test_what_pillow_would_cut_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """16 bits a colour, of which it keeps 8, and a second channel, which it drops."""
    colours = np.dstack([_GREY, _GREY, _GREY]).astype(np.uint16) * 250
    tifffile.imwrite(tmp_path / "deep.tif", colours, photometric="rgb")
    two = np.dstack([_GREY, 255 - _GREY])
    tifffile.imwrite(tmp_path / "two.tif", two, photometric="minisblack", planarconfig="contig", extrasamples=[0])
    assert read_volume(tmp_path / "deep.tif").array.dtype == np.uint16
    assert read_volume(tmp_path / "two.tif").channels == 2
    _as_if_compressed(monkeypatch)
    for name in ("deep", "two"):
        with pytest.raises(ImageError, match="cannot be read whole in this compression: save it without") as refused:
            read_volume(tmp_path / f"{name}.tif")
        assert refused.value.reason == "cannot-decode"


def test_colours_multiplied_by_their_alpha_are_divided_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alpha = np.full_like(_GREY, 250)
    alpha[0] = 0  # nothing is to be seen there, whatever the colour
    pixels = np.dstack([np.minimum(_GREY, alpha)] * 3 + [alpha])
    due = np.where(alpha, np.minimum(_GREY, alpha) * 255.0 / 250, 0)
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[1], compression=compression)
        np.testing.assert_allclose(read_volume(tmp_path / "a.tif").array, np.stack([due] * 3), atol=1)
    _as_if_compressed(monkeypatch)
    np.testing.assert_allclose(read_volume(tmp_path / "a.tif").array, np.stack([due] * 3), atol=1)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_dropped_however_the_channels_lie(tmp_path: Path, planar: str):
    bands = np.stack([_GREY, 255 - _GREY, _GREY // 2, np.full_like(_GREY, 255)])
    stored = bands if planar == "separate" else np.moveaxis(bands, 0, -1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar, extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_volume(path).array, bands[:3])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_channels_that_are_no_colours_are_all_kept(tmp_path: Path, planar: str):
    bands = np.stack([_GREY // k for k in range(1, 6)])
    stored = bands if planar == "separate" else np.moveaxis(bands, 0, -1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar, extrasamples=[0] * 4)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, bands)


@pytest.mark.parametrize("smaller", [False, True])
def test_pages_of_another_size_are_left_out_and_told_unless_they_are_smaller_copies(tmp_path: Path, smaller: bool):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(_GREY)
        file.write(_GREY[::2, ::2], subfiletype=int(smaller))
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array[0], _GREY)
    told = [note for note in volume.source.notes if note.startswith("1 more picture(s) of the file")]
    assert len(told) == (0 if smaller else 1)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_that_is_to_be_turned_is_refused(tmp_path: Path, compression: str):
    """Pillow turned it and tifffile did not, so that the compression decided; and so do programs that draw labels."""
    path = _save(tmp_path / "a.tif", PIL.Image.fromarray(_GREY), compression, {274: 3})
    with pytest.raises(ImageError, match=r"its orientation is 3, .*: save it upright") as refused:
        read_volume(path)
    assert refused.value.reason == "orientation"
    np.testing.assert_array_equal(
        read_volume(_save(tmp_path / "b.tif", PIL.Image.fromarray(_GREY), compression, {274: 1})).array[0], _GREY
    )


def _ome(path: Path, other: str, uuids: tuple[str, str]) -> Path:
    """Two channels, of which the second is in a file of this name."""
    planes = [
        f'<TiffData IFD="{k if other == path.name else 0}" FirstC="{k}" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{uuid}</UUID></TiffData>'
        for k, (name, uuid) in enumerate(zip((path.name, other), uuids, strict=True))
    ]
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="8" '
        'SizeY="6" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="c0" SamplesPerPixel="1"/><Channel ID="c1" '
        f'SamplesPerPixel="1"/>{"".join(planes)}</Pixels></Image></OME>'
    )
    path.parent.mkdir(exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        file.write(_GREY, description=xml, metadata=None)
        file.write(255 - _GREY, metadata=None)
    return path


@pytest.mark.parametrize("where", ["../other.tif", "beside.tif", "absolute"])
def test_pixels_of_other_files_are_not_read(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch):
    """An OME-TIFF may name any file: the other was read as the second channel."""
    for name in ("other.tif", "sub/beside.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / name, np.full((6, 8), 99, np.uint8))
    other = str(tmp_path / "other.tif") if where == "absolute" else where
    path = _ome(tmp_path / "sub" / "a.ome.tif", other, ("1", "2"))
    for patched in (False, True):
        if patched:  # whatever else makes tifffile open other files
            monkeypatch.setattr("medssl.imaging.readers.tiff._refuse_other_files", lambda *_: None)
        with pytest.raises(ImageError, match="takes pixels from other files") as refused:
            read_volume(path)
        assert refused.value.reason == "detached-data"


def test_an_ome_tiff_of_one_file_is_read_by_whatever_name(tmp_path: Path):
    path = _ome(tmp_path / "a.ome.tif", "a.ome.tif", ("1", "1"))
    for name in ("a.ome.tif", "renamed.tif"):
        path = path.rename(tmp_path / name)
        np.testing.assert_array_equal(read_volume(path).array, [_GREY, 255 - _GREY])
