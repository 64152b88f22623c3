"""Images that are there twice, or almost: under two patients they would leak from training to test."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL.Image

from medssl.imaging.errors import ImageError
from medssl.imaging.files import sha256
from medssl.imaging.progress import Progress
from medssl.imaging.readers.open import read_volume
from medssl.imaging.readers.scan import FoundImage
from medssl.imaging.target_grid import AXIS_CODES
from medssl.imaging.volume import Volume

_CELLS = {2: 32, 3: 16}
"""Images are compared as means over this many blocks along each axis."""
_ALIKE = 0.9998
"""Correlation of the block means above which two images count as copies of one another (saved anew, rescaled)."""
_MOST = 20_000
"""Every pair is compared; in larger groups of one grid only identical files are looked for."""

_Signature = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Likeness:
    """Images of different patients that are likely one image.

    Args:
        fields: Their image fields.
        identical: True for the same bytes, False for nearly the same content on the same grid.
    """

    fields: tuple[str, ...]
    identical: bool


def likely_duplicates(images: Sequence[FoundImage], patients: Mapping[str, str]) -> list[Likeness]:
    """Find identical and nearly identical images of different patients.

    Only images that share the sizes of their files, or their grid, with one of another patient are opened.

    Args:
        images: First channel of each case.
        patients: Image field to patient.
    """
    alike = _suspects(images, patients, lambda image: tuple(sorted(file.stat().st_size for file in image.files)))
    on_grid = [group for group in _suspects(images, patients, _grid) if len(group) <= _MOST]
    found: list[Likeness] = []
    if not alike and not on_grid:
        return found
    with Progress("index: looking for duplicates", sum(map(len, [*alike, *on_grid])), "image") as progress:
        for group in alike:
            digests: dict[str, list[FoundImage]] = defaultdict(list)
            for image in group:
                digests[_digest(image)].append(image)
                progress.advance()
            found += _told((g for g in digests.values()), patients, identical=True)
        known = {frozenset(likeness.fields) for likeness in found}
        for group in on_grid:
            near = _told(_near(group, progress), patients, identical=False)
            found += [likeness for likeness in near if not any(set(likeness.fields) <= names for names in known)]
    return found


def voxel_hash(volume: Volume) -> str:
    """SHA-256 of an image's voxels as float32, along RAS+: whatever file, number type or order of axes holds them."""
    array = volume.array
    if volume.spatial_dims == 3:
        codes = [AXIS_CODES[code] for code in volume.geometry.orientation]
        axes = [world for world, _ in codes]
        array = np.transpose(array, (0, *(1 + axes.index(world) for world in range(3))))
        array = np.flip(array, tuple(1 + world for world, sign in codes if sign < 0))
    digest = hashlib.sha256(str(array.shape).encode())
    for channel in array:
        for number in range(channel.shape[-1]):
            plane = np.ascontiguousarray(channel[..., number], dtype=np.float32) + np.float32(0)  # -0 is 0
            digest.update(plane.tobytes())
    return digest.hexdigest()


def _suspects(
    images: Sequence[FoundImage], patients: Mapping[str, str], key: Callable[[FoundImage], Hashable]
) -> list[list[FoundImage]]:
    """Groups of one key that hold images of two patients or more."""
    groups: dict[Hashable, list[FoundImage]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    groups.pop(None, None)
    return [group for group in groups.values() if len({patients[image.field] for image in group}) > 1]


def _grid(image: FoundImage) -> Hashable:
    if image.geometry is None:
        return None
    return image.geometry.shape, tuple(np.round(image.geometry.affine, 1).ravel() + 0.0)


def _told(groups: Iterable[Sequence[FoundImage]], patients: Mapping[str, str], *, identical: bool) -> list[Likeness]:
    return [
        Likeness(tuple(image.field for image in group), identical)
        for group in groups
        if len({patients[image.field] for image in group}) > 1
    ]


def _digest(image: FoundImage) -> str:
    return hashlib.sha256("".join(sorted(sha256(file) for file in image.files)).encode()).hexdigest()


def _near(images: Sequence[FoundImage], progress: Progress) -> list[list[FoundImage]]:
    """Groups of images whose signatures are alike."""
    kept, signatures = [], []
    for image in images:
        signature = _signature(image)
        progress.advance()
        if signature is not None:
            kept.append(image)
            signatures.append(signature)
    if len(kept) < 2:
        return []
    matrix = np.stack(signatures)
    first = list(range(len(kept)))  # the first image each is alike to
    for begin in range(0, len(kept), 512):
        rows, columns = np.nonzero(matrix[begin : begin + 512] @ matrix[begin:].T > _ALIKE)
        for row, column in zip(rows + begin, columns + begin, strict=True):
            if row < column:
                first[column] = min(first[column], first[row])
    groups: dict[int, list[FoundImage]] = defaultdict(list)
    for image, leader in zip(kept, first, strict=True):
        groups[leader].append(image)
    return [group for group in groups.values() if len(group) > 1]


def _signature(image: FoundImage) -> _Signature | None:
    """Block means with mean 0 and length 1; None for a constant or unreadable image."""
    try:
        array = _content(image)
    except (ImageError, OSError):
        return None  # it was looked at before; reading it fails again where the error can be told with its case
    for axis, size in enumerate(array.shape):
        cells = min(size, _CELLS.get(array.ndim, 16))
        starts = np.linspace(0, size, cells, endpoint=False).astype(int)
        array = np.add.reduceat(array, starts, axis=axis, dtype=np.float32)
        shape = [-1 if a == axis else 1 for a in range(array.ndim)]
        array /= np.diff([*starts, size]).reshape(shape)
    flat = np.asarray(array - array.mean(), dtype=np.float32).ravel()
    length = float(np.linalg.norm(flat))
    if length <= 1e-3 * max(1.0, float(np.abs(array).max())):
        return None
    return np.asarray(flat / length, dtype=np.float32)


def _content(image: FoundImage) -> npt.NDArray[np.float32]:
    if image.files[0].suffix.lower() in (".jpg", ".jpeg"):
        with PIL.Image.open(image.files[0]) as picture:
            picture.draft("L", (128, 128))  # decoded small, which is many times faster
            return np.asarray(picture.convert("L"), dtype=np.float32)
    return np.asarray(np.mean(read_volume(image.field).array, axis=0, dtype=np.float32), dtype=np.float32)
