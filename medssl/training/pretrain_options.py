"""What pretraining sees of the images; torch-free, so that help is at once."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from medssl.data.augment_options import ViewAugment
from medssl.data.view_groups import Partner, ViewGroup
from medssl.imaging.errors import ConfigError


@dataclass(frozen=True)
class ViewOptions:
    """Which crops are drawn and how they are varied.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    group: ClassVar[str] = "views"
    """What the options' names begin with."""

    size: tuple[int, ...] = (32, 32, 32)
    """Crop size in voxels, one number a spatial axis, in the axis order of the prepared arrays."""

    min_std: float = 0.1
    """Crops with a smaller standard deviation in every channel (air) are drawn again, up to 8 times, unless they are
    centred on a structure; in units of the prepared images."""

    foreground: float = 0.0
    """Share of crops centred on a voxel of a labelled structure, of cases that have a label map; labels are not
    learned from."""

    splits: tuple[str, ...] = ("train", "")
    """Splits to learn from; the empty name is cases without a split. Never the test cases."""

    augment: ViewAugment = field(default_factory=ViewAugment)
    """How crops are varied; with several views a sample, the first of them, and the others where `second` is empty."""

    second: ViewAugment | None = None
    """How the second view is varied, for methods with two views."""

    source: tuple[int, ...] = ()
    """Crop that all views of a sample are taken from, for methods with several views; empty = `size`."""

    slice_axis: int | None = None
    """Learn a 2D encoder from slices of 3D cases: the axis of the prepared arrays, 0 to 2, that they lie across (2 in
    orientation RAS: axial slices, which lie as axial 2D images do in orientation PLS); `size` then has two numbers.
    None = crops of whole cases."""

    partner: Partner = "same"
    """What the second view shows, for methods with two views: a box of the `same` crop, or of the crop at the same
    place, relative to its size, of another case of the same `patient`: time points, or sequences in files of their
    own. `slice` with `slice_axis`: of a neighbouring slice. Where there is no other case or slice: the same crop."""

    slice_gap_mm: float = 0.0
    """Largest distance of the neighbouring slice, with `partner: slice`; the next one is always near enough."""

    extent: tuple[float, float] = (0.5, 1.0)
    """Lowest and highest side of a view's box, relative to the source's side; the box is resized to `size`. Papers give
    shares of the area: 0.2 to 1 there is 0.45 to 1 here, 0.08 is 0.28, and in 3D the same side is meant. Sides are
    drawn evenly, where papers draw areas evenly: of one range, views here are smaller on average."""

    aspect: float = 1.33
    """Largest ratio of a side of a view's box to its mean side."""

    local_views: int = 0
    """Further, smaller views a sample, for methods that use them."""

    local_size: tuple[int, ...] = ()
    """Voxels of a local view; empty = half of `size`."""

    local_extent: tuple[float, float] = (0.25, 0.5)
    """As `extent`, for local views."""

    local_augment: ViewAugment | None = None
    """How local views are varied; empty = as the first view, by `augment`."""

    def __post_init__(self) -> None:
        if problems := [*self._wrong_sizes(), *self._wrong_numbers()]:
            raise ConfigError(problems)

    def _wrong_sizes(self) -> list[str]:
        problems = []
        if self.slice_axis is not None and len(self.size) != 2:
            problems.append(f"{self.group}.size needs 2 numbers where slices are learned from, got {self.size}")
        for name in ("size", "source", "local_size"):
            value = getattr(self, name)
            if (value or name == "size") and (len(value) not in (2, 3) or any(n < 1 for n in value)):
                problems.append(f"{self.group}.{name} needs 2 or 3 positive numbers, got {value}")
            elif value and len(value) != len(self.size):
                problems.append(f"{self.group}.{name} {value} needs as many numbers as {self.group}.size {self.size}")
        return problems

    def _wrong_numbers(self) -> list[str]:
        rules = [
            ("foreground", 0 <= self.foreground <= 1, "must lie in [0, 1]"),
            ("min_std", self.min_std >= 0, "must be 0 or more"),
            ("extent", 0 < self.extent[0] <= self.extent[1] <= 1, "must rise between 0 and 1"),
            ("local_extent", 0 < self.local_extent[0] <= self.local_extent[1] <= 1, "must rise between 0 and 1"),
            ("aspect", self.aspect >= 1, "must be 1 or more"),
            ("local_views", self.local_views >= 0, "must be 0 or more"),
            ("local_augment", self.local_augment is None or self.local_views > 0, "needs local_views"),
            ("slice_axis", self.slice_axis in (None, 0, 1, 2), "must be 0, 1 or 2"),
            ("partner", self.partner != "slice" or self.slice_axis is not None, "needs slice_axis"),
            ("slice_gap_mm", self.slice_gap_mm >= 0, "must be 0 or more"),
            ("slice_gap_mm", self.slice_gap_mm == 0 or self.partner == "slice", "is for partner slice alone"),
            ("splits", "test" not in self.splits, "must not name test: what is measured there must not have been seen"),
        ]
        return [f"{self.group}.{name} {rule}, got {getattr(self, name)}" for name, holds, rule in rules if not holds]

    @property
    def crop(self) -> tuple[int, ...]:
        """What is read from the cache for each sample."""
        return self.source or self.size

    @property
    def augments(self) -> dict[str, ViewAugment]:
        """How views are varied, where that is given, by the names of the options."""
        given = {"augment": self.augment, "second": self.second, "local_augment": self.local_augment}
        return {name: augment for name, augment in given.items() if augment is not None}

    def groups(self, views: int) -> tuple[ViewGroup, ViewGroup | None]:
        """The views of a method that asks for `views` of them, and the local ones."""
        augments = (self.augment,) if self.second is None else (self.augment, self.second)
        main = ViewGroup(views, self.size, self.extent, self.aspect, augments)
        if not self.local_views:
            return main, None
        size = self.local_size or tuple(max(n // 2, 1) for n in self.size)
        return main, ViewGroup(
            self.local_views, size, self.local_extent, self.aspect, (self.local_augment or self.augment,)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: _plain(value) for name, value in content.items()}


@dataclass(frozen=True)
class SecondViewOptions(ViewOptions):
    """The same of a second cache."""

    group = "also.views"


@dataclass(frozen=True)
class SecondData:
    """A second cache, of the other dimension, for methods that learn from 2D and 3D images in one run.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    data: Path | None = None
    """Prepared cache; without it there is no second one, and the rest of this group must be left out."""

    views: SecondViewOptions = field(default_factory=SecondViewOptions)
    """Which crops are drawn of it and how they are varied."""

    share: float = 0.5
    """Share of the steps that are of this cache: 0.5 takes turns."""

    batch_size: int = 0
    """Crops of one of its steps, over all devices and accumulated parts together; 0 = `train.batch_size`."""

    def __post_init__(self) -> None:
        rules = [
            ("share", 0 < self.share < 1, "must lie between 0 and 1"),
            ("batch_size", self.batch_size >= 0, "must be 0 or more"),
        ]
        if problems := [f"also.{name} {rule}, got {getattr(self, name)}" for name, holds, rule in rules if not holds]:
            raise ConfigError(problems)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        return {
            "data": str(self.data and self.data.resolve()),
            "views": self.views.to_json(),
            "share": self.share,
            "batch_size": self.batch_size,
        }


def _plain(value: Any) -> Any:
    if isinstance(value, ViewAugment):
        return value.to_json()
    return list(value) if isinstance(value, tuple) else value
