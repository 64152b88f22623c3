"""What pretraining sees of the images; torch-free, so that help is at once."""

from dataclasses import dataclass, field
from typing import Any

from medssl.data.augment_options import AugmentOptions
from medssl.imaging.errors import ConfigError


def light() -> AugmentOptions:
    """A change of scale and nothing else: masked modelling needs no more (He et al. 2022, table 1e)."""
    return AugmentOptions(
        affine_p=0.5,
        rotation_deg=0.0,
        scale=0.2,
        noise_p=0.0,
        blur_p=0.0,
        brightness_p=0.0,
        contrast_p=0.0,
        low_resolution_p=0.0,
        gamma_p=0.0,
    )


@dataclass(frozen=True)
class ViewOptions:
    """Which crops are drawn and how they are varied.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    size: tuple[int, ...] = (32, 32, 32)
    """Crop size in voxels, one number a spatial axis, in the axis order of the prepared arrays."""

    min_std: float = 0.1
    """Crops with a smaller standard deviation (air) are drawn again, up to 8 times; in units of the prepared images."""

    splits: tuple[str, ...] = ("train", "")
    """Splits to learn from; the empty name is cases without a split. Never the test cases."""

    augment: AugmentOptions = field(default_factory=light)
    """How crops are varied."""

    def __post_init__(self) -> None:
        problems = []
        if len(self.size) not in (2, 3) or any(n < 1 for n in self.size):
            problems.append(f"views.size needs 2 or 3 positive numbers, got {self.size}")
        if self.min_std < 0:
            problems.append(f"views.min_std must be 0 or more, got {self.min_std}")
        if "test" in self.splits:
            problems.append("views.splits must not name test: what is measured there must not have been seen")
        if problems:
            raise ConfigError(problems)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        return {
            "size": list(self.size),
            "min_std": self.min_std,
            "splits": list(self.splits),
            "augment": self.augment.to_json(),
        }
