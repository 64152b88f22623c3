"""Images and targets that frozen features are judged on, from a prepared cache."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.segmentation_cases import left_out
from medssl.imaging.errors import CacheError

_TRIES = 50
_LEAST = 2
"""Images with either answer that a draw has at least."""
_SPLITS = ("train", "val", "test")
_SPARE = 0.9  # share of the free memory that images may take

Target = Literal["class", "structures"]

_WAY_OUT = (
    "Prepare again: with another --split or --seed, or patients moved in the manifest's column split, where it has one"
)
_MERGE = (
    "; or with the class merged into another in the column class, or left empty there, so that its cases are left out"
)
_WORDS: dict[Target, tuple[str, str]] = {
    "class": ("Images of class", _MERGE),
    "structures": (
        "Crops with more of the structure than the median crop",
        "; or take more crops of each case (crops)",
    ),
}


@dataclass(frozen=True)
class ProbeData:
    """What is probed.

    Args:
        images: (N, C, *S) float32, or (M, C, *S) where several belong together.
        targets: (N, K) bool, one column a question.
        names: Name of each column.
        splits: train, val or test of each image.
        patients: Patient of each image.
        bags: (M,) which of the N each image belongs to; None = each is one of its own.
        cases: Case of each of the N, of a bag its first.
    """

    images: Tensor
    targets: Tensor
    names: tuple[str, ...]
    splits: tuple[str, ...]
    patients: tuple[str, ...]
    bags: Tensor | None = None
    cases: tuple[CachedCase, ...] = ()

    def rows(self, *splits: str) -> Tensor:
        """Numbers of the images of some splits."""
        return torch.tensor([n for n, split in enumerate(self.splits) if split in splits])

    @property
    def exclusive(self) -> bool:
        """Whether each image is of exactly one of several classes."""
        return self.targets.shape[1] > 1 and bool((self.targets.sum(1) == 1).all())

    def images_in(self, split: str) -> Tensor:
        """Which of `images` are of a split, by number: whoever takes them all at once copies them."""
        rows = self.rows(split)
        return rows if self.bags is None else torch.isin(self.bags, rows).nonzero()[:, 0]


def room_for(count: int, cache: Cache, size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Room for (count, C, *size) that are to be read, once.

    Raises:
        CacheError: The machine has not so much memory free; how much it takes, and what to do.
    """
    shape = (count, len(cache.channels), *size)
    need, free = np.dtype(np.float32).itemsize * math.prod(shape), int(psutil.virtual_memory().available)
    if need > _SPARE * free:
        raise CacheError(
            f"{cache.path}: {count} images of {' x '.join(map(str, shape[1:]))} (channels, voxels) take "
            f"{need / 2**30:.3g} GiB of memory at once, and {free / 2**30:.3g} GiB are free: take a smaller size, "
            "fewer crops or slices of a case, or a manifest with fewer cases; or let medssl embed make the features, "
            "which reads a few images at a time",
            reason="out-of-memory",
        )
    return np.empty(shape, np.float32)


def read_probe_data(cache: Cache, size: Sequence[int], target: Target, crops: int = 1, seed: int = 0) -> ProbeData:
    """Read images and what is asked of them.

    `class`: the middle of each case of split train, val and test, and whether it is of each class (one column where
    there are two). `structures`: `crops` random crops of each case with a label map, and whether each structure fills
    more of the crop than of the median crop of split train.

    Args:
        cache: Prepared cache with splits.
        size: Voxels of an image; smaller cases are padded.
        target: What is asked.
        crops: Crops of each case, for `structures`.
        seed: Seed of the crops.

    Raises:
        CacheError: A split has no such case, a question has one answer only, or there is too little memory.
    """
    cases = [case for case in cache.cases if case.split in ("train", "val", "test") and _usable(cache, case, target)]
    kept = [case for case in cases for _ in range(crops if target == "structures" else 1)]
    images, answers = room_for(len(kept), cache, size), []
    rng = np.random.default_rng(seed) if target == "structures" else None
    for number, case in enumerate(kept):
        start = _start(case, size, rng)
        images[number] = cache.crop_image(case, start, tuple(size))
        answers.append(_answer(cache, case, start, size, target))
    splits, patients = tuple(case.split for case in kept), tuple(case.patient for case in kept)
    names = class_questions(cache) if target == "class" else tuple(label.name for label in cache.labels)
    values = np.array(answers, dtype=np.float64).reshape(len(answers), len(names))
    middle = np.median(values[[split == "train" for split in splits]], axis=0) if target == "structures" else 0.5
    targets = torch.from_numpy(values > middle)
    data = ProbeData(torch.from_numpy(images), targets, tuple(names), splits, patients, cases=tuple(kept))
    check_questions(cache, data, target)
    return data


