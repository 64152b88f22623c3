"""Whether method, backbone, crops and data fit one another: everything is told at once, before a run is started."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor

from medssl.data.cache import Cache, CachedCase
from medssl.imaging.errors import ConfigError
from medssl.methods.base import Method
from medssl.models.component import Component, resolve
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions


class Problems:
    """Sentences about what is wrong, collected to be told together.

    Args:
        found: What was found so far.
    """

    def __init__(self, found: Sequence[str] = ()) -> None:
        self._found = list(found)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Take in the mistakes that the block refuses; what follows in the block is left out."""
        try:
            yield
        except ConfigError as error:
            self._found += error.problems

    def refuse(self) -> None:
        """Refuse where anything was found.

        Raises:
            ConfigError: All of it.
        """
        if self._found:
            raise ConfigError(list(dict.fromkeys(self._found)))


def contradictions(
    method: Component, views: ViewOptions, train: TrainOptions, cache: Cache, cases: Sequence[CachedCase], parts: int
) -> list[str]:
    """What can be told before anything is built.

    Args:
        method: Class and arguments of the method.
        views: Crops.
        train: Length and batch.
        cache: Prepared cache.
        cases: Its cases that are learned from.
        parts: Parts that a step's batch is computed in, over all devices.
    """
    problems = _wrong_crops(views, cache, cases)
    for augment in filter(None, (views.augment, views.second)):
        problems += augment.misfits(len(cache.channels), cache.preprocess.intensity)
    if train.batch_size % parts:
        problems.append(
            f"train.batch_size {train.batch_size} must divide by devices x nodes x accumulate = {parts}: every device "
            "computes the same share"
        )
    kind = resolve(method.class_path)
    if not issubclass(kind, Method):
        return [*problems, f"method: {method.class_path} is no self-supervised method"]
    if not hasattr(kind, "card"):
        return [*problems, f"method: {method.class_path} has no card, which names its paper, family and dimensions"]
    if cache.spatial_dims not in kind.card.spatial_dims:
        runs = " and ".join(f"{dims}D" for dims in kind.card.spatial_dims)
        problems.append(f"method: {kind.__name__} runs in {runs}, {cache.path} is {cache.spatial_dims}D")
    if train.batch_size // parts < kind.least_batch:
        problems.append(
            f"train.batch_size {train.batch_size} in {parts} part(s) leaves fewer than {kind.least_batch} samples at a "
            f"time: {kind.__name__} compares samples with one another; use a larger batch or fewer parts"
        )
    return problems + unused_views(kind, views)


def unused_views(method: type[Method], views: ViewOptions) -> list[str]:
    """Options for views that the method does not use: an option that does nothing is a mistake."""
    name = method.__name__
    problems = []
    if views.local_views and not method.local_views:
        problems.append(f"views.local_views {views.local_views}: {name} makes no use of local views")
    if method.views == 1 and views.source:
        problems.append(f"views.source: {name} has one view, the crop of views.size itself")
    if method.views == 1 and views.second is not None:
        problems.append(f"views.second: {name} has one view")
    if method.views == 1 and views.partner != "same":
        problems.append(f"views.partner {views.partner}: {name} has one view")
    return problems


def try_out(
    method: Method, channels: int, size: tuple[int, ...], augment: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    """Let the method see two empty crops: sizes that do not divide are told before a run is started.

    Raises:
        ConfigError: The method cannot compute crops of this size.
    """
    method.eval()
    batch = {"image": torch.zeros(2, channels, *size), "step": torch.tensor(0)}
    batch |= {"index": torch.arange(2), "patient": torch.arange(2)}
    try:
        with torch.no_grad():
            method(augment(batch))
    except (ValueError, RuntimeError) as error:
        _cannot(method, size, error)


def _cannot(method: Method, size: tuple[int, ...], error: Exception) -> NoReturn:
    names = f"{type(method).__name__} on {type(method.encoder).__name__}"
    told = f"views.size: {names} cannot compute crops of {size} ({error}); use larger crops or fewer levels"
    raise ConfigError([told]) from error


def _wrong_crops(views: ViewOptions, cache: Cache, cases: Sequence[CachedCase]) -> list[str]:
    if len(views.size) != cache.spatial_dims:
        wanted = f"{cache.spatial_dims} numbers: {cache.path} is {cache.spatial_dims}D"
        return [f"views.size {views.size} needs {wanted}"]
    problems = []
    name = "views.source" if views.source else "views.size"
    for axis, wanted_size in enumerate(views.crop):
        longest = max((case.shape[axis] for case in cases), default=wanted_size)
        if longest < wanted_size:
            problems.append(
                f"{name} {views.crop} is larger than every case along axis {axis}, where the longest has {longest} "
                "voxels: the rest of every crop would be padding; use smaller crops"
            )
    if views.partner == "patient" and len({case.patient for case in cases}) == len(cases):
        problems.append(
            f"views.partner patient: every patient in splits {list(views.splits)} of {cache.path} has one case; all "
            "cases of one person need one name in the manifest's column patient"
        )
    if views.foreground and not any(cache.foreground(case) for case in cases if case.has_label):
        problems.append(
            f"views.foreground {views.foreground}: no case of splits {list(views.splits)} in {cache.path} has a "
            "labelled structure to centre crops on; leave it at 0"
        )
    return problems
