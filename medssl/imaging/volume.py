"""An image or a label map, with the place of its voxels and where it came from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.patients import NOBODY, Person


@dataclass(frozen=True)
class Channel:
    """The series of a study that a channel was read from.

    Args:
        name: Name of the channel.
        modality: DICOM modality.
        description: SeriesDescription.
        series_uid: SeriesInstanceUID.
        inside: Share of the image that the series covers; below 1 its edge was continued.
        resampled: Whether it lay on another grid than the first channel.
        units: DICOM's code for the unit of a PET image.
    """

    name: str
    modality: str
    description: str
    series_uid: str
    inside: float = 1.0
    resampled: bool = False
    units: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for report.json."""
        return asdict(self)


UNKNOWN_SIZE = "pixel size is not known, so mm and mL mean nothing"
"""Note on an image whose file does not tell how large a pixel is."""


@dataclass(frozen=True)
class Source:
    """Where a volume came from, and what was done to it while reading.

    Args:
        paths: Files the voxels came from, in slice order (k) for DICOM; of several DICOM channels the first one's, on
            whose grid the image lies.
        format: `nifti`, `dicom`, `nrrd`, `mha`, `raster`, `dicom-seg`, `rtstruct` or `memory`.
        notes: One sentence for each thing that was mended or assumed, to be shown to the user.
        uids: DICOM identifiers (`StudyInstanceUID`, `SeriesInstanceUID`, ...), empty for other formats.
        channels: The series that the channels were chosen from, where that was done by rules.
        calibrated: False where pixel spacing is not known in the patient, so mm and mL mean nothing.
        person: Whom DICOM's header names.
        at_detector: Spacing is that of the detector of an X-ray projection: a scale, but no size in the patient.
        further: Files of the other DICOM channels.
        units: DICOM's code for the unit of a PET image.
        doubts: Reasons not to use what is made of the image, a code and a sentence each.
        names: What a DICOM label object calls the values of its segments, where they were not told by name.
    """

    paths: tuple[Path, ...] = ()
    format: str = "memory"
    notes: tuple[str, ...] = ()
    uids: dict[str, str] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()
    calibrated: bool = True
    person: Person = NOBODY
    at_detector: bool = False
    further: tuple[Path, ...] = ()
    units: str = ""
    doubts: tuple[tuple[str, str], ...] = ()
    names: dict[int, str] = field(default_factory=dict)

    @property
    def to_scale(self) -> bool:
        """Whether spacing is a length, in the patient or at the detector, and not 1 mm for want of one."""
        return self.calibrated or self.at_detector

    @property
    def patient(self) -> str:
        """Pseudonym of DICOM's PatientID, empty where there is none."""
        return self.person.number


@dataclass(frozen=True)
class Volume:
    """Voxels with their place in the patient.

    Args:
        array: (C, *S); voxel `array[c, i, j, k]` lies at `geometry.affine @ (i, j, k, 1)`. 2D has no k.
        geometry: Grid of the spatial axes.
        modality: DICOM modality (`CT`, `MR`, ...), empty when unknown.
        source: Where it came from.

    Raises:
        ImageError: The array's spatial shape is not the geometry's.
    """

    array: npt.NDArray[Any]
    geometry: Geometry
    modality: str = ""
    source: Source = field(default_factory=Source)

    def __post_init__(self) -> None:
        if self.array.ndim != self.geometry.spatial_dims + 1 or self.array.shape[1:] != self.geometry.shape:
            raise ImageError(
                f"array of shape {self.array.shape} does not fit (C, *S) of a grid {self.geometry.shape}",
                reason="bad-shape",
            )

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.array.shape[0])

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.geometry.spatial_dims


def joined(volumes: Sequence[Volume]) -> Source:
    """Where an image came from that has these for its channels: all notes and doubts, and the files of all.

    Of DICOM the first one's series is what results refer to, so the files of the others stand apart.
    """
    sources = [volume.source for volume in volumes]
    first = replace(
        sources[0],
        notes=tuple(dict.fromkeys(note for source in sources for note in source.notes)),
        doubts=tuple(dict.fromkeys(doubt for source in sources for doubt in source.doubts)),
    )
    if first.format != "dicom":
        return replace(first, paths=tuple(path for source in sources for path in source.paths))
    others = (path for source in sources[1:] if source.format == "dicom" for path in source.paths)
    return replace(first, further=tuple(dict.fromkeys(others)))
