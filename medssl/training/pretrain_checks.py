"""Whether method, backbone, crops and data fit one another: everything is told at once, before a run is started."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medssl.imaging.errors import CheckpointError, ConfigError
from medssl.methods.base import Method
from medssl.models.component import Component, resolve
from medssl.models.encoder import Encoder, MixedEncoder
from medssl.models.masked import has_batch_norm
from medssl.models.momentum import Teacher
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions
from medssl.training.pretrain_sources import Source

_NO_CASES = "no cases to train on: prepare cases with split train, or name their split in views.splits"
_UNUSED_WEIGHTS = "ddp_find_unused_parameters_true"


class Problems:
    """Sentences about what is wrong, collected to be told together.

    Args:
        found: What was found so far.
    """

    def __init__(self, found: Sequence[str] = ()) -> None:
        self._found = list(found)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Take in the mistakes and files that the block refuses; what follows in the block is left out."""
        try:
            yield
        except ConfigError as error:
            self._found += error.problems
        except CheckpointError as error:
            self._found.append(error.message)

    def add(self, found: Sequence[str]) -> None:
        """Take in sentences."""
        self._found += found

    def refuse(self) -> None:
        """Refuse where anything was found.

        Raises:
            ConfigError: All of it.
        """
        if self._found:
            raise ConfigError(list(dict.fromkeys(self._found)))


def contradictions(method: Component, sources: Sequence[Source], train: TrainOptions, parts: int) -> list[str]:
    """What can be told before anything is built.

    Args:
        method: Class and arguments of the method.
        sources: What is learned from.
        train: Length and batch.
        parts: Parts that a step's batch is computed in, over all devices.
    """
    problems = [problem for source in sources for problem in (*_wrong_crops(source), *_uneven(source, parts))]
    problems += [f"{source.cache.path}: {_NO_CASES}" for source in sources if not source.cases]
    problems += _wrong_pair(sources, train, parts > train.accumulate)
    for source in sources:
        problems += _missing_axes(source)
        for augment in source.views.augments.values():
            problems += augment.misfits(len(source.cache.channels), source.cache.preprocess.intensity)
    kind = resolve(method.class_path)
    if not issubclass(kind, Method):
        return [*problems, f"method: {method.class_path} is no self-supervised method"]
    if not hasattr(kind, "card"):
        return [*problems, f"method: {method.class_path} has no card, which names its paper, family and dimensions"]
    problems += wrong_number(kind, len(sources) > 1)
    return problems + [problem for source in sources for problem in _not_for(kind, source, parts)]


def wrong_number(method: type, mixed: bool) -> list[str]:
    """A sentence where a method wants both dimensions and the run has one, or the other way round."""
    wants = getattr(method, "mixed", False)
    if wants and not mixed:
        return [
            f"method: {method.__name__} learns from 2D and 3D images in one run: give the cache of the other dimension "
            "with --also.data"
        ]
    if mixed and not wants:
        return [
            f"also: {method.__name__} learns from one cache: leave this group out, or use a method for both, such "
            "as uni4eye"
        ]
    return []


def _wrong_pair(sources: Sequence[Source], train: TrainOptions, several: bool) -> list[str]:
    """What keeps two caches from being learned from in one run."""
    if len(sources) < 2:
        return []
    problems = []
    first, second = (source.cache for source in sources)
    dims = {source.spatial_dims for source in sources}
    if len(dims) == 1:
        problems.append(f"also.data: what is drawn from {first.path} and {second.path} is all {dims.pop()}D")
    if len(first.channels) != len(second.channels):
        both = " and ".join(f"{len(c.channels)} ({', '.join(c.channels)}) in {c.path}" for c in (first, second))
        problems.append(f"also.data: images of both caches must have as many channels, there are {both}")
    if several and train.strategy != _UNUSED_WEIGHTS:
        problems.append(
            f"train.strategy must be {_UNUSED_WEIGHTS} where several devices learn from 2D and 3D: in each step the "
            f"weights of one dimension have no gradient; got {train.strategy}"
        )
    return problems


def _missing_axes(source: Source) -> list[str]:
    """A sentence for each way of varying views that mirrors along an axis that they do not have."""
    return [
        f"{source.group}views.{option}.flip_axes {list(augment.flip_axes)} names an axis that {source.spatial_dims}D "
        f"images lack: their axes are {', '.join(map(str, range(source.spatial_dims)))}"
        for option, augment in source.views.augments.items()
        if max(augment.flip_axes, default=0) >= source.spatial_dims
    ]


