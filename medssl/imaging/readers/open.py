"""Open an image or a label map, whatever its format."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.naming import split_field, split_slice
from medssl.imaging.patients import refuse_several
from medssl.imaging.readers import itk, raster
from medssl.imaging.readers.archive import unpacked
from medssl.imaging.readers.guard import explained
from medssl.imaging.readers.nifti import read_nifti
from medssl.imaging.volume import Volume, joined


def read_volume(path: Path | str, *, resample_irregular: bool = False) -> Volume:
    """Read an image as a volume with its place in the patient.

    Args:
        path: NIfTI, NRRD, MHA or picture file; a DICOM file, or a folder or zip file with one DICOM series;
            `FOLDER#SeriesInstanceUID` picks one of several series, `IMAGE#slice=AXIS:NUMBER` a slice of a volume, as a
            2D image at its place.
        resample_irregular: Resample unevenly spaced slices instead of refusing them.

    Raises:
        ImageError: Missing, unreadable, ambiguous or implausible, with a reason code.
    """
    if split_slice(path)[1]:
        return _of_wholes([path], resample_irregular)[0]
    file, series = split_field(path)
    if not file.exists():
        raise ImageError(f"{file} does not exist", reason="no-such-file")
    if file.is_file() and file.stat().st_size == 0:
        raise ImageError(f"{file} is empty (0 bytes)", reason="empty-file")
    try:
        with explained(file):
            volume = _read(file, series, resample_irregular)
    except PermissionError as error:
        raise ImageError(f"{file} may not be read: ask its owner", reason="no-permission") from error
    if volume.array.dtype.kind == "f":
        bad = sum(int(plane.size - np.count_nonzero(np.isfinite(plane))) for plane in _planes(volume.array))
        if bad:
            raise ImageError(
                f"{file}: {bad} voxels are NaN or infinite; mend them where they were made", reason="non-finite"
            )
        return replace(volume, array=volume.array.astype(np.float32, copy=False))
    return volume


def _planes(array: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.generic]]:
    """Parts along the axis whose neighbours lie farthest apart in memory."""
    return iter(np.moveaxis(array, int(np.argmax(np.abs(array.strides))), 0))


def whole_volumes(paths: Sequence[Path | str], *, resample_irregular: bool = False) -> list[Volume]:
    """The volumes of a case that slices are of, each decoded once while slices of this case are read one after another.

    Args:
        paths: The case's channels, as for `read_volume`; one that is no slice is read as it is.
        resample_irregular: As for `read_volume`.

    Raises:
        ImageError: As `read_volume`.
    """
    split = [split_slice(path) for path in paths]
    sliced = {image: _state(split_field(image)[0]) for image, place in split if place}
    held = _held(tuple(sliced.items()), resample_irregular)
    for image in sliced:
        if image not in held:
            held[image] = read_volume(image, resample_irregular=resample_irregular)
    return [
        held[image] if place else read_volume(image, resample_irregular=resample_irregular) for image, place in split
    ]


@lru_cache(maxsize=1)
def _held(case: object, resample_irregular: bool) -> dict[str, Volume]:
    """Where the volumes of one case are kept; another case, or one whose files have changed, takes their place."""
    return {}


def _of_wholes(paths: Sequence[Path | str], resample_irregular: bool) -> list[Volume]:
    """The images themselves: slices of their volumes, and the others as they are."""
    wholes = whole_volumes(paths, resample_irregular=resample_irregular)
    split = [split_slice(path) for path in paths]
    return [_slice(whole, *one) if one[1] else whole for whole, one in zip(wholes, split, strict=True)]


def _state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of every file that an image is made of."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple((str(f), (s := f.stat()).st_size, s.st_mtime_ns) for f in files if f.is_file())


def _slice(volume: Volume, image: str, place: str) -> Volume:
    try:
        axis, number = (int(part) for part in place.split(":"))
        if volume.spatial_dims != 3 or not 0 <= axis <= 2 or not 0 <= number < volume.geometry.shape[axis]:
            raise ValueError(place)
    except ValueError as error:
        raise ImageError(
            f"{image} of shape {volume.geometry.shape} has no slice {place!r}: AXIS:NUMBER is expected, from 0",
            reason="no-such-slice",
        ) from error
    kept = [a for a in range(3) if a != axis]
    affine = volume.geometry.affine[:, [*kept, axis, 3]].copy()
    affine[:, 3] = volume.geometry.affine @ [*(number if a == axis else 0 for a in range(3)), 1]
    grid = Geometry(affine, tuple(volume.geometry.shape[a] for a in kept))
    plane = np.moveaxis(volume.array, axis + 1, 0)[number]  # np.take would copy the whole of a Fortran array
    return replace(volume, array=np.ascontiguousarray(plane), geometry=grid)


def _read(file: Path, series: str, resample_irregular: bool) -> Volume:
    name = file.name.lower()
    if file.is_file() and name.endswith((".nii", ".nii.gz")):
        return read_nifti(file)
    if file.is_file() and name.endswith(itk.SUFFIXES):
        return itk.read_itk(file)
    if file.is_file() and name.endswith(raster.SUFFIXES):
        return raster.read_raster(file)
    from medssl.imaging.readers.dicom import read_dicom  # noqa: PLC0415 (pydicom is slow to import)

    if name.endswith(".zip") and file.is_file():
        file = unpacked(file)
    return read_dicom(file, series, resample_irregular=resample_irregular)


def read_channels(field: str, root: Path, *, resample_irregular: bool = False) -> Volume:
    """Read the `image` field of a manifest: one path, or several joined by `;` that become channels.

    Args:
        field: Paths, absolute or relative to `root`.
        root: Folder of the manifest.
        resample_irregular: As for `read_volume`.

    Raises:
        ImageError: As `read_volume`, or channels of different patients or on different grids.
    """
    parts = [part.strip() for part in field.split(";") if part.strip()]
    if not parts:
        raise ImageError("no image is named", reason="no-such-file")
    volumes = _of_wholes([root / part for part in parts], resample_irregular)
    first = volumes[0]
    refuse_several((v.source.person for v in volumes), f"the channels {', '.join(parts)}")
    for part, volume in zip(parts, volumes, strict=True):
        if not volume.geometry.is_close(first.geometry):
            raise ImageError(
                f"channel {part} lies on another grid than {parts[0]}: resample it there first", reason="channel-grid"
            )
    if len(volumes) == 1:
        return first
    kind = np.result_type(*(v.array for v in volumes))
    return Volume(
        np.concatenate([v.array.astype(kind, copy=False) for v in volumes]),
        first.geometry,
        first.modality,
        joined(volumes),
    )


def read_label(
    path: Path | str,
    like: Volume,
    labels: Sequence[Label] = (),
    label_map: Mapping[int, int] | None = None,
    ignore: int | None = None,
) -> Volume:
    """Read a label map on the grid of its image.

    Args:
        path: Any format of `read_volume`, DICOM-SEG or RTSTRUCT.
        like: The image.
        labels: Classes; values outside them are refused. Empty: every value is accepted.
        label_map: Value in the file to value wanted; values that are not named stay.
        ignore: Value that is accepted beside the classes.

    Returns:
        (1, *S) uint8 on the grid of `like`.

    Raises:
        ImageError: Another grid (`label-grid`), a value outside the classes or no whole number (`label-values`).
    """
    with explained(path):
        volume = _label_volume(Path(path), like, labels)
    if volume.channels != 1:
        volume = _one_channel(volume, path)
    geometry = _matched(volume.geometry, like, path)
    values, inverse = np.unique(volume.array, return_inverse=True)
    wanted = _mapped(values, label_map or {}, path)
    allowed = {0, *(label.value for label in labels), *({ignore} if ignore is not None else ())}
    foreign = sorted({int(v) for v in wanted} - allowed) if labels else []
    if foreign:
        raise ImageError(
            f"{path}: label values {foreign} are not in the class list {sorted(allowed)}; "
            "add them, or map them with label_map",
            reason="label-values",
        )
    array = wanted.astype(np.uint8)[inverse].reshape(volume.array.shape)
    return Volume(array, geometry, source=volume.source)


def is_dicom_label(path: Path | str) -> bool:
    """Whether a label would be read as a DICOM object."""
    file, _ = split_field(path)
    others = (".nii", ".nii.gz", *itk.SUFFIXES, *raster.SUFFIXES, ".zip")
    return file.is_file() and not file.name.lower().endswith(others)


def _label_volume(path: Path, like: Volume, labels: Sequence[Label]) -> Volume:
    file, _ = split_field(path)
    name = file.name.lower()
    if file.is_file() and name.endswith(raster.SUFFIXES):
        return raster.read_raster(file, indexed=True)
    if is_dicom_label(path):
        from medssl.imaging.readers.dicom_labels import read_dicom_label  # noqa: PLC0415 (pydicom is slow to import)

        return read_dicom_label(file, like, labels)
    return read_volume(path)


def _one_channel(volume: Volume, path: Path | str) -> Volume:
    """A colour picture of a mask counts as grey where all its channels are alike."""
    if not bool(np.all(volume.array == volume.array[:1])):
        raise ImageError(f"{path}: a label map has one channel, this has {volume.channels}", reason="label-values")
    return Volume(volume.array[:1], volume.geometry, source=volume.source)


def _matched(geometry: Geometry, like: Volume, path: Path | str) -> Geometry:
    if geometry.shape != like.geometry.shape:
        raise ImageError(
            f"{path}: label of shape {geometry.shape}, image of shape {like.geometry.shape}; they must lie on one grid",
            reason="label-grid",
        )
    tolerance = 0.1 * min(like.geometry.spacing_mm)  # headers round; a tenth of a voxel is no shift that matters
    if not geometry.is_close(like.geometry, atol_mm=tolerance):
        raise ImageError(
            f"{path}: label and image have one shape but lie at different places (affines differ by more than "
            f"{tolerance:.3g} mm); a mask in the wrong place is worse than none",
            reason="label-grid",
        )
    return like.geometry


def _mapped(values: npt.NDArray[np.generic], label_map: Mapping[int, int], path: Path | str) -> npt.NDArray[np.int64]:
    numbers = values.astype(np.float64)
    whole = np.rint(numbers)
    if not np.array_equal(numbers, whole) or whole.min() < 0 or whole.max() > 255:
        raise ImageError(f"{path}: label values must be whole numbers from 0 to 255", reason="label-values")
    return np.array([label_map.get(int(v), int(v)) for v in whole], dtype=np.int64)
