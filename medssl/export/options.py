"""How a run becomes a bundle; torch-free, so that help is at once."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medssl.imaging.errors import ConfigError
from medssl.imaging.modality import known_modality
from medssl.runtime.bundle import NO_INTENDED_USE


@dataclass
class CardOptions:
    """What the bundle says of itself.

    Raises:
        ConfigError: A modality that DICOM does not know.
    """

    name: str = ""
    """Name of the model; the bundle's file name when empty."""

    intended_use: str = NO_INTENDED_USE
    """What the model is for, in a sentence."""

    licence: str = ""
    """Licence of the weights, and of the data behind them where it binds."""

    limits: tuple[str, ...] = ()
    """Known limits, a sentence each."""

    modalities: tuple[str, ...] = ()
    """DICOM modalities of the images it is for (of several channels the first one's), for instance `[CR,DX]`; DICOM
    images of another one are refused. Left out, those of the training images, where the manifest tells all of them."""

    def __post_init__(self) -> None:
        if unknown := [text for text in self.modalities if known_modality(text) != text]:
            raise ConfigError([f"card.modalities {unknown}: DICOM's codes are expected, such as CT, MR, PT, CR or DX"])


@dataclass
class ParityOptions:
    """How the exported graph is compared with torch, and what is allowed.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    cases: int = 3
    """Whole images that are predicted both ways."""

    max_logit_difference: float = 1e-3
    """Largest difference of any logit that is allowed."""

    min_dice: float = 0.999
    """Smallest Dice between both masks of any class in any image that is allowed."""

    threads: int = 0
    """Threads of ONNX Runtime; 0 takes every processor this process may use."""

    def __post_init__(self) -> None:
        rules = [
            ("cases", self.cases >= 1, "must be 1 or more: no bundle without proof"),
            ("max_logit_difference", 0 < self.max_logit_difference <= 1e-2, "must lie in (0, 0.01]"),
            ("min_dice", 0.9 <= self.min_dice <= 1, "must lie in [0.9, 1]"),
            ("threads", self.threads >= 0, "must be 0 or more"),
        ]
        if problems := [f"parity.{n} {rule}, got {getattr(self, n)}" for n, holds, rule in rules if not holds]:
            raise ConfigError(problems)


@dataclass
class PrecisionOptions:
    """Variants of the bundle that compute in other numbers; none is kept that does the work less well.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    variants: tuple[Literal["fp16", "int8"], ...] = ()
    """fp16: half the file, for accelerators; int8: a quarter. On processors neither is sure to be faster: measure."""

    cases: int = 10
    """Labelled cases that are predicted both ways, those held out of the training first."""

    max_quality_loss: float = 0.005
    """Largest loss of the mean Dice, or of the AUROC, that is allowed."""

    min_agreement: float = 0.98
    """Smallest Dice with the masks of fp32 of any class in any case, or share of cases classified alike."""

    max_probability_change: float = 0.02
    """Largest change of the mean calibrated probability of a class that is allowed; the temperature is that of fp32."""

    max_distance_change: float = 0.1
    """Largest change of the gate's distance of an image, as a share, that is allowed; its threshold is that of fp32."""

    calibration_windows: int = 32
    """Windows on which the ranges of int8 are measured, of patients who are not among the cases above."""

    threads: int = 0
    """Threads of ONNX Runtime; 0 takes every processor this process may use."""

    def __post_init__(self) -> None:
        rules = [
            ("cases", self.cases >= 1, "must be 1 or more"),
            ("max_quality_loss", 0 <= self.max_quality_loss <= 0.05, "must lie in [0, 0.05]"),
            ("min_agreement", 0.8 <= self.min_agreement <= 1, "must lie in [0.8, 1]"),
            ("max_probability_change", 0 <= self.max_probability_change <= 0.1, "must lie in [0, 0.1]"),
            ("max_distance_change", 0 <= self.max_distance_change <= 0.5, "must lie in [0, 0.5]"),
            ("calibration_windows", self.calibration_windows >= 8, "must be 8 or more"),
            ("threads", self.threads >= 0, "must be 0 or more"),
        ]
        if problems := [f"precision.{n} {rule}, got {getattr(self, n)}" for n, holds, rule in rules if not holds]:
            raise ConfigError(problems)


@dataclass
class ConfidenceOptions:
    """What the bundle says of its own certainty; measured on patients that the networks have not learned from.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    measure: bool = True
    """Fit the temperature, the volume intervals and the gate; takes as long as predicting the cases below."""

    cases: int = 40
    """Cases held out of the training that are predicted, at most; 0 = all."""

    training_images: int = 100
    """Images of the training whose features the gate keeps, at most; 0 = all."""

    coverage: float = 0.9
    """Share of patients whose true volume is to lie within the interval."""

    quantile: float = 0.95
    """Share of patients like the training's of whom the gate is to let every image pass."""

    neighbours: int = 5
    """The distance to the training is that to this nearest of its images."""

    near: dict[str, Path] = field(default_factory=dict)
    """Folders of images that are nearly like the training's but must not pass (another sequence, another organ of the
    same modality), by a name each; how well the gate tells them is written into the bundle."""

    near_cases: int = 20
    """Images of each such kind that are measured, at most, flipped and cut ones included; 0 = all."""

    def __post_init__(self) -> None:
        rules = [
            ("cases", self.cases >= 0, "must be 0 or more"),
            ("training_images", self.training_images >= 0, "must be 0 or more"),
            ("near_cases", self.near_cases >= 0, "must be 0 or more"),
            ("coverage", 0.5 <= self.coverage < 1, "must lie in [0.5, 1)"),
            ("quantile", 0.5 <= self.quantile < 1, "must lie in [0.5, 1)"),
            ("neighbours", 1 <= self.neighbours < 20, "must lie in [1, 19]"),
        ]
        problems = [f"confidence.{n} {rule}, got {getattr(self, n)}" for n, holds, rule in rules if not holds]
        problems += [
            f"confidence.near {n}: {path} does not exist" for n, path in self.near.items() if not path.exists()
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def interval_patients(self) -> int:
        """Patients held out that intervals of this coverage need."""
        return math.ceil(self.coverage / (1 - self.coverage) - 1e-9)


@dataclass
class OperationOptions:
    """What is done with the network's answer in the clinic."""

    largest_component: tuple[int, ...] = ()
    """Label values of which only the largest connected part is kept."""

    mirror: Literal["model", "on", "off"] = "model"
    """Average over mirrored images: as stored in the model, along every axis, or not at all."""

    threshold: float | Literal["youden"] | None = None
    """Classification in two classes: probability from which the second one is called; `youden` takes that with the
    highest sensitivity + specificity on the validation cases. Left out, the more probable class is taken. What it
    costs on the validation cases is written into the bundle."""

    def __post_init__(self) -> None:
        if isinstance(self.threshold, float) and not 0 < self.threshold < 1:
            raise ConfigError([f"operation.threshold must lie in (0, 1), got {self.threshold}"])
