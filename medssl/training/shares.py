"""Which cases a fine-tuning learns from and which it is validated with: by patient, never a test case."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medssl.data.cache import Cache, CachedCase
from medssl.data.splits import folds, nested_subset
from medssl.imaging.errors import CacheError, ConfigError
from medssl.tasks.options import SubsetOptions

_TRAIN, _POOL = ("train", ""), ("train", "", "val")


@dataclass(frozen=True)
class Share:
    """The cases of one training.

    Args:
        name: Folder below the run, empty for the run itself.
        train: Cases to learn from.
        validation: Cases to validate with; may be empty.
    """

    name: str
    train: tuple[CachedCase, ...]
    validation: tuple[CachedCase, ...]

    def folder(self, out: Path) -> Path:
        """Where this training lies."""
        return out / self.name if self.name else out


def make_shares(cache: Cache, task: str, subset: SubsetOptions) -> list[Share]:
    """One share, or one a fold that is asked for.

    Without folds the manifest's split decides: train (and cases without a split) against val. With folds the labelled
    patients of both are dealt out anew, each held out once, classes evenly. `labels` takes the first patients of one
    seeded order of those that would be trained on, so a smaller number lies within a larger one, with about the
    classes' shares of all; a patient brings all its cases.

    Args:
        cache: Prepared cache.
        task: `segmentation`: cases with a label map; `classification`: cases with a class.
        subset: Numbers, folds, seed.

    Raises:
        ConfigError: No labelled case, more patients or folds asked for than there are, or one class only to learn from.
    """
    pool = labelled(cache, task, _POOL if subset.folds else _TRAIN)
    patients = [case.patient for case in pool]
    if not pool:
        kind = "a label map" if task == "segmentation" else "a class"
        raise ConfigError(
            [
                f"data {cache.path}: no case of split train has {kind}: add it to the manifest and prepare again, or "
                "prepare with --split 70/15/15"
            ]
        )
    groups = {case.patient: case.class_name for case in pool} if task == "classification" else None
    if subset.labels:
        patients = nested_subset(patients, subset.labels, subset.seed, groups)
    if not subset.folds:
        shares = [Share("", _of(pool, patients), labelled(cache, task, ("val",)))]
    else:
        held_out = [set(part) for part in folds(patients, subset.folds, subset.seed, groups)]
        shares = [
            Share(f"fold_{number}", _of(pool, set(patients) - held_out[number]), _of(pool, held_out[number]))
            for number in subset.numbers()
        ]
    if task == "classification":
        _refuse_one_class(cache, shares)
    return shares


def _refuse_one_class(cache: Cache, shares: Sequence[Share]) -> None:
    problems = []
    for share in shares:
        classes = {case.class_name for case in share.train}
        if len(classes) < 2:
            where = f" of {share.name}" if share.name else ""
            problems.append(
                f"data {cache.path}: the {len(share.train)} case(s) to learn from{where} are of class "
                f"{next(iter(classes), 'none')!r} only, so nothing can be told apart: take more --labels, fewer "
                "--folds, or other splits"
            )
    if problems:
        raise ConfigError(problems)


def never_seen(cache: Cache, task: str, share: Share) -> list[str]:
    """Classes, or structures of label maps, that no case to learn from has."""
    if task == "classification":
        return sorted(set(cache.classes) - {case.class_name for case in share.train})
    missing = {label.value: label.name for label in cache.labels}
    for case in share.train:
        if not missing:
            break
        with suppress(CacheError):  # a damaged case is told when it is drawn
            for value in cache.foreground(case):
                missing.pop(value, None)
    return list(missing.values())


def looked_at(cases: Sequence[CachedCase], most: int) -> tuple[CachedCase, ...]:
    """Cases that are validated with while a training goes on, at most so many (0: all), spread over the classes."""
    if not most or most >= len(cases):
        return tuple(cases)
    order = sorted(range(len(cases)), key=lambda n: cases[n].class_name)
    picked = {order[(2 * n + 1) * len(cases) // (2 * most)] for n in range(most)}
    return tuple(case for number, case in enumerate(cases) if number in picked)


def tells_apart(cache: Cache, task: str, cases: Sequence[CachedCase]) -> bool:
    """Whether a score of these cases can tell weights apart: they have two classes, or a label map with a structure."""
    if task == "classification":
        return len({case.class_name for case in cases}) > 1
    return any(cache.foreground(case) for case in cases)


def labelled(cache: Cache, task: str, splits: Sequence[str]) -> tuple[CachedCase, ...]:
    """Cases of some splits that the task can learn from."""
    return tuple(
        case
        for case in cache.cases
        if case.split in splits and (case.has_label if task == "segmentation" else case.class_name in cache.classes)
    )


def _of(cases: Sequence[CachedCase], patients: Sequence[str] | set[str]) -> tuple[CachedCase, ...]:
    wanted = set(patients)
    return tuple(case for case in cases if case.patient in wanted)
