"""What a network is fine-tuned to do and how; torch-free, so that help is at once."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from medssl.imaging.errors import ConfigError
from medssl.models.component import Component

LOSSES = {
    "segmentation": ("dice_ce", "ce", "bce", "dice_bce"),
    "classification": ("ce", "bce"),
}
"""Losses of each task; those with `bce` train each class against all others with a sigmoid."""


@dataclass
class NetworkOptions:
    """Encoder and decoder or head."""

    encoder: Component | None = None
    """Encoder and its arguments; left out, it is that of the file given with --init."""

    decoder: Component | None = None
    """Decoder (segmentation) or head (classification) and its arguments; left out, `UNetDecoder` or
    `ClassificationHead`."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        return {"encoder": self.encoder and self.encoder.to_json(), "decoder": self.decoder and self.decoder.to_json()}


@dataclass
class CropOptions:
    """Which crops are trained on; their size is the window of inference too.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    size: tuple[int, ...] = (64, 64, 64)
    """Crop size in voxels, one number a spatial axis, in the order of the prepared arrays (RAS: left to right first).
    Smaller images are padded."""

    foreground: float = 0.33
    """Share of crops centred near a voxel of a random class of the case, so that small structures are seen."""

    evenly: Literal["cases", "patients"] = "cases"
    """`cases`: every case is drawn equally often. `patients`: every patient is, by a random one of their cases, so that
    a patient with many cases does not count for more."""

    def __post_init__(self) -> None:
        problems = []
        if len(self.size) not in (2, 3) or any(n < 1 for n in self.size):
            problems.append(f"crops.size needs 2 or 3 positive numbers, got {self.size}")
        if not 0 <= self.foreground <= 1:
            problems.append(f"crops.foreground must lie in [0, 1], got {self.foreground}")
        if problems:
            raise ConfigError(problems)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        return {**asdict(self), "size": list(self.size)}


@dataclass
class TransferOptions:
    """How pretrained weights are taken over and trained on.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    decoder: bool = True
    """Take over the decoder as well, where the file of --init holds one that fits."""

    encoder_lr: float = 1.0
    """Learning rate of the encoder's last layer relative to the rest; `train.layer_decay` lowers it layer by layer. 0
    freezes the encoder, the statistics of its batch norms included."""

    frozen_steps: int = 0
    """First steps in which the encoder does not move, so that a fresh decoder does not spoil it; its batch norms use
    the pretraining's statistics as long."""

    thaw_steps: int = 0
    """Then the encoder's learning rate begins at a tenth of its own and doubles every so many steps until it is reached
    (Wolf et al. 2023, https://arxiv.org/abs/2308.06534, with Lightning's rule: every epoch); 0 = its own at once."""

    adapt: Literal["full", "lora", "bitfit"] = "full"
    """Which weights of the encoder are trained: all, low-rank changes (needs the extra `peft`), or biases alone. They
    are part of the plain weights when the model is written. Batch norms keep the pretraining's statistics."""

    lora: tuple[int, int, float] = (16, 16, 0.1)
    """Rank and alpha of the low-rank changes, and the share of inputs dropped in training."""

    def __post_init__(self) -> None:
        problems = []
        rank, alpha, dropout = self.lora
        if rank < 1 or alpha < 1 or not 0 <= dropout < 1:
            problems.append(f"transfer.lora needs rank 1 or more, alpha 1 or more, dropout in [0, 1), got {self.lora}")
        if self.adapt != "full" and self.encoder_lr == 0:
            problems.append(f"transfer.adapt {self.adapt} trains the encoder, encoder_lr 0 freezes it: choose one")
        if not 0 <= self.encoder_lr <= 10:
            problems.append(f"transfer.encoder_lr must lie in [0, 10], got {self.encoder_lr}; 0 freezes the encoder")
        if self.frozen_steps < 0:
            problems.append(f"transfer.frozen_steps must be 0 or more, got {self.frozen_steps}")
        if self.thaw_steps < 0:
            problems.append(f"transfer.thaw_steps must be 0 or more, got {self.thaw_steps}")
        if self.thaw_steps and self.encoder_lr == 0:
            problems.append("transfer.thaw_steps sets the encoder free, encoder_lr 0 freezes it: choose one")
        if problems:
            raise ConfigError(problems)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        return {**asdict(self), "lora": list(self.lora)}