def _uneven(source: Source, parts: int) -> list[str]:
    if source.batch_size % parts == 0:
        return []
    return [
        f"{source.batch_option} {source.batch_size} must divide by devices x nodes x accumulate = {parts}: every "
        "device computes the same share"
    ]


def _not_for(method: type[Method], source: Source, parts: int) -> list[str]:
    """What a method cannot do with a source."""
    problems, cache = [], source.cache
    if source.spatial_dims not in method.card.spatial_dims:
        runs = " and ".join(f"{dims}D" for dims in method.card.spatial_dims)
        problems.append(f"method: {method.__name__} runs in {runs}, {cache.path} is {source.spatial_dims}D")
    if source.batch_size // parts < method.least_batch:
        problems.append(
            f"{source.batch_option} {source.batch_size} in {parts} part(s) leaves fewer than {method.least_batch} "
            f"samples at a time: {method.__name__} compares samples with one another; use a larger batch or fewer parts"
        )
    return problems + unused_views(method, source.views, source.group)


def unused_views(method: Method | type[Method], views: ViewOptions, group: str = "") -> list[str]:
    """Options for views that the method does not use: an option that does nothing is a mistake.

    Of a class, those that its methods never use; of a method, those that it does not use with its own options.
    """
    name = (method if isinstance(method, type) else type(method)).__name__
    problems = []
    if views.local_views and not method.local_views:
        problems.append(f"{group}views.local_views {views.local_views}: {name} makes no use of local views")
    if method.views == 1 and views.source:
        problems.append(f"{group}views.source: {name} has one view, the crop of views.size itself")
    if method.views == 1 and views.second is not None:
        problems.append(f"{group}views.second: {name} has one view")
    if method.views == 1 and views.partner != "same":
        problems.append(f"{group}views.partner {views.partner}: {name} has one view")
    problems += [
        f"{group}views.{option} {getattr(views, option)}: {name} has one view, the whole crop; "
        f"{group}views.augment.scale and stretch vary its size"
        for option in ("extent", "aspect")
        if method.views == 1 and getattr(views, option) != getattr(ViewOptions, option)
    ]
    return problems + (_moved_places(name, views, group) if method.places else [])


def _moved_places(name: str, views: ViewOptions, group: str) -> list[str]:
    """Options after which a place of one view is another one of the other, without the method's knowing."""
    problems = []
    if views.partner != "same":
        problems.append(
            f"{group}views.partner {views.partner}: {name} learns that places of both views are one, and other images "
            "have them elsewhere; leave it at same"
        )
    return problems + [
        f"{group}views.{option}.elastic_p {augment.elastic_p:g}: {name} is not told where elastic changes move a "
        "place; leave it at 0"
        for option, augment in views.augments.items()
        if augment.elastic_p
    ]


def unlike_helpers(method: Method, source: Source) -> list[str]:
    """Sentences where a run that the method asks was made from images that were prepared otherwise."""
    return [
        f"{helper.option} {helper.file}: its images had {name} {then}, these have {now}: it knows only places of "
        "images prepared alike; prepare these so, or pretrain it on these"
        for helper in method.helpers
        for name, (then, now) in source.preprocess.differences(helper.preprocess.to_json()).items()
    ]


