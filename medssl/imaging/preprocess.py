"""The one preprocessing of training and clinic: described by data, computed in numpy, invertible.

Orientation, spacing and crop only move voxels between grids, so they are described by two geometries, and a mask goes
back to the native grid through them. Intensities are normalised last, on the prepared grid.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.resample import regrid_image, regrid_label
from medssl.imaging.volume import Volume

_CODES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}


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
    """3D: axis order and direction, closest axes; 2D images keep theirs."""

    spacing_mm: tuple[float, ...] | None = None
    """Voxel size wanted; None keeps each image's own."""

    longest: int | None = None
    """2D: pixels that the longer side is scaled to, for pictures of several sizes; None keeps each image's own."""

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
        axes = sorted(_CODES[c][0] for c in self.orientation if c in _CODES)
        if axes != [0, 1, 2] or len(self.orientation) != 3:
            found.append(f"orientation must name each axis once, for instance RAS, got {self.orientation!r}")
        if self.spacing_mm is not None and (
            len(self.spacing_mm) != self.spatial_dims or any(not s > 0 for s in self.spacing_mm)
        ):
            found.append(f"spacing_mm needs {self.spatial_dims} positive numbers, got {self.spacing_mm}")
        if self.longest is not None and (self.spatial_dims != 2 or self.longest < 1 or self.spacing_mm is not None):
            found.append(f"longest is for 2D images without spacing_mm, 1 pixel or more, got {self.longest}")
        kind, low, high = self.intensity.kind, self.intensity.low, self.intensity.high
        if kind in ("window", "percentile") and (not low or len(low) != len(high)):
            found.append(f"intensity {kind} needs low and high, one number or one a channel, got {low} and {high}")
        elif any(not a < b for a, b in zip(low, high, strict=False)):
            found.append(f"intensity low must lie below high, got {low} and {high}")
        return found

    def of_slices(self, axis: int) -> "Preprocess":
        """As 2D images would be prepared to look like slices across `axis` of these 3D ones."""
        kept = None if self.spacing_mm is None else (*self.spacing_mm[:axis], *self.spacing_mm[axis + 1 :])
        return replace(self, spatial_dims=2, spacing_mm=kept)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for cache, encoder, model and bundle."""
        return asdict(self)

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


def prepare_volume(volume: Volume, preprocess: Preprocess) -> Prepared:
    """Bring an image to the grid and the intensities that networks are trained on.

    Raises:
        ImageError: Wrong number of dimensions or channels, or a constant image.
    """
    if volume.spatial_dims != preprocess.spatial_dims:
        raise ImageError(f"{volume.spatial_dims}D image where {preprocess.spatial_dims}D is due", reason="spatial-dims")
    notes = []
    target = _oriented(volume.geometry, preprocess.orientation)
    if target.is_sheared:
        target = _right_angled(target)
        notes.append("tilted slices were resampled to right angles through the full affine")
    if preprocess.crop != "none":
        target = _cropped(target, regrid_image(volume.array, volume.geometry, target), preprocess.crop)
    if preprocess.spacing_mm is not None:
        target = _spaced(target, preprocess.spacing_mm)
    elif preprocess.longest is not None:
        extent = np.array(target.shape) * target.spacing_mm
        target = _spaced(target, (float(extent.max()) / preprocess.longest,) * 2)
    array = regrid_image(volume.array, volume.geometry, target)
    return Prepared(_normalised(array, preprocess.intensity), Restoration(volume.geometry, target), tuple(notes))


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
    return Volume(regrid_label(mask, record.prepared, record.native)[None], record.native)


def restore_scores(scores: npt.NDArray[np.float32], record: Restoration) -> npt.NDArray[np.float32]:
    """Bring maps (K, *S) on the prepared grid back to the native grid by interpolation; 0 outside."""
    there = regrid_label(np.ones(record.prepared.shape, np.uint8), record.prepared, record.native)
    return regrid_image(scores, record.prepared, record.native) * there


def _oriented(geometry: Geometry, wanted: str) -> Geometry:
    """Same voxels, axes permuted and flipped to `wanted`; no interpolation."""
    if geometry.spatial_dims == 2:
        return geometry
    have = geometry.orientation
    affine = np.eye(4)
    origin = np.zeros(3)
    shape = []
    for axis, code in enumerate(wanted):
        world, sign = _CODES[code]
        source = next(i for i, c in enumerate(have) if _CODES[c][0] == world)
        flip = _CODES[have[source]][1] != sign
        affine[:3, axis] = geometry.affine[:3, source] * (-1 if flip else 1)
        origin[source] = geometry.shape[source] - 1 if flip else 0
        shape.append(geometry.shape[source])
    affine[:3, 3] = geometry.to_world(origin)
    return Geometry(affine, tuple(shape))


def _right_angled(geometry: Geometry) -> Geometry:
    """Smallest grid at right angles over the whole image: the first axis kept, the third along the slices' normal."""
    columns = geometry.affine[:3, :3]
    first = columns[:, 0] / np.linalg.norm(columns[:, 0])
    normal = np.cross(columns[:, 0], columns[:, 1])
    normal = normal / np.linalg.norm(normal)
    if np.dot(normal, columns[:, 2]) < 0:
        normal = -normal
    second = np.cross(normal, first)
    second = second * np.sign(np.dot(second, columns[:, 1]))
    axes = np.stack([first, second, normal], axis=1)
    spacing = np.array([*geometry.spacing_mm[:2], abs(np.dot(normal, columns[:, 2]))])
    corners = geometry.to_world(np.array(list(np.ndindex(2, 2, 2))) * (np.array(geometry.shape) - 1))
    along = corners @ np.linalg.inv(axes).T
    low, high = along.min(axis=0), along.max(axis=0)
    shape = tuple(int(n) for n in np.ceil((high - low) / spacing - 1e-6) + 1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * spacing, axes @ low
    return Geometry(affine, shape)


def _cropped(geometry: Geometry, array: npt.NDArray[np.float32], kind: str, margin: int = 4) -> Geometry:
    keep = np.any(array != 0, axis=0) if kind == "nonzero" else array[0] > float(array[0].mean())
    if not keep.any():
        raise ImageError("every voxel has one value, so there is no image to crop to", reason="constant-image")
    begin, end = [], []
    for axis in range(keep.ndim):
        hit = np.flatnonzero(keep.any(axis=tuple(a for a in range(keep.ndim) if a != axis)))
        begin.append(max(int(hit[0]) - margin, 0))
        end.append(min(int(hit[-1]) + 1 + margin, keep.shape[axis]))
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.to_world((*begin, 0)[:3])
    return Geometry(affine, tuple(b - a for a, b in zip(begin, end, strict=True)))


def _spaced(geometry: Geometry, spacing_mm: tuple[float, ...]) -> Geometry:
    """Grid with the voxel size wanted and the same centre; at least one voxel an axis."""
    old = np.array(geometry.spacing_mm)
    new = np.array(spacing_mm)
    if np.allclose(old, new, rtol=1e-3):
        return geometry
    shape = np.maximum(np.rint(np.array(geometry.shape) * old / new).astype(int), 1)
    affine = geometry.affine.copy()
    affine[:3, : len(new)] *= new / old
    first = np.zeros(3)
    first[: len(new)] = (np.array(geometry.shape) - 1) / 2 - (shape - 1) / 2 * new / old
    affine[:3, 3] = geometry.to_world(first)
    return Geometry(affine, tuple(int(n) for n in shape))


def _normalised(array: npt.NDArray[np.float32], intensity: Intensity) -> npt.NDArray[np.float32]:
    if intensity.kind != "none" and any(float(channel.min()) == float(channel.max()) for channel in array):
        raise ImageError("constant image: every voxel of a channel has one value", reason="constant-image")
    if intensity.kind == "none":
        return array
    if len(intensity.low) > 1 and len(intensity.low) != array.shape[0]:
        raise ImageError(
            f"{array.shape[0]} channels, but intensity.low has {len(intensity.low)} numbers", reason="channels"
        )
    channels = [_normalised_channel(channel, intensity, c) for c, channel in enumerate(array)]
    return np.stack(channels)


def _normalised_channel(channel: npt.NDArray[np.float32], intensity: Intensity, number: int) -> npt.NDArray[np.float32]:
    measured = channel[channel != 0] if intensity.nonzero else channel
    if intensity.kind == "zscore":
        mean, deviation = float(measured.mean(dtype=np.float64)), float(measured.std(dtype=np.float64))
        if deviation == 0:
            raise ImageError("constant image: all voxels that are not 0 have one value", reason="constant-image")
        return ((channel - mean) / deviation).astype(np.float32)
    low, high = (float(v[number] if len(v) > 1 else v[0]) for v in (intensity.low, intensity.high))
    if intensity.kind == "percentile":
        low, high = (float(v) for v in np.percentile(measured, [low, high]))
        if not low < high:
            raise ImageError("constant image: both percentiles have one value", reason="constant-image")
    scaled: npt.NDArray[np.float32] = (np.clip((channel - low) / (high - low), 0, 1) * 2 - 1).astype(np.float32)
    return scaled
