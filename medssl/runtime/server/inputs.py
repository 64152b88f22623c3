"""What was uploaded or received, as one image: unpacked within limits, its promised size checked before pixels."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medssl.imaging.errors import ImageError
from medssl.imaging.readers.archive import unpack
from medssl.imaging.readers.open import read_channels
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import BundleSpec
from medssl.runtime.inputs import find_cases
from medssl.runtime.server.channels import channel_of, come_one_by_one, in_order, mark
from medssl.runtime.server.folders import SUFFIXES, link_files, suffix_of
from medssl.runtime.server.options import LimitOptions

if TYPE_CHECKING:
    from medssl.imaging.readers.dicom_frames import Instance

UNPACKED = "unpacked"
"""Folder, in that of the job, of what a zip file held; removed when the job ends."""

_BYTES_A_VOXEL = 4
_DAMAGED = ("truncated", "bad-dicom")
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class Promise:
    """What the headers of a study say of its size."""

    frames: int
    voxels: int


def read_input(
    folder: Path, spec: BundleSpec, limits: LimitOptions, *, series: str = "", resample_irregular: bool = False
) -> Volume:
    """Read the image of a job.

    Args:
        folder: Folder of the job, with `input`.
        spec: The bundle's, whose rules for series pick the channels of a study.
        limits: Caps.
        series: SeriesInstanceUID to take, for a bundle without rules; empty takes the only series there is.
        resample_irregular: As for `read_volume`.

    Raises:
        ImageError: No image, several, beyond the limits, or one that cannot be read.
    """
    source, files = _files(folder, limits, spec.channels)
    named = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    dicom, problems = _instances([path for path in files if path not in named])
    pictures: list[Path] = []
    if named and len(named) < len(files):
        pictures = _pictures_of_a_disc(named, files, dicom)
        source, named = _without(pictures, source, folder / UNPACKED), []
    _check(_promise(named, dicom), limits)
    left_out = [problem.reason for problem in problems] + ["picture"] * len(pictures)
    if named or not spec.series:
        if series:
            _check_named_series(named, problems)
        volume = _only_image(in_order(named, spec.channels), source, series, resample_irregular)
    else:
        cases, others = find_cases([str(source)], spec, resample_irregular=resample_irregular)
        if len(cases) != 1:
            raise ImageError(f"{len(cases)} studies or images came together: send one", reason="several-studies")
        with _operators_remedy():
            volume = cases[0].read()
        left_out = [problem.reason for problem in others] + ["picture"] * len(pictures)
    notes = tuple(f"left out: {number} file(s), {reason}" for reason, number in Counter(left_out).most_common())
    return replace(volume, source=replace(volume.source, notes=(*volume.source.notes, *notes)))


def _files(folder: Path, limits: LimitOptions, channels: Sequence[str]) -> tuple[Path, list[Path]]:
    """Folder of what came, unpacked where it is a zip file, and the files in it."""
    source = folder / "input"
    files = sorted(path for path in source.iterdir() if path.is_file())
    if [path.suffix for path in files] == [".zip"]:
        source = _emptied(folder / UNPACKED)
        _unpack(files[0], source, limits, channels)
        files = sorted(source.iterdir())
    if any(path.suffix.lower() == ".zip" for path in files):
        raise ImageError("a zip file comes alone, and none within another: unpack it first", reason="nested-zip")
    return source, files


def _pictures_of_a_disc(named: list[Path], files: list[Path], dicom: "list[Instance]") -> list[Path]:
    """Pictures that lie beside a DICOM study, as a viewer's do on a disc: they are no part of it.

    Raises:
        ImageError: Images of several kinds, of which nobody knows which is meant.
    """
    if not dicom or not all(path.name.lower().endswith(_PICTURES) for path in named):
        raise ImageError(
            f"{len(named)} image files and {len(files) - len(named)} others came together: send the DICOM files of one "
            "study, or the NIfTI files of one image",
            reason="mixed-upload",
        )
    return named


def _without(pictures: list[Path], source: Path, unpacked: Path) -> Path:
    """Folder without the pictures: what was unpacked goes away with the job, what came is kept as it is."""
    if source != unpacked:
        link_files(source, _emptied(unpacked))
    for path in pictures:
        (unpacked / path.name).unlink()
    return unpacked


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _check_named_series(named: list[Path], problems: list[ImageError]) -> None:
    if named:
        raise ImageError("a series was named, but what came are no DICOM files", reason="no-such-series")
    if any(problem.reason in _DAMAGED for problem in problems):
        raise ImageError(
            "a series was named, but files came that are damaged, and nobody knows whether they are slices of it: send "
            "that series alone",
            reason="truncated",
        )


def _only_image(named: list[Path], source: Path, series: str, resample_irregular: bool) -> Volume:
    """The image of a bundle that has no rules to choose among series."""
    field = ";".join(str(path) for path in named) if named else f"{source}#{series}" if series else str(source)
    try:
        with _operators_remedy():
            return read_channels(field, Path(), resample_irregular=resample_irregular)
    except ImageError as error:
        if error.reason != "several-series":
            raise
        raise ImageError(
            "several series came together, and this bundle has no rules to choose among them: send one series, name it "
            "in the field `series`, or have the bundle exported with --series",
            reason=error.reason,
        ) from error


@contextmanager
def _operators_remedy() -> Iterator[None]:
    """Who sends a study has no options: of uneven slices it is said who has, and which."""
    from medssl.imaging.readers.dicom_series import OPT_IN  # noqa: PLC0415 (pydicom is slow to import)

    try:
        yield
    except ImageError as error:
        if OPT_IN not in error.message:
            raise
        remedy = "have whoever runs this server allow that such series are resampled (results.resample_irregular: true)"
        raise ImageError(error.message.replace(OPT_IN, remedy), reason=error.reason) from error


def _unpack(path: Path, folder: Path, limits: LimitOptions, channels: Sequence[str]) -> None:
    """Unpack under numbers: names of files and folders often are those of patients; which channel they name is kept."""

    def ending(name: str) -> str:
        wanted = len(channels) > 1 and come_one_by_one([name])
        return f"{mark(channel_of(name, channels) if wanted else None)}{suffix_of(name)}"

    unpack(
        path,
        folder,
        max_files=limits.files,
        max_bytes=int(limits.unpacked_mb * 2**20),
        keep_free=int(limits.free_disk_mb * 2**20),
        suffix_of=ending,
    )
    if not any(folder.iterdir()):
        raise ImageError("the zip file is empty: there is no file in it", reason="empty-file")


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


def _instances(files: list[Path]) -> "tuple[list[Instance], list[ImageError]]":
    """DICOM images, and what is wrong with the other files."""
    if not files:
        return [], []
    from medssl.imaging.readers.dicom import find_instances  # noqa: PLC0415 (pydicom is slow to import)

    found = [find_instances(path) for path in files]
    return [i for instances, _ in found for i in instances], [p for _, problems in found for p in problems]


def _promise(named: list[Path], dicom: "list[Instance]") -> Promise:
    """Planes and voxels by the headers of DICOM and NIfTI; other formats count nothing here."""
    from medssl.imaging.readers.nifti import nifti_header  # noqa: PLC0415

    grids = [nifti_header(path) for path in named if path.name.lower().endswith((".nii", ".nii.gz"))]
    return Promise(
        sum(len(instance.frames) for instance in dicom),
        sum(int(np.prod(grid.shape, dtype=np.float64)) for grid in grids)
        + sum(len(instance.frames) * instance.rows * instance.columns for instance in dicom),
    )
