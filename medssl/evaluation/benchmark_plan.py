"""What `medssl benchmark` compares; torch-free, so that mistakes are told at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from medssl.imaging.errors import ConfigError
from medssl.models.component import Overrides

_MIXED = "mixed"


@dataclass(frozen=True)
class SetPlan:
    """A set of images with something to ask of each."""

    name: str
    """Short name, also that of its folder."""

    images: str
    """Folder of the images, below the data folder."""

    target: Literal["class", "structures"]
    """`class`: the class of a whole image. `structures`: which structures fill more of a crop than of most crops."""

    size: tuple[int, ...]
    """Voxels of what is probed."""

    labels: str = ""
    """Folder of label maps with the names of the images, for `structures`."""

    table: str = ""
    """CSV with a row an image, below the data folder; without one every image is its own patient."""

    columns: dict[str, str] = field(default_factory=dict)
    """Manifest column (`image`, `class`, `patient`, `split`) to column of the table."""

    suffix: str = ""
    """What the table's image names lack, for instance `.nii.gz`."""

    exclude: dict[str, str] = field(default_factory=dict)
    """Rows of the table to leave out: column to value."""

    prepare: Overrides = field(default_factory=Overrides)
    """Options of `medssl prepare`; `config` names a configuration to start from."""

    crops: int = 4
    """Crops of each case, for `structures`."""

    labels_used: int = 0
    """Images of split train whose answers the probes learn from; 0 = all. Few labels are what pretraining is for, and
    with many of them random convolutions already tell much."""

    draws: int = 10
    """How often so many are drawn; probes are judged by their mean."""


@dataclass(frozen=True)
class FamilyPlan:
    """What all methods of a family share, so that none has a larger budget."""

    name: str
    """Name of the family."""

    changes: Overrides
    """Name of a set, or `mixed` for mixed methods, to the options of `medssl pretrain` that differ from the method's
    configuration there."""


@dataclass(frozen=True)
class MethodPlan:
    """A method in the comparison."""

    name: str
    """Name in the table."""

    family: str
    """Its family's name."""

    config: str
    """Configuration of `medssl pretrain` without its dimension: `simclr_unet` for `simclr_unet2d` and `..3d`."""

    changes: Overrides = field(default_factory=Overrides)
    """Options that differ from the configuration on every set."""

    on_set: Overrides = field(default_factory=Overrides)
    """Name of a set to the options that differ on it alone."""

    mixed: bool = False
    """Learns from one set of 2D and one of 3D images in one run, the first of each among the plan's `mixed_sets` and
    `sets`, and is judged on both; the configuration's name then ends with `_mixed`."""

    def config_for(self, images: SetPlan) -> str:
        """Whole name of the configuration for a set."""
        return f"{self.config}_mixed" if self.mixed else f"{self.config}{len(images.size)}d"


