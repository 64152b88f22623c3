"""The prepared cache: one blosc2 array a case, chunked so that a random crop reads only its blocks.

CACHE/cache.json                       what all cases share: preprocessing, labels, classes, hashes, fingerprint
CACHE/cases/CASE/image.b2nd            (C, *S) float16, or int16 where intensities are kept as they are
CACHE/cases/CASE/label.b2nd            (*S) uint8, where the case has a label
CACHE/cases/CASE/foreground.npz        up to 2000 voxel indices a class
CACHE/cases/CASE/case.json             the rest, with checksums of the arrays; written last, so a case without it is
                                       not finished
"""

import errno
import json
import shutil
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

from medssl.data.checksums import Checksums, ChunkChecks, checksums_of, open_array
from medssl.imaging.errors import CacheError
from medssl.imaging.files import sync_file, sync_folder, write_json
from medssl.imaging.labels import Label
from medssl.imaging.preprocess import Preprocess, Restoration

SCHEMA_VERSION = 1
_CHUNK = {2: 256, 3: 64}
_BLOCK = {2: 64, 3: 16}
_OPEN_ARRAYS = 64
OUTSIDE = -1
"""Label of voxels outside the image, which count in no loss."""
_FOREGROUND_POINTS = 2000
LABEL_UIDS = ("SeriesInstanceUID", "FrameOfReferenceUID")
"""What of the image's DICOM identifiers a case keeps: by these a DICOM label is known to be the image's."""


