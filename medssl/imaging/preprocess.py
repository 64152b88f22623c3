"""The one preprocessing of training and clinic: described by data, computed in numpy, invertible.

Orientation, spacing and crop only move voxels between grids, so they are described by two geometries, and a mask goes
back to the native grid through them. Intensities are normalised last, on the prepared grid.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.intensities import Percentiles, Spread, normalise
from medssl.imaging.resample import regrid_image, regrid_label
from medssl.imaging.rims import restored_label
from medssl.imaging.target_grid import (
    AXIS_CODES,
    SHOWN,
    blocks,
    cropped,
    oriented,
    planes,
    right_angled,
    spaced,
    viewers_codes,
)
from medssl.imaging.volume import Volume

_WHOLE_BYTES = 192 << 20
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in grey."""
_Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Intensity:
    """How intensities are normalised, each channel on its own."""

    kind: Literal["zscore", "window", "percentile", "none"] = "zscore"
    """`zscore`: mean 0, standard deviation 1. `window`: `low` to `high` (HU in CT) to -1 to 1, clipped. `percentile`:
    the `low`-th to `high`-th percentile to -1 to 1, clipped. `none`: as they are."""

    low: tuple[float, ...] = ()
    """One number, or one a channel: lower end of the window or lower percentile."""

    high: tuple[float, ...] = ()
    """One number, or one a channel: upper end of the window or upper percentile."""

    nonzero: bool = False
    """Take mean, deviation and percentiles over voxels that are not 0 (skull-stripped MR); zeros are moved as well."""


@dataclass(frozen=True)
class Preprocess:
    """What is done to an image before a network sees it."""

    spatial_dims: int = 3
    """2 or 3."""

    orientation: str = "RAS"
    """3D: axis order and direction, closest axes. 2D: `shown`, rows and columns as viewers show them, which `prepare`
    takes for all; else each image keeps the order that it is read in, another one in DICOM than in pictures."""

    spacing_mm: tuple[float, ...] | None = None
    """Voxel size wanted; None keeps each image's own."""

    longest: int | None = None
    """2D: pixels that the longer side is scaled to, for pictures of several sizes; None keeps each image's own."""

    grey: bool = False
    """2D: pictures in three colours become one channel of grey (ITU-R BT.601), as radiographs that were saved in colour
    are; grey ones stay what they are."""

    crop: Literal["none", "nonzero", "above_mean"] = "none"
    """Crop to the box of the voxels that are not 0, or above the image's mean, plus a margin of 4 voxels."""

    intensity: Intensity = field(default_factory=Intensity)
    """Normalisation of intensities."""

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """Every contradiction, one sentence each."""
        found = []
        if self.spatial_dims not in (2, 3):
            found.append(f"spatial_dims must be 2 or 3, got {self.spatial_dims}")
        axes = sorted(AXIS_CODES[c][0] for c in self.orientation if c in AXIS_CODES)
        shown = self.orientation == SHOWN and self.spatial_dims == 2
        if not shown and (axes != [0, 1, 2] or len(self.orientation) != 3):
            found.append(f"orientation must name each axis once, for instance RAS, got {self.orientation!r}")
        if self.spacing_mm is not None and (
            len(self.spacing_mm) != self.spatial_dims or any(not s > 0 for s in self.spacing_mm)
        ):
            found.append(f"spacing_mm needs {self.spatial_dims} positive numbers, got {self.spacing_mm}")
        if self.longest is not None and (self.spatial_dims != 2 or self.longest < 1 or self.spacing_mm is not None):
            found.append(f"longest is for 2D images without spacing_mm, 1 pixel or more, got {self.longest}")
        if self.grey and self.spatial_dims != 2:
            found.append("grey is for 2D images")
        kind, low, high = self.intensity.kind, self.intensity.low, self.intensity.high
        if kind in ("window", "percentile") and (not low or len(low) != len(high)):
            found.append(f"intensity {kind} needs low and high, one number or one a channel, got {low} and {high}")
        elif any(not a < b for a, b in zip(low, high, strict=False)):
            found.append(f"intensity low must lie below high, got {low} and {high}")
        return found

    def channels_of(self, channels: int) -> int:
        """Channels of a prepared image, given those of the image."""
        return 1 if self.grey and channels == len(_GREY) else channels

    def of_slices(self, axis: int) -> "Preprocess":
        """As 2D images would be prepared to look like slices across `axis` of these 3D ones."""
        kept = None if self.spacing_mm is None else (*self.spacing_mm[:axis], *self.spacing_mm[axis + 1 :])
        codes = self.orientation[:axis] + self.orientation[axis + 1 :]
        orientation = SHOWN if codes == viewers_codes(codes) else self.orientation
        return replace(self, spatial_dims=2, spacing_mm=kept, orientation=orientation)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for cache, encoder, model and bundle."""
        return asdict(self)

    def differences(self, earlier: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Option to its value earlier and here, of all options that differ; as in JSON.

        Args:
            earlier: What a file says of its images; an option that it does not know had its default then.
        """
        usual, here = (json.loads(json.dumps(asdict(own))) for own in (Preprocess(), self))
        intensity = {**usual["intensity"], **earlier.get("intensity", {})}
        there = json.loads(json.dumps({**usual, **earlier, "intensity": intensity}))
        return {name: (there[name], value) for name, value in here.items() if there[name] != value}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Preprocess":
        """Inverse of `to_json`."""
        inner = dict(content["intensity"])
        inner["low"], inner["high"] = tuple(inner["low"]), tuple(inner["high"])
        spacing = content["spacing_mm"]
        return cls(
            **{
                **content,
                "spacing_mm": None if spacing is None else tuple(float(s) for s in spacing),
                "intensity": Intensity(**inner),
            }
        )


