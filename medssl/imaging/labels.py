"""What a label value means: a name, and the code a DICOM object needs."""

from dataclasses import asdict, dataclass
from typing import Any

from medssl.imaging.errors import ManifestError


@dataclass(frozen=True)
class Code:
    """A coded concept (DICOM PS3.3 section 8.8).

    Args:
        value: Code value, for instance `78961009`.
        scheme: Coding scheme designator, for instance `SCT` (SNOMED CT).
        meaning: Human-readable meaning.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Label:
    """One foreground class of a segmentation.

    Args:
        value: Voxel value, 1 to 255; 0 is background everywhere.
        name: Short name, used in tables and files, for instance `anterior_hippocampus`.
        type: Coded property type; needed for DICOM-SEG, optional otherwise.
        category: Coded property category; needed for DICOM-SEG, optional otherwise.
        colour: Display colour, red, green and blue from 0 to 255; chosen by value when None.

    Raises:
        ManifestError: The value is outside 1 to 255 or the name is empty.
    """

    value: int
    name: str
    type: Code | None = None
    category: Code | None = None
    colour: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.value <= 255 or not self.name:
            raise ManifestError(
                f"a label needs a value from 1 to 255 and a name, got {self.value} {self.name!r}", reason="bad-label"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for `cache.json`, `model.json` and `bundle.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Label":
        """Inverse of `to_json`."""
        return cls(
            value=int(content["value"]),
            name=str(content["name"]),
            type=Code(**content["type"]) if content.get("type") else None,
            category=Code(**content["category"]) if content.get("category") else None,
            colour=_colour(content["colour"]) if content.get("colour") else None,
        )


def _colour(values: list[int]) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in values)
    return red, green, blue
