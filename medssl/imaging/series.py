"""Which series of a study is which channel of a network: rules, and the one series that each of them fits."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.scan import FoundImage

Plane = Literal["axial", "coronal", "sagittal"]
_PLANES: Mapping[str, Plane] = {
    **dict.fromkeys("SI", "axial"),
    **dict.fromkeys("AP", "coronal"),
    **dict.fromkeys("RL", "sagittal"),
}
_SHOWN = 20


@dataclass(frozen=True)
class SeriesRule:
    """What a series must be to serve as a channel; what is left empty does not matter.

    Raises:
        ConfigError: Values outside their range, all at once, or a rule that asks for nothing.
    """

    modality: str = ""
    """DICOM modality, for instance MR."""

    words: tuple[str, ...] = ()
    """Parts that the series description must all contain, upper or lower case; `t1|mprage` is one of several."""

    without: tuple[str, ...] = ()
    """Parts that the series description must not contain."""

    plane: Plane | None = None
    """Plane that the slices are nearest to."""

    spacing_mm: tuple[float, ...] = ()
    """Smallest and largest voxel size allowed, along every axis."""

    def __post_init__(self) -> None:
        problems = []
        if self.spacing_mm and (len(self.spacing_mm) != 2 or not 0 < self.spacing_mm[0] <= self.spacing_mm[1]):
            problems.append(f"series: spacing_mm needs a smallest and a largest voxel size, got {self.spacing_mm}")
        if any(not part.strip() for word in (*self.words, *self.without) for part in word.split("|")):
            problems.append(f"series: words and without need letters, got {self.words} and {self.without}")
        if self.plane not in (None, *_PLANES.values()):
            problems.append(f"series: plane must be axial, coronal or sagittal, got {self.plane!r}")
        if not any((self.modality, self.words, self.without, self.plane, self.spacing_mm)):
            problems.append("series: a rule must ask for something")
        if problems:
            raise ConfigError(problems)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for bundle.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "SeriesRule":
        """Inverse of `to_json`."""
        lists = {name: tuple(content[name]) for name in ("words", "without", "spacing_mm")}
        return cls(**{**content, **lists})

    def fits(self, image: FoundImage) -> bool:
        """Whether a series is what the rule asks for."""
        text = image.description.lower()
        return (
            self.modality in ("", image.modality)
            and all(any(part in text for part in word.lower().split("|")) for word in self.words)
            and not any(part in text for word in self.without for part in word.lower().split("|"))
            and self._placed(image.geometry)
        )

    def _placed(self, grid: Geometry | None) -> bool:
        if grid is None:
            return self.plane is None and not self.spacing_mm
        low, high = self.spacing_mm or (0.0, float("inf"))
        return (self.plane is None or _PLANES[grid.orientation[2]] == self.plane) and all(
            low <= s <= high for s in grid.spacing_mm
        )

    def __str__(self) -> str:
        parts = [self.modality, *self.words, *(f"not {word}" for word in self.without), self.plane or ""]
        parts.append(f"{self.spacing_mm[0]:g} to {self.spacing_mm[1]:g} mm" if self.spacing_mm else "")
        return ", ".join(part for part in parts if part)


def choose_series(
    images: Sequence[FoundImage], channels: Sequence[str], rules: Sequence[SeriesRule], spatial_dims: int
) -> list[FoundImage]:
    """The series of each channel.

    Args:
        images: Series of one study.
        channels: Names of the channels.
        rules: One a channel.
        spatial_dims: 2 or 3; series of other dimensions do not count.

    Raises:
        ImageError: A channel without a series (`channel-missing`), with several, or a series for two of them
            (`channel-ambiguous`); all of them named. Descriptions, in which people type names, stand below the first
            line, with what was found: logs and the server's job list show the first line alone.
    """
    usable = [i for i in images if i.geometry is None or i.geometry.spatial_dims == spatial_dims]
    chosen, problems, named, reason = [], [], [], "channel-ambiguous"
    for channel, rule in zip(channels, rules, strict=True):
        fitting = [image for image in usable if rule.fits(image)]
        if not fitting:
            reason = "channel-missing"
            problems.append(f"channel {channel} ({rule}): no series fits")
        elif len(fitting) > 1:
            problems.append(f"channel {channel} ({rule}): {len(fitting)} series fit, one is due")
            named.append(f"  fit channel {channel}: {', '.join(repr(image.description) for image in fitting)}")
        else:
            chosen.append((channel, fitting[0]))
    for image in {id(image): image for _, image in chosen}.values():
        takers = [channel for channel, other in chosen if other is image]
        if len(takers) > 1:
            problems.append(f"one series fits channels {' and '.join(takers)}")
            named.append(f"  fits channels {' and '.join(takers)}: {image.description!r}")
    if problems:
        raise ImageError("\n".join(["; ".join(problems), *named, _listed(images)]), reason=reason)
    return [image for _, image in chosen]


def _listed(images: Sequence[FoundImage]) -> str:
    """What was found, a line each, so that the reader can see why nothing or too much fits."""
    if not images:
        return "  no usable series was found"
    lines = []
    for image in images[:_SHOWN]:
        grid = image.geometry
        where = "no position in the patient"
        if grid is not None:
            size = " x ".join(str(n) for n in grid.shape)
            spacing = " x ".join(f"{s:.2f}" for s in grid.spacing_mm)
            where = f"{_PLANES[grid.orientation[2]]}, {size}, {spacing} mm"
        lines.append(f"  found: {image.modality} {image.description!r}, {where}")
    if len(images) > _SHOWN:
        lines.append(f"  and {len(images) - _SHOWN} more")
    return "\n".join(lines)