@dataclass(frozen=True)
class Restoration:
    """What takes a mask back: the grid of the original image and the grid of the prepared array."""

    native: Geometry
    prepared: Geometry

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {
            name: {"affine": grid.affine.tolist(), "shape": list(grid.shape)}
            for name, grid in (("native", self.native), ("prepared", self.prepared))
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Restoration":
        """Inverse of `to_json`."""
        grids = {k: Geometry(np.array(v["affine"]), tuple(v["shape"])) for k, v in content.items()}
        return cls(grids["native"], grids["prepared"])


@dataclass(frozen=True)
class Prepared:
    """A preprocessed image.

    Args:
        array: (C, *S) float32, normalised.
        record: Takes masks on this grid back to the native grid.
        notes: One sentence for each thing that was done and that the user should know.
    """

    array: npt.NDArray[np.float32]
    record: Restoration
    notes: tuple[str, ...] = ()


class PreparedImage:
    """An image on the grid and in the intensities that networks are trained on, given in planes.

    A large one never exists as a whole: its planes are made when asked for, after a first pass that measures what the
    normalisation needs.

    Args:
        volume: The image.
        preprocess: What is done to it.
        most_bytes: Largest image that is kept whole; None keeps any.

    Raises:
        ImageError: Wrong number of dimensions or channels, or a constant image.
    """

    def __init__(self, volume: Volume, preprocess: Preprocess, most_bytes: int | None = _WHOLE_BYTES) -> None:
        if preprocess.channels_of(volume.channels) < volume.channels:
            volume = replace(volume, array=np.tensordot(_GREY, volume.array, 1)[None])
        target, self.notes = _target(volume, preprocess)
        self.record = Restoration(volume.geometry, target)
        self._volume, self._intensity = volume, preprocess.intensity
        self._whole: _Float | None = None
        self._last: tuple[int, int, _Float] | None = None
        if most_bytes is None or 4 * volume.channels * int(np.prod(target.shape)) <= most_bytes:
            self._whole = regrid_image(volume.array, volume.geometry, target)
        self._ends = self._measured()
        if self._whole is not None:
            self._whole = self._normalised(self._whole)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *S)."""
        return self._volume.channels, *self.record.prepared.shape

    @property
    def held_bytes(self) -> int:
        """What the image takes as it was read, and prepared as far as it is kept."""
        return int(self._volume.array.nbytes) + (0 if self._whole is None else int(self._whole.nbytes))

    def planes(self, axis: int, begin: int, end: int) -> _Float:
        """(C, *S) with the planes `begin` to `end` of a spatial axis alone; those of the last call are kept."""
        front = (slice(None),) * (axis + 1)
        if self._whole is not None:
            return self._whole[(*front, slice(begin, end))]
        parts, missing = [], begin
        if self._last is not None and self._last[0] == axis:
            first, last = self._last[1], self._last[1] + self._last[2].shape[axis + 1]
            if first <= begin < last:
                missing = min(end, last)
                parts.append(self._last[2][(*front, slice(begin - first, missing - first))])
        if missing < end:
            grid = self.record.prepared
            parts.append(self._normalised(planes(self._volume, grid, axis, missing, end)))
        block = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis + 1)
        self._last = (axis, begin, block)
        return block

    def _measured(self) -> list[tuple[float, float]]:
        intensity = self._intensity
        if intensity.kind == "none":
            return []
        channels = self._volume.channels
        if len(intensity.low) > 1 and len(intensity.low) != channels:
            numbers = len(intensity.low)
            raise ImageError(f"{channels} channels, but intensity.low has {numbers} numbers", reason="channels")
        return [self._ends_of(channel) for channel in range(channels)]

    def _ends_of(self, channel: int) -> tuple[float, float]:
        """Mean and deviation, or lower and upper end, of a channel."""
        kind, nonzero = self._intensity.kind, self._intensity.nonzero
        spread = Spread(nonzero)
        values = Percentiles(int(np.prod(self.shape[1:])), nonzero) if kind == "percentile" else None
        for block in self._channel_blocks(channel):
            spread.add(block)
            if values is not None:
                values.add(block)
        if spread.low == spread.high:
            raise ImageError("constant image: every voxel of a channel has one value", reason="constant-image")
        if kind == "zscore":
            if spread.deviation == 0:
                raise ImageError("constant image: all voxels that are not 0 have one value", reason="constant-image")
            return spread.mean, spread.deviation
        low, high = (float(v[channel] if len(v) > 1 else v[0]) for v in (self._intensity.low, self._intensity.high))
        return (low, high) if values is None else values.at(low, high)

    def _channel_blocks(self, channel: int) -> Iterator[_Float]:
        if self._whole is not None:
            yield self._whole[channel]
            return
        one = replace(self._volume, array=self._volume.array[channel : channel + 1])
        for _, _, block in blocks(one, self.record.prepared):
            yield block[0]

    def _normalised(self, array: _Float) -> _Float:
        if self._ends:
            normalise(array, self._intensity.kind, self._ends)
        return array


def prepare_volume(volume: Volume, preprocess: Preprocess) -> Prepared:
    """Bring an image to the grid and the intensities that networks are trained on.

    Raises:
        ImageError: Wrong number of dimensions or channels, or a constant image.
    """
    image = PreparedImage(volume, preprocess, most_bytes=None)
    return Prepared(image.planes(0, 0, image.shape[1]), image.record, image.notes)


def _target(volume: Volume, preprocess: Preprocess) -> tuple[Geometry, tuple[str, ...]]:
    if volume.spatial_dims != preprocess.spatial_dims:
        raise ImageError(f"{volume.spatial_dims}D image where {preprocess.spatial_dims}D is due", reason="spatial-dims")
    notes: tuple[str, ...] = ()
    target = oriented(volume.geometry, preprocess.orientation)
    if target.is_sheared:
        target = right_angled(target)
        notes = ("tilted slices were resampled to right angles through the full affine",)
    if preprocess.crop != "none":
        target = cropped(volume, target, preprocess.crop)
    if preprocess.spacing_mm is not None:
        target = spaced(target, preprocess.spacing_mm)
    elif preprocess.longest is not None:
        extent = np.array(target.shape) * target.spacing_mm
        target = spaced(target, (float(extent.max()) / preprocess.longest,) * 2)
    return target, notes


def prepare_label(label: Volume, record: Restoration) -> npt.NDArray[np.uint8]:
    """Bring a label map (1, *S) to the prepared grid: (*S) uint8.

    Raises:
        ImageError: The label does not lie on the native grid of its image.
    """
    if not label.geometry.is_close(record.native):
        raise ImageError("label and image lie on different grids", reason="label-grid")
    return regrid_label(label.array[0].astype(np.uint8, copy=False), label.geometry, record.prepared)


def restore_label(mask: npt.NDArray[np.uint8], record: Restoration) -> Volume:
    """Bring a mask (*S) on the prepared grid back to the native grid, with the native affine."""
    return Volume(restored_label(mask, record.prepared, record.native)[None], record.native)


def restore_scores(scores: npt.NDArray[np.float32], record: Restoration) -> npt.NDArray[np.float32]:
    """Bring maps (K, *S) on the prepared grid back to the native grid by interpolation; 0 outside."""
    native = np.empty((len(scores), *record.native.shape), np.float32)
    for layer, moved in zip(native, restored_maps(scores, record), strict=True):
        layer[...] = moved
    return native


def restored_maps(scores: npt.NDArray[np.generic], record: Restoration) -> Iterator[npt.NDArray[np.float32]]:
    """The maps of `restore_scores` one by one, for those that are too many to be floats at once."""
    there = restored_label(np.ones(record.prepared.shape, np.uint8), record.prepared, record.native)
    for layer in scores:
        yield regrid_image(layer[None], record.prepared, record.native)[0] * there
