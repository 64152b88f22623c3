"""What was measured of one case of a site, and of those that could not be used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medssl.imaging.manifest import Row
from medssl.runtime.performance.overlap import Overlap


@dataclass(frozen=True)
class Structure:
    """One structure of one image.

    Args:
        overlap: Voxels of mask and reference.
        voxel_size: Size of a voxel in `unit`; None where the image does not tell it.
        unit: `mL`, or `mm2` in 2D.
        interval: Volumes that the bundle gives as the ends of its interval, in mL; None where it has none.
    """

    overlap: Overlap
    voxel_size: float | None
    unit: str
    interval: tuple[float, float] | None = None

    @property
    def measured(self) -> float | None:
        """Size in `unit` that the bundle found."""
        return None if self.voxel_size is None else self.overlap.found * self.voxel_size

    @property
    def reference(self) -> float | None:
        """Size of the reference in `unit`."""
        return None if self.voxel_size is None else self.overlap.reference * self.voxel_size

    @property
    def inside(self) -> bool | None:
        """Whether the reference volume lies in the interval; None without one."""
        if self.interval is None or self.reference is None:
            return None
        return self.interval[0] <= self.reference <= self.interval[1]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary; what is not defined is None."""
        unit, (low, high) = self.unit.lower(), self.interval or (None, None)
        return {
            "state": self.overlap.state,
            "dice": self.overlap.dice,
            f"measured_{unit}": _rounded(self.measured),
            f"reference_{unit}": _rounded(self.reference),
            **({"low_ml": _rounded(low), "high_ml": _rounded(high), "inside": self.inside} if unit == "ml" else {}),
            "measured_voxels": self.overlap.found,
            "reference_voxels": self.overlap.reference,
        }


def _rounded(size: float | None) -> float | None:
    """As in report.json."""
    return None if size is None else round(size, 6)


@dataclass(frozen=True)
class CaseMeasure:
    """A case that was predicted and compared.

    Args:
        row: Its line of the manifest.
        seconds: From its files to its result, the comparison left out.
        flags: Codes of the reasons not to use the result.
        warnings: Sentences of the report, and what was noted while the reference was read.
        structures: Name to structure, of a segmentation.
        ignored: Voxels of the reference that nobody judged.
        called: Class that was called, of a classification.
        probabilities: Class to probability.
    """

    row: Row
    seconds: float
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    structures: Mapping[str, Structure] = field(default_factory=dict)
    ignored: int = 0
    called: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        told = {"case": self.row.case, "patient": self.row.patient, "seconds": round(self.seconds, 3)}
        told |= {"flags": list(self.flags), "warnings": list(self.warnings)}
        if self.structures:
            structures = {name: structure.to_json() for name, structure in self.structures.items()}
            return {**told, "ignored_voxels": self.ignored, "structures": structures}
        return {
            **told,
            "reference": self.row.class_name,
            "called": self.called,
            "probabilities": dict(self.probabilities),
        }


@dataclass(frozen=True)
class Unusable:
    """A case, or a damaged file that may be one, without a result or a reference.

    Args:
        case: Its name, or the file.
        reason: Reason code.
        message: What is wrong.
    """

    case: str
    reason: str
    message: str

    def to_json(self) -> dict[str, str]:
        """Plain dictionary."""
        return {"case": self.case, "reason": self.reason, "message": self.message}
