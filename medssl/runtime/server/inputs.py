"""What was uploaded or received, as one image: unpacked within limits, its promised size checked before pixels."""

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medssl.imaging.errors import ImageError
from medssl.imaging.readers.archive import unpack
from medssl.imaging.readers.open import read_channels
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import BundleSpec
from medssl.runtime.inputs import find_cases
from medssl.runtime.server.folders import SUFFIXES, suffix_of
from medssl.runtime.server.options import LimitOptions

UNPACKED = "unpacked"
"""Folder, in that of the job, of what a zip file held; removed when the job ends."""

_BYTES_A_VOXEL = 4


@dataclass(frozen=True)
class Promise:
    """What the headers of a study say of its size."""

    frames: int
    voxels: int


def read_input(folder: Path, spec: BundleSpec, limits: LimitOptions, *, resample_irregular: bool = False) -> Volume:
    """Read the image of a job.

    Args:
        folder: Folder of the job, with `input`.
        spec: The bundle's, whose rules for series pick the channels of a study.
        limits: Caps.
        resample_irregular: As for `read_volume`.

    Raises:
        ImageError: No image, several, beyond the limits, or one that cannot be read.
    """
    source = folder / "input"
    files = sorted(path for path in source.iterdir() if path.is_file())
    if [path.suffix for path in files] == [".zip"]:
        source = folder / UNPACKED
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        _unpack(files[0], source, limits)
        files = sorted(source.iterdir())
    if any(path.suffix.lower() == ".zip" for path in files):
        raise ImageError("a zip file comes alone, and none within another: unpack it first", reason="nested-zip")
    named = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    if named and len(named) < len(files):
        raise ImageError(
            f"{len(named)} image files and {len(files) - len(named)} others came together: send the DICOM files of one "
            "series, or the NIfTI files of one image",
            reason="mixed-upload",
        )
    _check(_promise(files, dicom=not named), limits)
    field = ";".join(str(path) for path in named) if named else str(source)
    if named or not spec.series:
        return read_channels(field, Path(), resample_irregular=resample_irregular)
    cases, left_out = find_cases([field], spec, resample_irregular=resample_irregular)
    if len(cases) != 1:
        raise ImageError(f"{len(cases)} studies or images came together: send one", reason="several-studies")
    volume = cases[0].read()
    reasons = Counter(problem.reason for problem in left_out)
    notes = tuple(f"left out: {number} file(s), {reason}" for reason, number in reasons.most_common())
    return replace(volume, source=replace(volume.source, notes=(*volume.source.notes, *notes)))


def _unpack(path: Path, folder: Path, limits: LimitOptions) -> None:
    """Unpack under numbers: names of files and folders often are those of patients."""
    unpack(
        path,
        folder,
        max_files=limits.files,
        max_bytes=int(limits.unpacked_mb * 2**20),
        keep_free=int(limits.free_disk_mb * 2**20),
        suffix_of=suffix_of,
    )


def compact(volume: Volume) -> Volume:
    """First channel of an image in the smallest type that holds it, for showing it."""
    array = volume.array[:1]
    if array.dtype.kind == "f" and array.size and np.array_equal(array, np.rint(array)):
        low, high = float(array.min()), float(array.max())
        if low >= -32768 and high <= 32767:
            array = array.astype(np.int16)
    return Volume(array, volume.geometry, volume.modality, volume.source)


def _check(promise: Promise, limits: LimitOptions) -> None:
    if promise.frames > limits.frames:
        raise ImageError(
            f"the study holds {promise.frames} image planes, {limits.frames} are allowed (limits.frames)",
            reason="too-many-frames",
        )
    size_mb = promise.voxels * _BYTES_A_VOXEL / 2**20
    if size_mb > limits.unpacked_mb:
        raise ImageError(
            f"the headers promise {promise.voxels} voxels, {size_mb:.0f} MiB in memory; {limits.unpacked_mb:.0f} are "
            "allowed (limits.unpacked_mb)",
            reason="too-large",
        )


def _promise(files: list[Path], *, dicom: bool) -> Promise:
    """Planes and voxels by the headers of DICOM and NIfTI; other formats count nothing here."""
    if dicom:
        from medssl.imaging.readers.dicom import find_instances  # noqa: PLC0415 (pydicom is slow to import)

        found = [instance for path in files for instance in find_instances(path)[0]]
        return Promise(
            sum(len(instance.frames) for instance in found),
            sum(len(instance.frames) * instance.rows * instance.columns for instance in found),
        )
    from medssl.imaging.readers.nifti import nifti_header  # noqa: PLC0415

    grids = [nifti_header(path) for path in files if path.name.lower().endswith((".nii", ".nii.gz"))]
    return Promise(0, sum(int(np.prod(grid.shape, dtype=np.float64)) for grid in grids))
