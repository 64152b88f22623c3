"""What lies below a folder: images, label objects, and every other file with the reason why it is neither."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.problems import Problem
from medssl.imaging.readers import itk, raster
from medssl.imaging.readers.nifti import nifti_header

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
        patient: Pseudonym from the PatientID, empty when unknown.
        series_uid: SeriesInstanceUID, empty for other formats.
        description: SeriesDescription, empty for other formats.
        sex: Patient's sex, empty when unknown.
        age: Patient's age in years, empty when unknown.
        notes: What is unusual about it.
    """

    field: str
    files: tuple[Path, ...]
    format: str
    geometry: Geometry | None = None
    modality: str = ""
    patient: str = ""
    series_uid: str = ""
    description: str = ""
    sex: str = ""
    age: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundLabel:
    """A DICOM-SEG or RTSTRUCT object.

    Args:
        path: Its file.
        series_uids: Series it refers to.
    """

    path: Path
    series_uids: tuple[str, ...]


@dataclass
class Scan:
    """Everything below a folder; each file is in exactly one of the three lists."""

    images: list[FoundImage] = field(default_factory=list)
    labels: list[FoundLabel] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def scan_tree(root: Path) -> Scan:
    """Look at every file at or below a folder; only headers are read where the format allows.

    Raises:
        ImageError: The folder does not exist.
    """
    if not root.is_dir():
        raise ImageError(f"{root} is no folder", reason="no-such-folder")
    scan = Scan()
    others = []
    for file in _files(root, scan):
        name = file.name.lower()
        if file.stat().st_size == 0:
            scan.problems.append(Problem(str(file), "empty-file", "left out", "the file is empty (0 bytes)"))
        elif name.endswith(_NIFTI):
            _add(scan, file, "nifti")
        elif name.endswith(itk.SUFFIXES):
            _add(scan, file, "itk")
        elif name.endswith(raster.SUFFIXES):
            _add(scan, file, "raster")
        elif name.endswith(".zip"):
            _add(scan, file, "zip")
        else:
            others.append(file)
    if others:
        from medssl.imaging.readers.dicom_scan import scan_dicom  # noqa: PLC0415 (pydicom is slow to import)

        scan_dicom(others, scan.images, scan.labels, scan.problems)
    scan.images.sort(key=lambda image: image.field)
    return scan


def images_below(folder: Path) -> list[str]:
    """Image fields of everything below a folder that can be an image."""
    return [image.field for image in scan_tree(folder).images]


def _files(root: Path, scan: Scan) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_symlink() and not path.exists():
            scan.problems.append(Problem(str(path), "broken-link", "left out", "the link points nowhere"))
        elif path.is_file():
            yield path


def _add(scan: Scan, file: Path, kind: str) -> None:
    try:
        geometry = nifti_header(file) if kind == "nifti" else _read_grid(file, kind)
    except ImageError as error:
        scan.problems.append(Problem(str(file), error.reason, "left out", error.message))
        return
    except PermissionError:
        scan.problems.append(Problem(str(file), "no-permission", "left out", "the file may not be read: ask its owner"))
        return
    scan.images.append(FoundImage(str(file), (file,), kind, geometry))


def _read_grid(file: Path, kind: str) -> Geometry | None:
    """Formats without a cheap header are read, so that a damaged file is found now and not in training."""
    if kind == "itk":
        return itk.read_itk(file).geometry
    if kind == "raster":
        return raster.read_raster(file).geometry
    return None
