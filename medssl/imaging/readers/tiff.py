"""TIFF pictures: numbers as they are shown, or for label maps as they are stored, the same in every compression."""

import math
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from medssl.imaging.errors import ImageError
from medssl.imaging.readers.guard import max_image_bytes, refuse_large
from medssl.imaging.readers.picture import read_picture

_DEFLATE = (8, 32946)
_COMPRESSIONS = (1, 5, 7, *_DEFLATE, 32773)
"""None, LZW, JPEG, deflate by its two numbers, PackBits."""
_DEFLATE_RATIO = 1032
"""Deflate makes no more of a byte."""
_GREY = (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK)
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
_ORIENTATION = 274
_TURNED = range(2, 9)
"""Orientations of pictures that are stored lying, upside down or mirrored."""


def read_tiff(path: Path, indexed: bool) -> tuple[npt.NDArray[np.generic], tuple[str, ...]]:
    """Read a TIFF as (C, rows, columns), with notes; tifffile unpacks some compressions and Pillow the others.

    Args:
        path: File.
        indexed: Keep stored numbers: of a palette instead of its colours, of a picture whose zero is white, and 0 and 1
            of one that is black and white.

    Raises:
        ImageError: Too large, turned, with pixels in other files, or its compression can only be read with fewer bits
            or channels.
        ValueError: Not a 2D picture, or stored in a way that is not read.
    """
    with tifffile.TiffFile(path) as file:
        _refuse_other_files(file, path)
        series = file.series[0]
        page = series.keyframe
        _refuse_pages(file, series, path)
        bands = 3 if page.photometric == tifffile.PHOTOMETRIC.PALETTE else 1
        refuse_large(bands * math.prod(series.shape) * np.dtype(series.dtype).itemsize, path)
        _refuse_segments(file, series)
        if _has_odd_colours(page):
            return _by_pillow(path, series, indexed), _left_out(file)
        try:
            array = series.asarray()
        except ValueError:  # a compression that tifffile leaves to imagecodecs
            return _by_pillow(path, series, indexed), _left_out(file)
        return _arranged(array, series.axes, page, indexed), _left_out(file)


