"""How images are chosen before pretraining; torch-free, so that help is at once."""

from dataclasses import dataclass
from typing import Literal

from medssl.imaging.errors import ConfigError

Rule = Literal["none", "every_n", "dhash", "ssim", "mutual_information", "embedding"]

THRESHOLDS = {"dhash": 6.0, "ssim": 0.9, "mutual_information": 0.6, "embedding": 0.98}
"""Published for dhash (Hash-6); the others are choices of this project, to be set by looking at the sheet."""

MOST_IN_PAIRS = 10_000
"""Images of one group of which ssim and mutual information compare one pair after another."""


@dataclass
class LikenessOptions:
    """Which images are too much like another one.

    Raises:
        ConfigError: Values outside their range.
    """

    rule: Rule = "dhash"
    """`dhash`: bits of 64 that differ; `ssim`; `mutual_information`; `embedding`: cosine of an encoder's features;
    `every_n`: no look at the images at all; `none`."""

    threshold: float | None = None
    """dhash: differing bits up to which an image is dropped (6); the others: likeness from which it is."""

    scope: Literal["volume", "patient", "set"] = "volume"
    """Images of which one another are compared: slices of a volume, all of a patient, or everything."""

    every: int = 4
    """For `every_n`: the first of each volume (or patient, or set) and each so many after it are kept."""

    def __post_init__(self) -> None:
        problems = []
        if self.every < 1:
            problems.append(f"likeness.every must be 1 or more, got {self.every}")
        limits = (0, 64) if self.rule == "dhash" else (-1, 1)
        if self.threshold is not None and not limits[0] <= self.threshold <= limits[1]:
            problems.append(f"likeness.threshold of {self.rule} must lie in {list(limits)}, got {self.threshold}")
        if problems:
            raise ConfigError(problems)

    @property
    def least(self) -> float:
        """Likeness from which an image is dropped; differing bits count as negative likeness."""
        given = THRESHOLDS[self.rule] if self.threshold is None else self.threshold
        return -given if self.rule == "dhash" else given


@dataclass
class QualityOptions:
    """Which images are left out whatever they are like; a number of 0 turns a filter off.

    Raises:
        ConfigError: Values outside their range.
    """

    foreground: float = 0.05
    """Least share of pixels above a tenth of the way from dark to bright: emptier images go. These are the darkest and
    brightest pixel of a 2D image; of slices the 0.5th and 99.5th percentile of the whole volume, since air is noise."""

    border: float = 0.0
    """Largest share of the outer frame that may be foreground: what is cut off by the field of view goes."""

    modality: str = ""
    """DICOM modality wanted, for instance `CT`; images of another one go, those that do not tell stay."""

    def __post_init__(self) -> None:
        problems = [
            f"quality.{name} must lie in [0, 1], got {getattr(self, name)}"
            for name in ("foreground", "border")
            if not 0 <= getattr(self, name) <= 1
        ]
        if problems:
            raise ConfigError(problems)


@dataclass
class CoresetOptions:
    """What is taken of an open set because it is like a target set (SimCore).

    Raises:
        ConfigError: Values outside their range.
    """

    budget: int = 0
    """At most so many images; 0 = no coreset is taken."""

    stop: bool = True
    """End earlier, when the images that are left are much less like the target than the first ones."""

    seed: int = 0
    """Seed of the target's centres."""

    def __post_init__(self) -> None:
        if self.budget < 0:
            raise ConfigError([f"coreset.budget must be 0 (none) or more, got {self.budget}"])
