"""Which of several image files is which channel of a bundle: said by whoever sends them, never guessed by their order.

Such a file is kept as NUMBER.cCHANNEL.ENDING: its number among those that came, that of its channel, and no name.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medssl.imaging.errors import ImageError
from medssl.imaging.volume import Volume
from medssl.runtime.server.folders import suffix_of

_MARKED = re.compile(r"\d{6}\.c(\d+)\.")
_NUMBERED = re.compile(r"_(\d{4})$")


def come_one_by_one(names: Sequence[str]) -> bool:
    """Whether files are images of their own each, no DICOM files and no zip file, by their names."""
    return not {".dcm", ".zip"} & {suffix_of(name) for name in names}


def said_channels(said: str, names: Sequence[str], channels: Sequence[str]) -> list[int]:
    """Numbers of the channels that files are.

    Args:
        said: Names of channels in the order of the files, joined by commas; empty where the files' own names say it.
        names: The files' names.
        channels: The bundle's.

    Raises:
        ImageError: It is not said of every file, or of a channel not once.
    """
    wanted = [part.strip() for part in said.split(",")] if said else []
    unique = [name for name in wanted if channels.count(name) == 1]
    numbers = [channels.index(name) for name in unique] if said else [channel_of(name, channels) for name in names]
    return _once(numbers, len(names), channels)


def channel_of(name: str, channels: Sequence[str]) -> int | None:
    """Number of the one channel that a file's name names, by nnU-Net's ending (_0000, _0001) or the channel's name."""
    stem = PurePosixPath(name.replace("\\", "/")).name
    stem = stem[: len(stem) - len(suffix_of(stem))]
    words, parts = _words(stem), [_words(channel) for channel in channels]
    found = {k for k, part in enumerate(parts) if part and part in words}
    longest = {k for k in found if not any(parts[k] in parts[other] and parts[k] != parts[other] for other in found)}
    numbered = _NUMBERED.search(stem)
    named = longest | ({int(numbered[1])} if numbered else set())
    return named.pop() if len(named) == 1 else None


def mark(number: int | None) -> str:
    """What stands before the ending of a file that is a channel."""
    return "" if number is None else f".c{number}"


def in_order(files: Sequence[Path], channels: Sequence[str]) -> list[Path]:
    """Image files in the order of the bundle's channels.

    Raises:
        ImageError: Several files, of which it was not said which is which.
    """
    if len(files) == 1 or len(channels) == 1:
        return list(files)
    marks = [_MARKED.match(path.name) for path in files]
    numbers = _once([int(found[1]) if found else None for found in marks], len(files), channels)
    return [files[numbers.index(k)] for k in range(len(channels))]


def files_of(volume: Volume, channels: Sequence[str]) -> list[dict[str, Any]]:
    """For the report, which file each channel was read from, by its number; empty where one file holds them all."""
    paths = volume.source.paths
    if volume.source.format == "dicom" or len(channels) == 1 or len(paths) != len(channels):
        return []
    return [{"channel": name, "file": int(path.name[:6])} for name, path in zip(channels, paths, strict=True)]


def _once(numbers: Sequence[int | None], files: int, channels: Sequence[str]) -> list[int]:
    known = [number for number in numbers if number is not None]
    if files != len(channels) or sorted(known) != list(range(len(channels))):
        raise ImageError(
            f"{files} image file(s) came, and this model takes {len(channels)} channel(s): {', '.join(channels)}. Send "
            "one file a channel and say which is which: in the files' names, by the channel's name or _0000, _0001 and "
            "so on, or, of files outside a zip file, in the field `channels`: the channels in the order of the files, "
            "joined by commas",
            reason="channel-unnamed",
        )
    return known


def _words(text: str) -> str:
    """Words of a text between spaces, so that a name in it is a whole one."""
    words = re.findall(r"[^\W_]+", text.casefold())
    return f" {' '.join(words)} " if words else ""
