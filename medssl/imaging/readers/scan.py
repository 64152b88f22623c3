"""What lies below a folder: images, label objects, and every other file with the reason why it is neither."""

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.patients import NOBODY, Person
from medssl.imaging.problems import Problem
from medssl.imaging.progress import track
from medssl.imaging.readers import itk, raster
from medssl.imaging.readers.archive import forget_unpacked, unpacked
from medssl.imaging.readers.guard import explained
from medssl.imaging.readers.nifti import whole_nifti_header

_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class FoundImage:
    """An image below the folder.

    Args:
        field: Path for the manifest's `image` column, `#SeriesInstanceUID` added for one of several series.
        files: The files it is made of.
        format: `nifti`, `dicom`, `itk`, `raster` or `zip`.
        geometry: Its grid, where the header tells it.
        modality: DICOM modality, empty when unknown.
        person: Whom DICOM's header names.
        series_uid: SeriesInstanceUID, empty for other formats.
        study_uid: StudyInstanceUID, empty for other formats.
        description: SeriesDescription, empty for other formats.
        sex: Patient's sex, empty when unknown.
        age: Patient's age in years, empty when unknown.
        scanner: Manufacturer and model, empty when unknown.
        notes: What is unusual about it.
    """

    field: str
    files: tuple[Path, ...]
    format: str
    geometry: Geometry | None = None
    modality: str = ""
    person: Person = NOBODY
    series_uid: str = ""
    description: str = ""
    sex: str = ""
    age: str = ""
    scanner: str = ""
    notes: tuple[str, ...] = ()
    study_uid: str = ""

    @property
    def patient(self) -> str:
        """Pseudonym of DICOM's PatientID, empty where there is none."""
        return self.person.number


@dataclass(frozen=True)
class FoundLabel:
    """A DICOM-SEG or RTSTRUCT object.

    Args:
        path: Its file.
        series_uids: Series it refers to.
        uid: SOPInstanceUID.
    """

    path: Path
    series_uids: tuple[str, ...]
    uid: str = ""


@dataclass
class Scan:
    """Everything below a folder; each file is in one of the lists, `zips` is for those that were not opened.

    `spoilt` maps the SeriesInstanceUID of each series that was left out whole, because a file of it is damaged, to its
    patient's pseudonym.
    """

    images: list[FoundImage] = field(default_factory=list)
    labels: list[FoundLabel] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    zips: list[Path] = field(default_factory=list)
    spoilt: dict[str, str] = field(default_factory=dict)


def scan_tree(root: Path, *, show: bool = False, open_zips: bool = True, resample_irregular: bool = False) -> Scan:
    """Look at every file at or below a folder; only headers are read where the format allows.

    Args:
        root: Folder.
        show: Show progress.
        open_zips: Take zip files for images with one DICOM series each; otherwise they are listed apart.
        resample_irregular: Take DICOM series with uneven slices for images, which `read_volume` reads when told so.

    Raises:
        ImageError: The folder does not exist.
    """
    if not root.is_dir():
        what = "is a file, no folder: give the folder it is in" if root.exists() else "does not exist: check the path"
        raise ImageError(f"{root} {what}", reason="no-such-folder")
    scan = Scan()
    others = []
    files = _files(root, scan)
    for file in track(files, "index: files", len(files), "file") if show else files:
        name = file.name.lower()
        if file.stat().st_size == 0:
            scan.problems.append(_empty(file))
        elif name.endswith(_NIFTI):
            _add(scan, file, "nifti")
        elif name.endswith(itk.SUFFIXES):
            _add(scan, file, "itk")
        elif name.endswith(raster.SUFFIXES):
            _add(scan, file, "raster")
        elif name.endswith(".zip"):
            _add(scan, file, "zip", resample_irregular) if open_zips else scan.zips.append(file)
        else:
            others.append(file)
    if others:
        from medssl.imaging.readers.dicom_scan import scan_dicom  # noqa: PLC0415 (pydicom is slow to import)

        headers = track(others, "index: DICOM headers", len(others), "file") if show else others
        scan_dicom(headers, scan, resample_irregular=resample_irregular)
    scan.images.sort(key=lambda image: image.field)
    return scan


def images_below(folder: Path) -> list[str]:
    """Image fields of everything below a folder that can be an image."""
    return [image.field for image in scan_tree(folder).images]


def _files(root: Path, scan: Scan) -> list[Path]:
    """Files in the order of their paths; what cannot be entered is told, so that nothing below it vanishes unseen."""

    def refused(error: OSError) -> None:
        scan.problems.append(
            Problem(str(error.filename), "no-permission", "left out", "the folder may not be read: ask its owner")
        )

    found: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=refused):
        for name in folders:
            if (Path(folder) / name).is_symlink():
                message = "links to folders are not followed, because they can go round in circles: give their target"
                scan.problems.append(Problem(str(Path(folder) / name), "linked-folder", "left out", message))
        found += [Path(folder) / name for name in files]
    for path in sorted(found):
        if not path.is_file():
            what = ("broken-link", "the link points nowhere") if path.is_symlink() else ("no-file", "no regular file")
            scan.problems.append(Problem(str(path), what[0], "left out", what[1]))
    return [path for path in sorted(found) if path.is_file()]


def _empty(file: Path) -> Problem:
    """A file without bytes, which is damaged where its name is that of an image."""
    from medssl.imaging.readers.dicom_frames import named_as_dicom  # noqa: PLC0415 (pydicom is slow to import)

    if file.name.lower().endswith((*_NIFTI, *itk.SUFFIXES, *raster.SUFFIXES, ".zip")) or named_as_dicom(file):
        return Problem(str(file), "empty-file", "left out", "the file is empty (0 bytes): copy it again")
    return Problem(str(file), "not-an-image", "left out", "the file is empty (0 bytes)")


def _add(scan: Scan, file: Path, kind: str, resample_irregular: bool = False) -> None:
    try:
        with explained(file):
            if kind == "zip":
                scan.images.append(_zipped(file, resample_irregular))
                return
            geometry = whole_nifti_header(file) if kind == "nifti" else _read_grid(file, kind)
    except ImageError as error:
        scan.problems.append(Problem(str(file), error.reason, "left out", error.message))
        return
    except PermissionError:
        scan.problems.append(Problem(str(file), "no-permission", "left out", "the file may not be read: ask its owner"))
        return
    scan.images.append(FoundImage(str(file), (file,), kind, geometry))


def _zipped(file: Path, resample_irregular: bool) -> FoundImage:
    """The one DICOM series of a zip file; it is unpacked for a look and removed again."""
    folder = unpacked(file)
    try:
        inside = scan_tree(folder, resample_irregular=resample_irregular)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        forget_unpacked()
    series = [image for image in inside.images if image.format == "dicom"]
    if len(series) != 1:
        reason = "several-series" if series else (inside.problems[0].reason if inside.problems else "no-images")
        raise ImageError(
            f"{file} holds {len(series)} usable DICOM series, one is due: unpack it and search the folder",
            reason=reason,
        )
    return replace(series[0], field=str(file), files=(file,), format="zip")


def _read_grid(file: Path, kind: str) -> Geometry | None:
    """Formats without a cheap header are read, so that a damaged file is found now and not in training."""
    if kind == "itk":
        return itk.read_itk(file).geometry
    if kind == "raster":
        return raster.read_raster(file).geometry
    return None
