"""What a pretraining run draws from: a cache, or one of 2D and one of 3D cases."""

from dataclasses import dataclass

from medssl.data.augment import Augmentation
from medssl.data.cache import Cache, CachedCase
from medssl.data.dataset import CropPlan, StepDataset
from medssl.data.views import MultiView
from medssl.imaging.preprocess import Preprocess
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import SecondData, ViewOptions


@dataclass(frozen=True)
class Source:
    """A cache that is learned from, and what is drawn from it.

    Args:
        cache: Prepared cache.
        cases: Its cases that are learned from.
        views: Which crops are drawn and how they are varied.
        batch_size: Crops of a step, over all devices and parts.
        steps: Steps of the run that are of this cache.
        group: What its options' names begin with: empty, or `also.`.
    """

    cache: Cache
    cases: tuple[CachedCase, ...]
    views: ViewOptions
    batch_size: int
    steps: int
    group: str = ""

    @property
    def spatial_dims(self) -> int:
        """2 or 3, of what is drawn."""
        return self.cache.spatial_dims if self.views.slice_axis is None else 2

    @property
    def preprocess(self) -> Preprocess:
        """How the images that are drawn were prepared: of slices, in their plane."""
        axis, prepared = self.views.slice_axis, self.cache.preprocess
        return prepared if axis is None else prepared.of_slices(axis)

    @property
    def batch_option(self) -> str:
        """Name of the option that decides the batch."""
        return f"{self.group or 'train.'}batch_size"

    def dataset(self, parts: int, seed: int, batch_size: int | None = None) -> StepDataset:
        """Batches of a run; of another size where one is given.

        Raises:
            CacheError: No case to learn from.
        """
        views, size = self.views, self.batch_size if batch_size is None else batch_size
        plan = CropPlan(
            views.crop,
            size,
            parts,
            seed,
            foreground=views.foreground,
            min_std=views.min_std,
            partner=views.partner,
            slice_axis=views.slice_axis,
            slice_gap_mm=views.slice_gap_mm,
        )
        return StepDataset(self.cache, self.cases, plan)

    def augment(self, views: int, seed: int) -> Augmentation | MultiView:
        """How batches are varied, for a method that asks for `views` views."""
        if views == 1:
            return Augmentation(self.views.augment, seed)
        return MultiView(*self.views.groups(views), seed)


def make_sources(
    cache: Cache, views: ViewOptions, train: TrainOptions, also: SecondData, other: Cache | None
) -> tuple[Source, ...]:
    """One or two sources.

    Args:
        cache: First cache.
        views: What is drawn from it.
        train: Length and batch.
        also: Options of the second one.
        other: Second cache.
    """

    def cases(of: Cache, splits: tuple[str, ...]) -> tuple[CachedCase, ...]:
        return tuple(case for case in of.cases if case.split in splits)

    if other is None:
        return (Source(cache, cases(cache, views.splits), views, train.batch_size, train.steps),)
    theirs = int(train.steps * also.share)
    return (
        Source(cache, cases(cache, views.splits), views, train.batch_size, train.steps - theirs),
        Source(
            other, cases(other, also.views.splits), also.views, also.batch_size or train.batch_size, theirs, "also."
        ),
    )
