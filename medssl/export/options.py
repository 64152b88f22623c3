"""How a run becomes a bundle; torch-free, so that help is at once."""

from dataclasses import dataclass
from typing import Literal

from medssl.imaging.errors import ConfigError


@dataclass
class CardOptions:
    """What the bundle says of itself."""

    name: str = ""
    """Name of the model; the bundle's file name when empty."""

    intended_use: str = "Research on images like those it was trained on."
    """What the model is for, in a sentence."""

    licence: str = ""
    """Licence of the weights, and of the data behind them where it binds."""

    limits: tuple[str, ...] = ()
    """Known limits, a sentence each."""


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
