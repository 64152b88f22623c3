"""What `medssl curve` compares; torch-free, so that mistakes are told at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_letters, digits
from typing import Any, Literal, TypeVar

from medssl.evaluation.benchmark_plan import merged
from medssl.imaging.errors import ConfigError
from medssl.models.component import Overrides

_ALLOWED = set(f"{ascii_letters}{digits}_- ")
_FOLDER_NAME = "is also a folder's name: letters, digits, blanks, - and _ only"

T = TypeVar("T", str, int)

Metric = Literal["dice", "auroc", "balanced_accuracy", "quadratic_kappa"]
Unit = Literal["cases", "patients"]


@dataclass(frozen=True)
class ImageSet:
    """Images without labels that an arm may be pretrained on."""

    name: str
    """Name that arms call it by."""

    images: str
    """Folder of images, below the data folder or absolute."""

    curate: Overrides = field(default_factory=Overrides)
    """Options of `medssl curate`, for instance `slices` and `likeness`."""

    prepare: Overrides = field(default_factory=Overrides)
    """Options of `medssl prepare` that differ from those of the study."""

    own: bool = True
    """Whether the training images of the study are among them."""


@dataclass(frozen=True)
class ArmPlan:
    """A way to get a network from the labelled cases."""

    name: str
    """Name in the tables."""

    pretrain: Overrides = field(default_factory=Overrides)
    """Options of `medssl pretrain`; `config` names a configuration to start from. Left out: from random weights."""

    images: str = ""
    """Name of the set of images that it is pretrained on; the study's training images when left out."""

    init: str = ""
    """Encoder file to start from instead, below the data folder or absolute."""

    finetune: Overrides = field(default_factory=Overrides)
    """Options of `medssl finetune` that differ from those of the plan."""

    longer_as: str = ""
    """Name of a pretrained arm: this one starts from random weights and spends that arm's pretraining time as well."""

    trials: list[Overrides] = field(default_factory=list)
    """Options that are tried on the validation patients; those of the plan when left out, as many in any case."""

    @property
    def pretrained(self) -> bool:
        """Whether it starts from pretrained weights."""
        return bool(self.init or self.pretrain.options)


