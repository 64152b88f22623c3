"""What an input may ask for, checked before memory is taken, and one kind of error for whatever a parser raises."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medssl.imaging.errors import ConfigError, ImageError, MedsslError, in_words
from medssl.imaging.files import DISK_FULL

LIMIT_VARIABLE = "MEDSSL_MAX_IMAGE_GIB"
"""Environment variable with the decoded size of the largest image that is read, in GiB."""
_DEFAULT_GIB = 8.0
MAX_FRAMES = 100_000
"""Planes of one DICOM file."""
MAX_TABLE_BYTES = 64 << 20
"""Largest table or list (CSV, JSON) that is looked at."""


def max_image_bytes() -> int:
    """Decoded size of the largest image that is read, in bytes: 8 GiB, or what MEDSSL_MAX_IMAGE_GIB says.

    Raises:
        ConfigError: The variable holds no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        gibibytes = float(text) if text else _DEFAULT_GIB
        if not 0 < gibibytes < 1e6:
            raise ValueError(text)
    except ValueError as error:
        raise ConfigError([f"{LIMIT_VARIABLE} must be a positive number of GiB, got {text!r}"]) from error
    return int(gibibytes * 2**30)


def refuse_large(size: int, path: Path | str) -> None:
    """Refuse an image that would not fit.

    Args:
        size: Bytes of its decoded voxels, as its header tells.
        path: What is read.

    Raises:
        ImageError: More than `max_image_bytes`.
    """
    limit = max_image_bytes()
    if size > limit:
        raise ImageError(
            f"{path} would take {size / 2**30:.3g} GiB once decoded, {limit / 2**30:.3g} GiB are allowed: it is "
            f"damaged, or made to do harm; if it is right, set {LIMIT_VARIABLE}",
            reason="image-limit",
        )


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Refuse to write more where fewer bytes than these are free.

    Raises:
        ImageError: It is so.
    """
    if shutil.disk_usage(folder).free < needed:
        raise ImageError("the image does not fit onto the disk: tell its operator", reason="disk-full")


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn what a parser raises on a damaged or hostile file into an ImageError with a reason code.

    Raises:
        ImageError: Anything went wrong but a permission, which has a message of its own.
    """
    try:
        yield
    except (MedsslError, PermissionError):
        raise
    except MemoryError as error:
        raise ImageError(f"{path} needs more memory than there is", reason="image-limit") from error
    except Exception as error:  # parsers raise many kinds on damaged files; each means the same to the user
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise ImageError(
            f"{path} cannot be read ({in_words(error)}): it is damaged, or made to do harm; get it again from "
            "its source",
            reason="damaged",
        ) from error
