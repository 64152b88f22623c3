"""Size that a compressed frame says it has, read before a decoder takes memory for it.

JPEG: ISO/IEC 10918-1, annex B. JPEG-LS: ISO/IEC 14495-1, annex C. JPEG 2000: ISO/IEC 15444-1, annex A.
"""

import struct
from dataclasses import dataclass

_SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}
_TILE_PIXELS = 256
"""Tiles are at least so large on average; a decoder fills missing tiles with zeros."""
_MAX_COMPONENTS = 4


@dataclass(frozen=True)
class FrameSize:
    """Rows, columns and components of a code stream."""

    rows: int
    columns: int
    components: int


def frame_size(stream: bytes) -> FrameSize:
    """Size in the header of a JPEG, JPEG-LS or JPEG 2000 code stream (bare, or in JP2 boxes).

    Raises:
        ValueError: No such header, or one that no decoder should see.
    """
    if stream[:2] == b"\xff\xd8":
        if not stream.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # some encoders pad
            raise ValueError("the compressed frame is cut")
        return _jpeg(stream)
    start = stream[:4096].find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise ValueError("the compressed frame has no header")
    return _jpeg2000(stream[start + 4 :])


def _jpeg2000(header: bytes) -> FrameSize:
    if len(header) < 38:
        raise ValueError("the compressed frame ends in its header")
    right, bottom, left, top, tile_x, tile_y, first_x, first_y = struct.unpack(">8I", header[4:36])
    components = struct.unpack(">H", header[36:38])[0]
    if not (right > left and bottom > top and tile_x and tile_y and first_x <= left and first_y <= top):
        raise ValueError("the compressed frame has an impossible size")
    tiles = -(-(right - first_x) // tile_x) * -(-(bottom - first_y) // tile_y)
    pixels = (bottom - top) * (right - left)
    if tiles > 1 + pixels // _TILE_PIXELS or not 1 <= components <= _MAX_COMPONENTS:
        raise ValueError(f"the compressed frame has {tiles} tiles and {components} components")
    return FrameSize(bottom - top, right - left, components)


def _jpeg(stream: bytes) -> FrameSize:
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise ValueError("the compressed frame has no markers where they are due")
        kind = stream[at + 1]
        if kind == 0xFF or kind in _ALONE:  # fill bytes, markers without a length
            at += 1 if kind == 0xFF else 2
            continue
        if kind in _SOF and at + 10 <= len(stream):
            rows, columns, components = struct.unpack(">2HB", stream[at + 5 : at + 10])
            return FrameSize(rows, columns, components)
        at += 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    raise ValueError("the compressed frame ends in its header")