@dataclass(frozen=True)
class StudyPlan:
    """Arms, numbers of labelled patients and seeds.

    Raises:
        ConfigError: Names that are not there or there twice, or numbers that make no comparison, all at once.
    """

    app: str
    """Application whose manifest and preparation make the cache from the data folder."""

    arms: list[ArmPlan]
    """What is compared."""

    reference: str
    """The arm that the others are compared with, for instance from random weights."""

    labels: list[int]
    """Numbers of labelled patients; a smaller number lies within a larger one."""

    metric: Metric
    """What is compared: mean Dice of the cases, or a number of all cases' class probabilities."""

    finetune: Overrides = field(default_factory=Overrides)
    """Options of `medssl finetune` for every arm; `config` names a configuration to start from."""

    prepare: Overrides = field(default_factory=Overrides)
    """Options of `medssl prepare` that differ from the application's."""

    image_sets: list[ImageSet] = field(default_factory=list)
    """Sets of images for pretraining, beside the study's own."""

    seeds: int = 3
    """Paired seeds, from 0: patients, weights, crops."""

    pretrainings: int = 1
    """Pretrainings of each arm, with seeds of their own; a seed starts from that of its number, from the first again
    where there are fewer."""

    split: str = "test"
    """Split that is evaluated, once for every network."""

    trials: list[Overrides] = field(default_factory=list)
    """Options, for instance learning rates, of which each arm takes the best on the validation patients; none: no
    choice is made."""

    trial_labels: int = 0
    """Labelled patients of the trials; 0 = the smallest number."""

    transferability: bool = True
    """Whether LogME, H-score and PED of each arm's encoder are set beside the results."""

    class_order: tuple[str, ...] = ()
    """Classes from the least to the most, for `quadratic_kappa`."""

    unit: Unit = "cases"
    """What counts once in a number of class probabilities: a case, or a patient with the mean of its cases'."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    """Further pairs of arms that are compared, the first with the second, for instance a pretrained arm with one that
    spends the pretraining's time on the labels; p-values are corrected over these as well."""

    profile: str = ""
    """Which of the application's profiles prepares; its default when empty."""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        sets = [images.name for images in self.image_sets]
        folders = [name.replace(" ", "_") for name in names]
        problems = [f"arms: {name} is there twice" for name in _twice(names)]
        problems += [
            f"arms: {' and '.join(n for n in names if n.replace(' ', '_') == folder)} would have one folder: rename one"
            for folder in _twice(folders)
            if folder not in _twice(names)
        ]
        problems += [f"image_sets: {name} is there twice" for name in _twice(sets)]
        problems += [f"image_sets: {name} {_FOLDER_NAME}" for name in sets if not set(name) <= _ALLOWED]
        problems += [] if len(names) > 1 else ["arms: two or more are needed"]
        problems += [] if self.reference in names else [f"reference {self.reference!r} is none of the arms {names}"]
        problems += [f"seeds must be 2 or more for an interval, got {self.seeds}"] if self.seeds < 2 else []
        if not 1 <= self.pretrainings <= max(self.seeds, 1):
            problems.append(f"pretrainings must be 1 to {self.seeds}, the number of seeds, got {self.pretrainings}")
        problems += [f"labels {n} must be 1 or more" for n in self.labels if n < 1]
        problems += [f"labels: {n} is there twice" for n in _twice(self.labels)]
        problems += [] if self.labels else ["labels: none is named"]
        problems += [f"trial_labels must be 0 or more, got {self.trial_labels}"] if self.trial_labels < 0 else []
        if self.trial_labels and not self.trials:
            problems.append("trial_labels is for trials, there are none: leave it out")
        if self.split not in ("val", "test"):
            problems.append(f"split must be val or test, got {self.split!r}: others are learned from")
        if self.metric == "quadratic_kappa" and len(self.class_order) < 2:
            problems.append("metric quadratic_kappa needs class_order")
        if self.metric == "dice" and self.class_order:
            problems.append("class_order is for classes, metric dice has none: leave it out")
        if self.metric == "dice" and self.unit == "patients":
            problems.append("unit patients is for class probabilities, metric dice has none: leave it out")
        problems += self._wrong_pairs(names)
        for arm in self.arms:
            problems += [f"arms: {arm.name} {problem}" for problem in self._wrong(arm)]
        if problems:
            raise ConfigError(problems)

    @property
    def task(self) -> str:
        """What the metric measures, `segmentation` or `classification`."""
        return "segmentation" if self.metric == "dice" else "classification"

    def _wrong_pairs(self, names: Sequence[str]) -> list[str]:
        problems = []
        for number, pair in enumerate(self.pairs):
            about = f"pairs: {list(pair)}"
            problems += [f"{about}: {name!r} is none of the arms {names}" for name in pair if name not in names]
            if pair[0] == pair[1]:
                problems.append(f"{about}: an arm is not compared with itself")
            elif self.reference in pair:
                problems.append(f"{about}: every arm is compared with the reference {self.reference!r}: leave it out")
            elif set(pair) in [set(other) for other in self.pairs[:number]]:
                problems.append(f"{about} is there twice")
        return problems

    def _wrong(self, arm: ArmPlan) -> list[str]:
        problems = []
        if not set(arm.name) <= _ALLOWED:
            problems.append(_FOLDER_NAME)
        if arm.trials and len(arm.trials) != len(self.trials):
            problems.append(f"has {len(arm.trials)} trials, the others {len(self.trials)}: all need as many")
        if arm.init and arm.pretrain.options:
            problems.append("has init and pretrain: choose one")
        if arm.images and not (arm.pretrain.options and arm.images in [images.name for images in self.image_sets]):
            problems.append(f"images {arm.images!r} must name one of image_sets, and it must have pretrain")
        pretrained = {other.name for other in self.arms if other.pretrain.options}
        if arm.longer_as and (arm.pretrained or arm.longer_as not in pretrained):
            problems.append(
                f"longer_as {arm.longer_as!r} must name an arm with pretrain, and start from nothing itself"
            )
        return problems

    def options(self, arm: ArmPlan, trial: int | None) -> dict[str, Any]:
        """Options of an arm's fine-tuning with one of its trials."""
        own = merged(self.finetune.options, arm.finetune.options)
        return own if trial is None else merged(own, (arm.trials or self.trials)[trial].options)


def _twice(values: Sequence[T]) -> list[T]:
    return sorted({value for value in values if values.count(value) > 1})