def not_probed(cache: Cache, target: Target) -> list[str]:
    """What to say of cases that no probe is asked about, split by split: without an answer, or not prepared."""
    usable = [case for case in cache.cases if _usable(cache, case, target)]
    kind = "class" if target == "class" else "label map"
    return [text for split in _SPLITS for text in left_out(cache, split, [c for c in usable if c.split == split], kind)]


def class_questions(cache: Cache) -> tuple[str, ...]:
    """Classes that are asked for: all, or the second of two, since both are the same question."""
    return cache.classes[1:] if len(cache.classes) == 2 else cache.classes


def check_questions(cache: Cache, data: ProbeData, target: Target = "class") -> None:
    """Refuse a split without cases, or in which a question has one answer only.

    Raises:
        CacheError: Each such question, how many images of each split have which answer, and what to do.
    """
    answers = {}
    for split in _SPLITS:
        rows = data.rows(split)
        if not len(rows):
            raise CacheError(f"{cache.path}: no case of split {split} can be probed", reason="no-cases")
        answers[split] = len(rows), data.targets[rows].sum(0).tolist()
    found = [
        f"{name!r} ({', '.join(f'{split} {with_it[number]} of {all_}' for split, (all_, with_it) in answers.items())})"
        for number, name in enumerate(data.names)
        if any(with_it[number] in (0, all_) for all_, with_it in answers.values())
    ]
    if found:
        what, more = _WORDS[target]
        raise CacheError(
            f"{cache.path}: some of train, val and test have one answer only, where each needs an image with either. "
            f"{what}: {'; '.join(found)}. {_WAY_OUT}{more}",
            reason="one-class",
        )


def middle_crop(cache: Cache, case: CachedCase, size: Sequence[int]) -> npt.NDArray[np.float32]:
    """The middle (C, *S) of a case; axes that are too short are padded."""
    return cache.crop_image(case, _start(case, size, None), tuple(size)).astype(np.float32)


def draw_labelled(
    data: ProbeData, labels: int, draws: int, seed: int = 0, option: str = "frozen.labels"
) -> list[Tensor]:
    """Numbers of the images of split train that have labels, several times.

    Args:
        data: What is probed.
        labels: Images with labels in each draw, at least two with each answer to each question; 0 = all, once.
        draws: How many draws.
        seed: Seed of the draws.
        option: What the user calls `labels`.

    Raises:
        CacheError: Split train is too small for such a draw, or answers are too rare; which, and what to do.
    """
    train, rng = data.rows("train"), np.random.default_rng(seed)
    if labels == 0:
        return [train]
    found: list[Tensor] = []
    for _ in range(_TRIES * draws):
        rows = train[torch.from_numpy(rng.permutation(len(train))[:labels])]
        present = data.targets[rows].sum(0)
        if len(rows) == labels and bool(((present >= _LEAST) & (present <= labels - _LEAST)).all()):
            found.append(rows)
        if len(found) == draws:
            return found
    raise CacheError(_undrawn(data, labels, draws, len(found), option), reason="too-few")


def _undrawn(data: ProbeData, labels: int, draws: int, found: int, option: str) -> str:
    """Why so many images cannot be drawn: too few at all, or too few with an answer."""
    train = data.targets[data.rows("train")]
    if len(train) < labels:
        return f"{option} {labels}: split train has {len(train)} images: ask for at most so many, or for all with 0"
    with_it = train.sum(0).tolist()
    rarest = sorted(zip(data.names, with_it, strict=True), key=lambda one: min(one[1], len(train) - one[1]))
    named = ", ".join(f"{name!r} ({count} of {len(train)})" for name, count in rarest[:3])
    return (
        f"{option} {labels}: {found} of {draws} draws of {labels} of the {len(train)} images of split train succeeded "
        f"in {_TRIES * draws} tries; each needs at least {_LEAST} images with and {_LEAST} without each class or "
        f"structure asked for, and the most one-sided are {named}. Raise {option} (0 = all images), have more images "
        f"of the rarer answer in split train, or merge that class with another in the manifest's column class or "
        "leave it empty there, and prepare again"
    )


def _usable(cache: Cache, case: CachedCase, target: Target) -> bool:
    return case.class_name in cache.classes if target == "class" else case.has_label


def _start(case: CachedCase, size: Sequence[int], rng: np.random.Generator | None) -> tuple[int, ...]:
    """First voxel of a crop: the middle one, or a random one within the case; axes that are too short are centred."""
    room = [n - s for n, s in zip(case.shape, size, strict=True)]
    return tuple(int(rng.integers(r + 1)) if rng is not None and r > 0 else r // 2 for r in room)


def _answer(cache: Cache, case: CachedCase, start: tuple[int, ...], size: Sequence[int], target: Target) -> list[float]:
    if target == "class":
        return [float(case.class_name == name) for name in class_questions(cache)]
    label = cache.crop_label(case, start, tuple(size))
    return [float((label == structure.value).mean()) for structure in cache.labels]
