"""How a run is evaluated; torch-free, so that help is at once."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from medssl.imaging.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
"""Where a network or an encoder computes; `auto` takes a GPU where there is one."""


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

    device: Device = "auto"
    """Where the network or the encoder computes; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError([f"predict.batch_size must be 1 or more, got {self.batch_size}"])


_TARGETS = {
    "crops": ("structures",),
    "bags": ("class",),
    **dict.fromkeys(("labels", "draws", "shots", "episodes", "blocks"), ("class", "structures")),
    **dict.fromkeys(("landmarks", "templates", "within_mm"), ("landmarks",)),
}
"""Option of `FrozenOptions` to the targets for which it does something, where that is not all."""
_OF_SLICES = ("slice_axis", "slices")


@dataclass
class FrozenOptions:
    """How an encoder is judged as it is, without fine-tuning.

    Raises:
        ConfigError: Values outside their range, or options that do nothing for the target.
    """

    target: Literal["class", "structures", "landmarks", "prompt"] = "class"
    """`class`: the class of a whole image. `structures`: which structures fill more of a crop than of most crops.
    `landmarks`: where points of a template lie in other cases. `prompt`: a structure segmented from one of its patches,
    by similarity."""

    size: tuple[int, ...] = ()
    """Voxels of what is probed, the middle of a case; that of the pretraining's crops when left out."""

    crops: int = 4
    """Crops of each case, for `structures`."""

    labels: tuple[int, ...] = (0,)
    """Numbers of labelled images that the probes learn from; 0 = all of split train."""

    draws: int = 5
    """How often so many are drawn; the mean counts."""

    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Images of each class for prototypes; numbers that split train cannot give are left out, with a warning."""

    episodes: int = 100
    """Draws of each number of shots."""

    blocks: tuple[int, ...] = (1, 4)
    """Of a vision transformer the linear probe also tries the class tokens of so many last blocks, with and without the
    mean of the patches (DINOv2's grid); none: `[]`."""

    bags: Literal["none", "slices", "study", "patient"] = "none"
    """`slices`: a 2D encoder sees the slices of a volume; `study`, `patient`: all cases of a visit or slide (the
    manifest's column study), or of a patient, are asked about together. Features are averaged over a bag, and
    attention over it is a probe of its own."""

    slice_axis: int | None = None
    """Axis of the volume that counts its slices; that of the pretraining when left out, or 2 where it had none."""

    slices: int = 32
    """At most so many of a volume, evenly spaced."""

    landmarks: str = ""
    """CSV file with the columns case, name, x, y, z (RAS+ mm); the centres of the labels' structures when left out."""

    templates: int = 3
    """Cases of split train whose landmarks are looked for in the cases that are evaluated, one after the other."""

    within_mm: tuple[float, ...] = (2.0, 5.0, 10.0)
    """Distances within which landmarks are counted as found."""

    random_seeds: int = 3
    """Encoders of the same architecture with random weights beside it."""

    def __post_init__(self) -> None:
        rules = [
            ("size", all(n > 0 for n in self.size) and len(self.size) in (0, 2, 3), "needs 2 or 3 positive numbers"),
            ("labels", bool(self.labels) and all(n >= 0 for n in self.labels), "needs numbers, 0 (all) or more"),
            ("shots", all(n > 0 for n in self.shots), "must be 1 or more"),
            ("blocks", all(n > 0 for n in self.blocks), "must be 1 or more"),
            ("slice_axis", self.slice_axis in (None, 0, 1, 2), "must be 0, 1 or 2"),
            *((name, getattr(self, name) >= 1, "must be 1 or more") for name in
              ("crops", "draws", "episodes", "slices", "templates", "random_seeds")),
            ("within_mm", bool(self.within_mm) and all(n > 0 for n in self.within_mm), "needs positive distances"),
            *((name, self.target in targets or self._is_default(name), f"needs target {' or '.join(targets)}")
              for name, targets in _TARGETS.items()),
            *((name, self.bags == "slices" or self._is_default(name), "needs bags slices") for name in _OF_SLICES),
        ]  # fmt: skip
        if problems := [f"frozen.{n} {rule}, got {getattr(self, n)}" for n, holds, rule in rules if not holds]:
            raise ConfigError(problems)

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == getattr(FrozenOptions, name))


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
    """Bootstrap resamples of the intervals of classification, single lesions, probes of an encoder and landmarks; those
    of means and their differences (Dice, structures from one patch) use 5000 always. Also swaps of patients in the
    paired tests of two classifiers and of landmarks."""

    def __post_init__(self) -> None:
        problems = []
        if not self.tolerance_mm >= 0:
            problems.append(f"measure.tolerance_mm must be 0 or more, got {self.tolerance_mm}")
        if self.resamples < 100:
            problems.append(f"measure.resamples must be 100 or more, got {self.resamples}; fewer are not stable")
        if problems:
            raise ConfigError(problems)


@dataclass
class EmbedOptions:
    """What is made of an image by an encoder as it is.

    Raises:
        ConfigError: Values outside their range.
    """

    size: tuple[int, ...] = ()
    """Voxels of what the encoder sees, the middle of a case; that of the pretraining's crops when left out."""

    pooling: Literal["mean", "peak", "levels", "summary"] = "mean"
    """Of the deepest map `mean`, or `peak` (mean and maximum); means of all maps (`levels`); the class token, where
    there is one (`summary`)."""

    volumes: Literal["mean", "each"] = "mean"
    """For a 2D encoder on volumes: the mean over the slices, or each slice as a row of its own."""

    slice_axis: int | None = None
    """Axis of the volume that counts its slices; that of the pretraining when left out, or 2 where it had none."""

    slices: int = 32
    """At most so many of a volume, evenly spaced."""

    def __post_init__(self) -> None:
        problems = []
        if len(self.size) not in (0, 2, 3) or any(n < 1 for n in self.size):
            problems.append(f"embed.size needs 2 or 3 positive numbers, got {self.size}")
        if self.slice_axis not in (None, 0, 1, 2):
            problems.append(f"embed.slice_axis must be 0, 1 or 2, got {self.slice_axis}")
        if self.slices < 1:
            problems.append(f"embed.slices must be 1 or more, got {self.slices}")
        if problems:
            raise ConfigError(problems)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {**asdict(self), "size": list(self.size)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "EmbedOptions":
        """Inverse of `to_json`."""
        return cls(**{**content, "size": tuple(content["size"])})


@dataclass
class LesionOptions:
    """Whether single lesions are counted, and when one is found.

    Raises:
        ConfigError: Values outside their range.
    """

    labels: tuple[str, ...] = ()
    """Labels whose connected parts are lesions, or `all`; none when left out. For structures that come in several
    pieces, such as metastases or bleedings, not for organs."""

    threshold: float = 0.1
    """Probability above which a voxel belongs to a candidate: low, so that unsure candidates have a low score instead
    of none; lesions that touch at this level are one candidate."""

    match: Literal["iou", "dice", "any"] = "iou"
    """What is compared with `overlap`: intersection over union or Dice of candidate and lesion; `any`: a voxel."""

    overlap: float = 0.1
    """Least overlap of a candidate with the lesion that it finds."""

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.threshold < 1:
            problems.append(f"lesions.threshold must lie between 0 and 1, got {self.threshold}")
        if not 0 < self.overlap <= 1:
            problems.append(f"lesions.overlap must lie in (0, 1], got {self.overlap}; match any asks for one voxel")
        if problems:
            raise ConfigError(problems)
