"""How a run is evaluated; torch-free, so that help is at once."""

from dataclasses import dataclass
from typing import Literal

from medssl.imaging.errors import ConfigError


@dataclass
class PredictOptions:
    """How the cases are predicted.

    Raises:
        ConfigError: Values outside their range.
    """

    mirror: Literal["model", "on", "off"] = "model"
    """Average over mirrored images: as stored in the model, along every axis, or not at all."""

    batch_size: int = 2
    """Windows predicted at once."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network computes; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError([f"predict.batch_size must be 1 or more, got {self.batch_size}"])


@dataclass
class MeasureOptions:
    """What is measured.

    Raises:
        ConfigError: Values outside their range.
    """

    tolerance_mm: float = 1.0
    """Distance at which a boundary voxel still counts as right in surface Dice; take what raters differ by."""

    class_order: tuple[str, ...] = ()
    """Classes from the least to the most, where they have an order: adds Cohen's kappa with quadratic weights."""

    resamples: int = 1000
    """Bootstrap resamples of the intervals of classification; those of means use 5000 always."""

    def __post_init__(self) -> None:
        problems = []
        if not self.tolerance_mm >= 0:
            problems.append(f"measure.tolerance_mm must be 0 or more, got {self.tolerance_mm}")
        if self.resamples < 100:
            problems.append(f"measure.resamples must be 100 or more, got {self.resamples}; fewer are not stable")
        if problems:
            raise ConfigError(problems)