@dataclass(frozen=True)
class CachedCase:
    """One case of a cache; see the manifest for the meaning of the texts."""

    case: str
    patient: str
    split: str
    modality: str
    class_name: str
    site: str
    sex: str
    age: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    has_label: bool
    image_field: str
    """Original images, absolute, channels joined by `;`."""
    label_field: str
    """Original label, absolute, or empty."""
    record: Restoration
    notes: tuple[str, ...] = ()
    scanner: str = ""
    study: str = ""
    calibrated: bool | None = None
    """Whether the image says how large a voxel is in the patient; None in caches from before this was kept."""
    to_scale: bool | None = None
    """Whether its voxel size is a length, in the patient or at the detector, and not 1 mm for want of one; None as
    above."""
    label_sha256: str = ""
    """SHA-256 of the original label's file; empty where it is a folder, and in caches from before this was kept."""
    uids: dict[str, str] | None = None
    """`LABEL_UIDS` of a DICOM image, empty for others; None in caches from before this was kept."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for case.json."""
        return {**self.__dict__, "record": self.record.to_json()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CachedCase":
        """Inverse of `to_json`."""
        values = {name: value for name, value in content.items() if name != "extra"}
        values["record"] = Restoration.from_json(content["record"])
        for name in ("shape", "spacing_mm", "notes"):
            values[name] = tuple(content[name])
        return cls(**values)


class Cache:
    """A prepared cache, open for reading; `Cache.open` is the way to get one.

    Args:
        path: Folder of the cache.
        content: Content of cache.json.
        cases: Its cases, in the order of the manifest.
    """

    def __init__(self, path: Path, content: dict[str, Any], cases: tuple[CachedCase, ...]) -> None:
        self.path, self._content, self.cases = path, content, cases
        self._arrays: OrderedDict[Path, tuple[Any, int]] = OrderedDict()
        self._checks = ChunkChecks()

    @classmethod
    def open(cls, path: Path) -> "Cache":
        """Open a cache.

        Raises:
            CacheError: No cache there, one that is not finished, or one of a newer version.
        """
        path = Path(path)
        try:
            content = json.loads((path / "cache.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CacheError(
                f"{path} holds no finished cache (cache.json is missing): run medssl prepare MANIFEST --out {path}",
                reason="no-cache",
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CacheError(
                f"{path / 'cache.json'} is damaged ({error}): prepare it again", reason="bad-cache"
            ) from error
        if content.get("schema_version") != SCHEMA_VERSION:
            raise CacheError(
                f"{path} was written in cache version {content.get('schema_version')}, this medssl reads "
                f"{SCHEMA_VERSION}: prepare it again or use the medssl that wrote it",
                reason="cache-version",
            )
        try:
            cases = tuple(read_case(path / "cases" / name) for name in content["cases"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise CacheError(
                f"{path}: a case is missing or damaged ({error}): run prepare again", reason="bad-cache"
            ) from error
        return cls(path, content, cases)

    @cached_property
    def preprocess(self) -> Preprocess:
        """The preprocessing of every case."""
        return Preprocess.from_json(self._content["preprocess"])

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.preprocess.spatial_dims

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(self._content["channels"])

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """Foreground classes of segmentation, by value."""
        return tuple(Label.from_json(label) for label in self._content["labels"])

    @property
    def ignore_label(self) -> int | None:
        """Label value that counts neither in losses nor in metrics."""
        value = self._content["ignore_label"]
        return None if value is None else int(value)

    @property
    def label_map(self) -> dict[int, int]:
        """Value in the label files to value wanted; values that are not named stay."""
        return {int(old): int(new) for old, new in self._content.get("label_map", {}).items()}

    @property
    def resample_irregular(self) -> bool:
        """Whether unevenly spaced slices were resampled when the originals were read."""
        return bool(self._content.get("resample_irregular", False))

    @property
    def classes(self) -> tuple[str, ...]:
        """Image-level classes of classification."""
        return tuple(self._content["classes"])

    @property
    def data_sha256(self) -> str:
        """Hash over the originals of all prepared cases and the preprocessing; what label values mean is not in it."""
        return str(self._content["data_sha256"])

    @property
    def read_as(self) -> dict[str, Any]:
        """How the originals were read, as far as `data_sha256` does not tell; for JSON."""
        return {
            "labels": [label.to_json() for label in self.labels],
            "label_map": {str(old): new for old, new in self.label_map.items()},
            "ignore_label": self.ignore_label,
            "resample_irregular": self.resample_irregular,
        }

    @property
    def manifest_sha256(self) -> str:
        """Hash of the manifest."""
        return str(self._content["manifest_sha256"])

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Spacing, size, intensity and class counts of the data set."""
        return dict(self._content["fingerprint"])

    def not_prepared(self, split: str) -> list[str]:
        """Cases of a split that could not be prepared; caches from before this was kept tell of none."""
        return [case for case, own in self._content.get("not_prepared", {}).items() if own == split]

    def select(self, split: str, labelled: bool = False) -> tuple[CachedCase, ...]:
        """Cases of a split, only those with a label map when `labelled`."""
        return tuple(c for c in self.cases if c.split == split and (c.has_label or not labelled))

    def image(self, case: CachedCase) -> npt.NDArray[np.float32]:
        """Whole image (C, *S)."""
        return np.asarray(self._read(case, "image", ...), dtype=np.float32)

    def label(self, case: CachedCase) -> npt.NDArray[np.uint8]:
        """Whole label map (*S)."""
        return np.asarray(self._read(case, "label", ...), dtype=np.uint8)

    def crop_image(self, case: CachedCase, start: tuple[int, ...], size: tuple[int, ...]) -> npt.NDArray[Any]:
        """Crop (C, *size) in the stored dtype; voxels outside the image repeat its edge."""
        return self._crop(case, "image", start, size)

    def crop_label(self, case: CachedCase, start: tuple[int, ...], size: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Crop (*size); voxels outside the label map are `OUTSIDE`."""
        return self._crop(case, "label", start, size)

    def foreground(self, case: CachedCase) -> dict[int, npt.NDArray[np.int32]]:
        """Some voxel indices (n, d) of each class that the case holds; of voxels that nobody judged none."""
        path = self._folder(case) / "foreground.npz"
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as points:
                return {int(value): points[value] for value in points.files if int(value) != self.ignore_label}
        except Exception as error:  # damaged bytes make numpy and zipfile raise errors of any kind
            raise _damaged(path, error) from error

    def _crop(self, case: CachedCase, kind: str, start: tuple[int, ...], size: tuple[int, ...]) -> npt.NDArray[Any]:
        bounds = [(max(s, 0), min(s + n, limit), s, s + n) for s, n, limit in zip(start, size, case.shape, strict=True)]
        if any(low >= high for low, high, _, _ in bounds):
            raise CacheError(f"crop at {start} of size {size} misses case {case.case!r} of {case.shape}", reason="crop")
        inside = tuple(slice(low, high) for low, high, _, _ in bounds)
        crop = np.asarray(self._read(case, kind, (slice(None), *inside) if kind == "image" else inside))
        missing = [(low - first, last - high) for low, high, first, last in bounds]
        if kind == "label":
            return np.pad(crop.astype(np.int64), missing, constant_values=OUTSIDE)
        return np.pad(crop, [(0, 0), *missing], mode="edge") if any(a or b for a, b in missing) else crop

    def _read(self, case: CachedCase, kind: str, where: Any) -> npt.NDArray[Any]:
        """Part of an array.

        Raises:
            CacheError: The file is missing, cut or damaged, or holds what no case of this cache can: voxels that are no
                numbers, labels of no class (reason `bad-cache`).
        """
        path = self._folder(case) / f"{kind}.b2nd"
        try:
            array, size = self._array(path)
            if path.stat().st_size != size:  # reading a memory map beyond the end of its file would kill the process
                raise OSError(f"its size changed from {size} to {path.stat().st_size} bytes")
            self._checks.check(path, array, where)
            part = np.asarray(array[where])
            self._require_sense(part, kind)
        except Exception as error:  # damaged bytes make blosc2 raise errors of any kind, MemoryError among them
            self._arrays.pop(path, None)
            raise _damaged(path, error) from error
        return part

    def _require_sense(self, part: npt.NDArray[Any], kind: str) -> None:
        """What can be told of caches without checksums too.

        Raises:
            ValueError: Voxels that are no numbers, or labels of no class.
        """
        if kind == "label" and part.max() >= np.argmin(self._known_labels):  # below the first gap all are known
            known = self._known_labels[part]
            if not known.all():
                raise ValueError(f"label value {int(part[~known][0])} is of no class")
        elif kind == "image" and not _finite(part):
            raise ValueError("it holds voxels that are no numbers")

    @cached_property
    def _known_labels(self) -> npt.NDArray[np.bool_]:
        """(257,) whether a label map may hold the value; the last one is none."""
        known = np.zeros(257, dtype=np.bool_)
        known[[0, *(label.value for label in self.labels)]] = True
        if self.ignore_label is not None:
            known[self.ignore_label] = True
        return known

    def _array(self, path: Path) -> tuple[Any, int]:
        """Open array and the size of its file; the latest ones are kept, so that memory and handles stay bounded."""
        if path not in self._arrays:
            size = path.stat().st_size
            self._arrays[path] = open_array(path), size
            while len(self._arrays) > _OPEN_ARRAYS:
                self._arrays.popitem(last=False)
        self._arrays.move_to_end(path)
        return self._arrays[path]

    def _folder(self, case: CachedCase) -> Path:
        return self.path / "cases" / case.case

    def __getstate__(self) -> dict[str, Any]:
        """Workers open arrays of their own: memory maps do not travel."""
        return {**self.__dict__, "_arrays": OrderedDict(), "_checks": ChunkChecks()}


def read_case(folder: Path) -> CachedCase:
    """Read case.json of a finished case."""
    return CachedCase.from_json(json.loads((folder / "case.json").read_text(encoding="utf-8")))


def write_case(
    cache: Path,
    case: CachedCase,
    image: npt.NDArray[np.float32],
    label: npt.NDArray[np.uint8] | None,
    extra: dict[str, Any],
) -> None:
    """Write the arrays of a case and, last, its case.json with `extra` entries.

    Args:
        cache: Folder of the cache.
        case: Its description.
        image: (C, *S) normalised.
        label: (*S), or None.
        extra: More entries for case.json (fingerprint, source hash).
    """
    folder = cache / "cases" / case.case
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.json").unlink(missing_ok=True)
    checksums = {"image.b2nd": _write_array(folder / "image.b2nd", stored(image), leading=1)}
    points: dict[str, npt.NDArray[np.int32]] = {}
    if label is not None:
        checksums["label.b2nd"] = _write_array(folder / "label.b2nd", label, leading=0)
        points = _foreground(label)
    np.savez(folder / "foreground.npz", allow_pickle=False, **points)
    for name in (*checksums, "foreground.npz"):  # else case.json could outlive a loss of power and the arrays not
        sync_file(folder / name)
    sync_folder(folder)
    write_json(folder / "case.json", {**case.to_json(), "extra": {**extra, "checksums": checksums}})


def stored(image: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """The image as it is stored: int16, float16 or, where neither is precise enough, float32.

    int16 holds whole numbers, and values beyond float16's precision (resampled HU) whose spread dwarfs a rounding of
    half a unit.
    """
    peak = float(np.abs(image).max())
    if 256 < peak <= 32767 and bool(np.all(image == np.rint(image))):
        return image.astype(np.int16)
    if peak <= 2048:
        return image.astype(np.float16)
    return np.rint(image).astype(np.int16) if peak <= 32767 and float(image.std()) > 100 else image


def _finite(part: npt.NDArray[Any]) -> bool:
    """Whether all values are numbers; of float16 by its bits, as `np.isfinite` takes a third as long as reading it."""
    if part.dtype == np.float16:  # the highest exponent, under either sign
        return int(part.view(np.int16).max()) < 0x7C00 and int(part.view(np.uint16).max()) < 0xFC00
    return bool(np.isfinite(part).all())


def _damaged(path: Path, error: Exception) -> CacheError:
    told = str(error) or type(error).__name__
    return CacheError(f"{path} is missing or damaged ({told}): prepare it again", reason="bad-cache")


def _write_array(path: Path, array: npt.NDArray[Any], leading: int) -> Checksums:
    dims = array.ndim - leading
    chunks = array.shape[:leading] + tuple(min(_CHUNK[dims], n) for n in array.shape[leading:])
    blocks = (1,) * leading + tuple(min(_BLOCK[dims], n) for n in array.shape[leading:])
    path.unlink(missing_ok=True)
    try:
        written = blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(path),
            mode="w",
            chunks=chunks,
            blocks=blocks,
            cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "nthreads": 1},
        )
    except RuntimeError as error:  # all that blosc2 says of a full disk
        if shutil.disk_usage(path.parent).free < array.nbytes:
            raise OSError(errno.ENOSPC, "no space left for the cache", str(path)) from error
        raise
    return checksums_of(written)


def _foreground(label: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.int32]]:
    rng = np.random.default_rng(0)
    points = {}
    for value in np.unique(label):
        if value:
            voxels = np.argwhere(label == value)
            if len(voxels) > _FOREGROUND_POINTS:
                voxels = voxels[np.sort(rng.choice(len(voxels), _FOREGROUND_POINTS, replace=False))]
            points[str(int(value))] = voxels.astype(np.int32)
    return points