@dataclass
class LabelAugmentOptions:
    """Self-supervised label augmentation of a classification: it learns class and transformation together (SLA).

    Each image of a batch is looked at under all transformations, so a step takes as many times longer. The network that
    is kept is a plain one, which a second head teaches.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    transforms: Literal["none", "quarter_turns", "half_turns", "mirror"] = "none"
    """Turns in the plane of two `axes` by 0, 90, 180 and 270 degrees, or by 0 and 180; or mirrorings along each choice
    of `axes`. Take only what can be seen in an image, and what leaves its class alone: where a class says a side, or
    both sides look alike, nothing that exchanges left and right (axis 0 of RAS+ images), half turns in an axial plane
    among them."""

    axes: tuple[int, ...] = (0, 1)
    """Spatial axes of the plane of turns, or those that are mirrored."""

    temperature: float = 1.0
    """Softens what the plain network learns from the other head."""

    @property
    def count(self) -> int:
        """Number of transformations, the image as it is among them."""
        mirrored = 1 << len(self.axes)  # each choice of axes
        return {"none": 1, "quarter_turns": 4, "half_turns": 2, "mirror": mirrored}[self.transforms]

    def __post_init__(self) -> None:
        problems = []
        if not self.axes or len(set(self.axes)) != len(self.axes) or not set(self.axes) <= {0, 1, 2}:
            problems.append(f"label_augment.axes must name spatial axes 0, 1 or 2, each once, got {self.axes}")
        elif self.transforms.endswith("turns") and len(self.axes) != 2:
            problems.append(f"label_augment.axes must name the 2 axes of a plane for turns, got {self.axes}")
        if not self.temperature > 0:
            problems.append(f"label_augment.temperature must be positive, got {self.temperature}")
        if problems:
            raise ConfigError(problems)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        return {**asdict(self), "axes": list(self.axes)}


@dataclass
class InferenceOptions:
    """How whole images are predicted, in validation and, stored with the model, in the clinic.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    overlap: float = 0.5
    """Share by which neighbouring windows overlap along each axis."""

    mirror_axes: tuple[int, ...] = ()
    """Average the prediction over mirrored images along these spatial axes and their combinations: 2 to 8 times the
    time. Only axes that were mirrored in training (`augment.flip_axes`)."""

    batch_size: int = 2
    """Windows predicted at once."""

    cases: int = 0
    """Validate on this many cases at most, the same ones each time, spread over the classes; 0 = all."""

    choose: Literal["best", "last"] = "best"
    """The model that is kept: `best` = highest validation score, the earlier one on a tie; `last` = the end of the
    training. Without validation cases, or where they are of one class or hold no structure, it is the last. Choose
    `last` to count labels honestly: validation labels are labels too."""

    def __post_init__(self) -> None:
        rules = [
            ("overlap", 0 <= self.overlap < 1, "must lie in [0, 1)"),
            ("batch_size", self.batch_size >= 1, "must be 1 or more"),
            ("cases", self.cases >= 0, "must be 0 or more"),
            (
                "mirror_axes",
                all(a in (0, 1, 2) for a in self.mirror_axes) and len(set(self.mirror_axes)) == len(self.mirror_axes),
                "must name spatial axes 0, 1 or 2, each once",
            ),
        ]
        if problems := [f"inference.{n} {rule}, got {getattr(self, n)}" for n, holds, rule in rules if not holds]:
            raise ConfigError(problems)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        return {**asdict(self), "mirror_axes": list(self.mirror_axes)}


@dataclass
class SubsetOptions:
    """Which patients are trained on and validated with.

    Args:
        labels: Take this many labelled patients of the training split, the first of one seeded order; 0 = all.
        folds: Number of folds; 0 = the manifest's own split into train and val.
        fold: One of them, or all.
        seed: Seed of the order and of the folds.

    Raises:
        ConfigError: Values that contradict one another, all at once.
    """

    labels: int = 0
    folds: int = 0
    fold: int | Literal["all"] = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.labels < 0:
            problems.append(f"labels must be 0 (all) or more, got {self.labels}")
        if self.folds < 0 or self.folds == 1:
            problems.append(f"folds must be 0 (none) or 2 and more, got {self.folds}")
        if self.fold != "all" and not 0 <= self.fold < self.folds:
            problems.append(f"fold must be `all` or a number from 0 to folds - 1, got {self.fold} of {self.folds}")
        if problems:
            raise ConfigError(problems)

    def numbers(self) -> list[int]:
        """Folds to train; empty without folds."""
        return list(range(self.folds)) if self.fold == "all" else ([self.fold] if self.folds else [])