@dataclass(frozen=True)
class BenchmarkPlan:
    """Sets, methods and seeds.

    Raises:
        ConfigError: Names that are not there or there twice, or numbers that make no comparison, all at once.
    """

    sets: list[SetPlan]
    """Where features are judged."""

    families: list[FamilyPlan]
    """Budgets."""

    methods: list[MethodPlan]
    """What is compared."""

    seeds: int = 3
    """Seeds of each method, from 0."""

    random_seeds: int = 8
    """Encoders with random weights beside each method, seeds from 0. Random weights differ more than methods do."""

    mixed_sets: list[SetPlan] = field(default_factory=list)
    """Sets for mixed methods alone, for instance with as many channels as the set of the other dimensions."""

    def __post_init__(self) -> None:
        counts = {"seeds": self.seeds, "random_seeds": self.random_seeds}
        problems = [f"{name} must be 2 or more for an interval, got {n}" for name, n in counts.items() if n < 2]
        for kind, entries in (("sets", self.all_sets), ("families", self.families), ("methods", self.methods)):
            names = [entry.name for entry in entries]
            problems += [f"{kind}: {name} is there twice" for name in sorted({n for n in names if names.count(n) > 1})]
            problems += [] if names else [f"{kind}: none is named"]
        sets, families = {entry.name for entry in self.all_sets}, {entry.name for entry in self.families}
        for method in self.methods:
            if method.family not in families:
                problems.append(f"methods: {method.name} is of family {method.family!r}, known: {sorted(families)}")
        named = [("families", f.name, f.changes) for f in self.families]
        for kind, name, given in named + [("methods", m.name, m.on_set) for m in self.methods]:
            problems += [f"{kind}: {name} changes {s!r}, no set" for s in given.options if s not in {*sets, _MIXED}]
        if not problems:
            problems += [problem for method in self.methods for problem in self._wrong_budgets(method)]
        if any(method.mixed for method in self.methods) and {len(entry.size) for entry in self.all_sets} != {2, 3}:
            problems.append("methods: mixed ones need a set of 2D and one of 3D images")
        problems += [problem for entry in self.all_sets for problem in _wrong_set(entry)]
        if problems:
            raise ConfigError(problems)

    def _wrong_budgets(self, method: MethodPlan) -> list[str]:
        """Options of a method that no run has, and runs that its family says nothing of."""
        family = next(entry for entry in self.families if entry.name == method.family)
        where = [_MIXED] if method.mixed else [entry.name for entry in self.sets]
        own = _MIXED if method.mixed else "a set"
        return [
            f"methods: {method.name} changes {name!r} in on_set, where it has no run: it runs on {own}"
            for name in method.on_set.options
            if name not in where
        ] + [
            f"families: {family.name} says nothing of {name}, where {method.name} runs: methods would have budgets of "
            "their own"
            for name in where
            if name not in family.changes.options
        ]

    @property
    def all_sets(self) -> list[SetPlan]:
        """Sets of all methods, and those of mixed ones alone."""
        return [*self.sets, *self.mixed_sets]

    def groups(self, method: MethodPlan, names: Sequence[str] = ()) -> list[tuple[SetPlan, ...]]:
        """Sets that a method learns from, run by run; only those of these names, where any are given."""
        asked = [entry for entry in self.all_sets if not names or entry.name in names]
        if not method.mixed:
            return [(entry,) for entry in asked if entry in self.sets]
        preferred = [*self.mixed_sets, *self.sets]
        pair = [next((e for e in preferred if len(e.size) == dims), None) for dims in (2, 3)]
        found = tuple(entry for entry in pair if entry in asked)
        return [found] if len(found) == 2 else []

    def changes(self, method: MethodPlan, images: SetPlan) -> dict[str, Any]:
        """Options of a method's run on a set, the method's own over those of its family; of a mixed one on both."""
        family = next(entry for entry in self.families if entry.name == method.family)
        where = _MIXED if method.mixed else images.name
        common = merged(family.changes.options.get(where) or {}, method.changes.options)
        return merged(common, method.on_set.options.get(where) or {})


def merged(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `common`; a component with a class of its own replaces the other whole."""
    result = dict(common)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict) and "class_path" not in value
        result[key] = merged(result[key], value) if both else value
    return result


def _wrong_set(entry: SetPlan) -> list[str]:
    problems = [f"sets: {_MIXED} is no name for a set: it means both"] if entry.name == _MIXED else []
    if len(entry.size) not in (2, 3) or min(entry.size) < 1:
        problems.append(f"sets: {entry.name} size needs 2 or 3 positive numbers, got {entry.size}")
    if entry.target == "structures" and not entry.labels:
        problems.append(f"sets: {entry.name} needs the folder of its label maps (labels)")
    if entry.target == "class" and "class" not in entry.columns:
        problems.append(f"sets: {entry.name} needs the table's column of the class (columns)")
    if min(entry.crops, entry.draws) < 1 or entry.labels_used < 0:
        problems.append(f"sets: {entry.name} crops and draws must be 1 or more and labels_used 0 or more")
    return problems