def _refuse_other_files(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse a TIFF that names files with more of the image: tifffile would read whatever they name.

    Raises:
        ImageError: An OME-TIFF of several files, or a part of an NDTiff.
    """
    several = file.is_ndtiff
    if file.is_ome:
        try:
            root = ElementTree.fromstring(file.ome_metadata or "")  # noqa: S314 (tifffile parses it as well)
        except ElementTree.ParseError:  # tifffile leaves it aside as well
            root = ElementTree.Element("OME")
        places = [element for element in root.iter() if element.tag.endswith("UUID")]
        here = {place.text for place in places if place.get("FileName") == path.name}
        own = {root.get("UUID")} if "UUID" in root.attrib else here
        several |= not {place.text for place in places} <= own
    if several:
        raise _elsewhere(path)


def _refuse_pages(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse what programs show differently, or what is not in this file.

    Raises:
        ImageError: Pages of other files, or an orientation other than upright.
    """
    if any(page is not None and page.parent is not file for page in series.pages):
        raise _elsewhere(path)
    if (turned := series.keyframe.tags.valueof(_ORIENTATION, 1)) in _TURNED:
        raise ImageError(
            f"{path}: its orientation is {turned}, by which some programs turn it and others do not, so that a label "
            "may lie otherwise than the image: save it upright, with orientation 1",
            reason="orientation",
        )


def _elsewhere(path: Path) -> ImageError:
    return ImageError(
        f"{path} takes pixels from other files, which is not read: export the image as one file", reason="detached-data"
    )


def _left_out(file: tifffile.TiffFile) -> tuple[str, ...]:
    """A note where the file has other pictures than the first, which are no smaller copies of it."""
    others = [s for s in file.series[1:] if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
    count = sum(len(series.pages) for series in others)
    return (f"{count} more picture(s) of the file, of another size or kind, were left out",) if count else ()


def _arranged(
    array: npt.NDArray[np.generic], axes: str, page: tifffile.TiffPage, indexed: bool
) -> npt.NDArray[np.generic]:
    """Stored numbers with these axes as (C, rows, columns)."""
    while array.ndim > 2 and array.shape[0] == 1:
        array, axes = array[0], axes[1:]
    if "S" in axes:
        array, axes = np.moveaxis(array, axes.index("S"), -1), axes.replace("S", "") + "S"
        count = array.shape[-1] - _alphas(page)
        array = array[..., : min(count, 3) if page.photometric == tifffile.PHOTOMETRIC.RGB else count]
        array, axes = (array[..., 0], axes[:-1]) if array.shape[-1] == 1 else (array, axes)
    array = _stored(array) if indexed else _shown(array, page)
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and axes[-1] == "S":
        return np.ascontiguousarray(np.moveaxis(array, -1, 0))
    if array.ndim == 3:
        return np.ascontiguousarray(array)
    raise ValueError(f"a 2D picture is expected, got axes {axes} of {array.shape}")


def _has_odd_colours(page: tifffile.TiffPage) -> bool:
    """True for colours that tifffile would leave as they are stored: CMYK, YCbCr, or multiplied by their alpha.

    Raises:
        ValueError: Neither reads them.
    """
    if page.photometric == tifffile.PHOTOMETRIC.YCBCR:
        if page.compression == 1 and page.subsampling != (1, 1):
            raise ValueError("colours are stored at half size without compression, which is not read")
        return True
    multiplied = page.dtype == np.uint8 and tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples
    return page.photometric == tifffile.PHOTOMETRIC.SEPARATED or (
        page.photometric == tifffile.PHOTOMETRIC.RGB and multiplied
    )


def _alphas(page: tifffile.TiffPage) -> int:
    return int(bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA)


def _stored(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


def _shown(array: npt.NDArray[np.generic], page: tifffile.TiffPage) -> npt.NDArray[np.generic]:
    """What stored numbers are shown as: high is bright, and a palette (3, *S) has its colours."""
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        if page.colormap is None:
            raise ValueError("its palette is missing")
        table = (page.colormap >> 8).astype(np.uint8)  # it has 16 bits, of which screens show eight
        return np.asarray(table[:, array.astype(np.intp)])
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind in "iub":
        array = np.invert(array)  # smallest plus largest less the number; floats have neither
    return np.where(array, np.uint8(255), np.uint8(0)) if array.dtype == np.bool_ else array


def _by_pillow(path: Path, series: tifffile.TiffPageSeries, indexed: bool) -> npt.NDArray[np.generic]:
    """The same by Pillow, which turns pictures of up to 8 bits whose zero is white round by itself, others not.

    Raises:
        ImageError: Pillow would leave out bits or channels.
    """
    page = series.keyframe
    pictures = [read_picture(path, indexed, 0 if part is None else part.index) for part in series.pages]
    if len(pictures) > 1 and any(len(picture) > 1 for picture in pictures):
        raise ValueError("a 2D picture is expected, this is a stack of colour pictures")
    array = np.concatenate(pictures)
    fewer = page.photometric in _GREY and page.samplesperpixel - _alphas(page) > len(pictures[0])
    if fewer or array.dtype.itemsize < np.dtype(page.dtype or np.uint8).itemsize:
        raise ImageError(
            f"{path}: {page.samplesperpixel} channels of {page.bitspersample} bits cannot be read whole in this "
            "compression: save it without, or with deflate (ZIP)",
            reason="cannot-decode",
        )
    turned = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind in "iu"
    if turned and (array.dtype == np.uint8) == indexed:
        array = np.invert(array)
    return array // 255 if indexed and page.bitspersample == 1 and page.photometric in _GREY else array


def _refuse_segments(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Unpack long deflated strips and tiles piece by piece and drop them: tifffile unpacks each whole.

    Raises:
        ImageError: One unpacks to more than a picture may have.
        ValueError: A compression that is not expected in medical pictures.
    """
    for page in series.pages:
        if page is None:
            continue
        if page.compression not in _COMPRESSIONS:
            raise ValueError(f"compression {page.compression} is not read")
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if page.compression in _DEFLATE and count * _DEFLATE_RATIO > max_image_bytes():
                file.filehandle.seek(offset)
                _refuse_bomb(file.filehandle.read(count), file.filename)


def _refuse_bomb(packed: bytes, name: str) -> None:
    unpacker, size, rest = zlib.decompressobj(), 0, packed
    while rest and not unpacker.eof:
        size += len(unpacker.decompress(rest, 1 << 22))
        rest = unpacker.unconsumed_tail
        refuse_large(size, name)