def try_out(method: Method, source: Source, augment: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Let the method see two empty crops: sizes that do not divide are told before a run is started.

    Raises:
        ConfigError: The method cannot compute crops of this size.
    """
    size = source.views.crop
    method.eval()
    batch = {"image": torch.zeros(2, len(source.cache.channels), *size), "step": torch.tensor(0)}
    batch |= {"index": torch.arange(2), "patient": torch.arange(2)}
    batch["spacing_mm"] = torch.ones(2, source.spatial_dims, dtype=torch.float64)
    try:
        with torch.no_grad():
            method(augment(batch))
    except (ValueError, RuntimeError, AssertionError) as error:
        raise _cannot(f"{type(method).__name__} on {type(method.encoder).__name__}", source, error) from error


def try_encoder(encoder: nn.Module, method: Component, source: Source) -> None:
    """Let the encoder of a method that could not be built see an empty crop, where it would see crops of `views.size`.

    Raises:
        ConfigError: It cannot compute crops of this size.
    """
    if getattr(resolve(method.class_path), "cuts_crops", False) or not isinstance(encoder, Encoder | MixedEncoder):
        return
    image = torch.zeros(1, len(source.cache.channels), *source.views.size)
    try:
        with torch.no_grad():
            encoder.eval().embed(image)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise _cannot(type(encoder).__name__, source, error) from error


def split_teachers(method: Method, train: TrainOptions) -> list[str]:
    """A sentence where a moving average would follow weights that a strategy splits over devices."""
    if "fsdp" not in train.strategy or not any(isinstance(module, Teacher) for module in method.modules()):
        return []
    return [
        f"train.strategy {train.strategy} splits weights over devices, and the teacher of {type(method).__name__}, a "
        "moving average, needs them whole: use ddp"
    ]


def too_few(method: Method, sources: Sequence[Source], train: TrainOptions) -> None:
    """Refuse parts of a batch that are too small for the method's arguments, and cases of too few patients.

    Raises:
        ConfigError: They are.
    """
    problems = [
        problem
        for source in sources
        for problem in method.misfits(source.batch_size // train.accumulate, source.spatial_dims)
    ]
    problems += [p for source in sources for p in _lone_patient(method, source)]
    if problems:
        raise ConfigError(problems)


def _lone_patient(method: Method, source: Source) -> list[str]:
    """A sentence where samples would have to be told apart from those of patients that there are not."""
    patients = {case.patient for case in source.cases}
    if not 0 < len(patients) < method.least_patients:
        return []
    cases = f"all {len(source.cases)} case(s) of splits {list(source.views.splits)} in {source.cache.path}"
    return [
        f"method: {type(method).__name__} contrasts samples with those of other patients, and {cases} are of one: this "
        "loss would be 0 throughout; take more patients, or set method.init_args.same_patient"
    ]


def notes(method: Method, sources: Sequence[Source], train: TrainOptions) -> list[str]:
    """What should be known before a run starts, though nothing forbids it."""
    found = method.notes(sum(len(source.cases) for source in sources))
    name, parts, what = type(method).__name__, train.accumulate, "the loss" if method.over_batch else "batch norm"
    if parts > 1 and (method.over_batch or has_batch_norm(method)):
        sizes = " and ".join(f"{source.batch_size // parts} of {source.batch_size}" for source in sources)
        found.append(
            f"train.accumulate {parts}: {what} of {name} is over the samples of one part, {sizes}, "
            "so the step is not that of the whole batch; where memory allows take fewer parts, or more devices"
        )
    return found


def _cannot(names: str, source: Source, error: Exception) -> ConfigError:
    told = f"{names} cannot compute crops of {source.views.size} ({error}); use larger crops or fewer levels"
    return ConfigError([f"{source.group}views.size: {told}"])


def _wrong_crops(source: Source) -> list[str]:
    views, cache, group = source.views, source.cache, source.group
    if views.slice_axis is not None and cache.spatial_dims == 2:
        return [f"{group}views.slice_axis {views.slice_axis}: {cache.path} is 2D, its images are no stacks of slices"]
    if len(views.size) != source.spatial_dims:
        wanted = f"{cache.spatial_dims} numbers: {cache.path} is {cache.spatial_dims}D"
        return [f"{group}views.size {views.size} needs {wanted}"]
    problems = []
    name = f"{group}views.source" if views.source else f"{group}views.size"
    axes = [axis for axis in range(cache.spatial_dims) if axis != views.slice_axis]
    for axis, wanted_size in zip(axes, views.crop, strict=True):
        longest = max((case.shape[axis] for case in source.cases), default=wanted_size)
        if longest < wanted_size:
            problems.append(
                f"{name} {views.crop} is larger than every case along axis {axis}, where the longest has {longest} "
                "voxels: the rest of every crop would be padding; use smaller crops"
            )
    if not source.cases:
        return problems
    if views.partner == "patient" and len({case.patient for case in source.cases}) == len(source.cases):
        problems.append(
            f"{group}views.partner patient: every patient in splits {list(views.splits)} of {cache.path} has one case; "
            "all cases of one person need one name in the manifest's column patient"
        )
    if views.foreground and not any(cache.foreground(case) for case in source.cases if case.has_label):
        problems.append(
            f"{group}views.foreground {views.foreground}: no case of splits {list(views.splits)} in {cache.path} has a "
            "labelled structure to centre crops on; leave it at 0"
        )
    return problems
