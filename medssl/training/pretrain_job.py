"""A pretraining run: what the user asked for, and its parts once they are built."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from medssl.data.augment import Augmentation
from medssl.data.turns import ByDimension, Turns
from medssl.data.views import MultiView
from medssl.imaging.errors import ConfigError
from medssl.methods.base import Method
from medssl.models.component import Component, resolve
from medssl.models.weights import LoadReport
from medssl.training.batches import StepSource
from medssl.training.components import check_component, completed
from medssl.training.loop import parts_of
from medssl.training.options import TrainOptions
from medssl.training.pretrain_checks import Problems, wrong_number
from medssl.training.pretrain_options import SecondData, ViewOptions
from medssl.training.pretrain_sources import Source

_OF_THE_RUN = ("seed", "steps", "batch_size")
"""Arguments of methods that the options of the run decide."""

_ONE = SecondData()


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Args:
        method: Self-supervised method.
        encoder: Encoder that it trains.
        views: Crops.
        train: Length, optimiser, house-keeping.
        init: Encoder file to start from; None = random weights.
        also: A second cache, if it has one.
    """

    method: Component
    encoder: Component
    views: ViewOptions
    train: TrainOptions
    init: Path | None = None
    also: SecondData = _ONE

    def check(self) -> None:
        """Refuse wrong class names and arguments before any data is read.

        Raises:
            ConfigError: All of them at once.
        """
        facts = ("spatial_dims", "in_channels", "image_size")
        problems = check_component("method", self.method, ("encoder", *_OF_THE_RUN))
        problems += check_component("encoder", self.encoder, facts)
        with suppress(ConfigError):  # told above
            problems += wrong_number(resolve(self.method.class_path), self.also.data is not None)
        if self.also.data is None and self.also != _ONE and not problems:
            problems.append("also: without also.data these options do nothing: leave them out, or give a second cache")
        if problems:
            raise ConfigError(problems)

    def fitted_to(self, sources: Sequence[Source]) -> "Settings":
        """The settings with the arguments that the data, the crops and the run decide.

        Raises:
            ConfigError: They contradict one another, all at once.
        """
        largest = max(sources, key=lambda source: source.spatial_dims)
        facts = {
            "spatial_dims": largest.spatial_dims,
            "in_channels": len(largest.cache.channels),
            "image_size": list(largest.views.size),
        }
        run = {name: getattr(self.train, name) for name in _OF_THE_RUN}
        problems = Problems()
        with problems.collected():
            encoder = completed("encoder", self.encoder, facts)
        with problems.collected():
            method = completed("method", self.method, run)
        problems.refuse()
        return replace(self, method=method, encoder=encoder)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        groups = {name: getattr(self, name).to_json() for name in ("method", "encoder", "views", "train")}
        also = {} if self.also.data is None else {"also": self.also.to_json()}
        return {**groups, **also, "init": None if self.init is None else str(self.init.resolve())}


@dataclass(frozen=True)
class Pretraining:
    """The parts of a run, built; `augments` has an entry a source, by their dimension."""

    settings: Settings
    sources: tuple[Source, ...]
    fabric: Fabric
    method: Method
    augments: dict[int, Augmentation | MultiView]
    report: LoadReport | None

    @property
    def augment(self) -> Augmentation | MultiView | ByDimension:
        """How a batch is varied."""
        return ByDimension(self.augments) if len(self.sources) > 1 else self.augments[self.sources[0].spatial_dims]

    def batches(self) -> StepSource:
        """The run's batches; of two sources, in turns.

        Raises:
            CacheError: No case to learn from.
        """
        train, also = self.settings.train, self.settings.also
        sets = [source.dataset(parts_of(self.fabric, train), train.seed) for source in self.sources]
        return sets[0] if len(sets) == 1 else Turns(sets[0], sets[1], also.share)
