"""Training batches as a pure function of their number, so that a resumed run sees what it would have seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medssl.data.cache import Cache, CachedCase
from medssl.data.view_groups import Partner
from medssl.imaging.errors import CacheError

_TRIES = 8

Evenly = Literal["cases", "patients"]


@dataclass(frozen=True)
class CropPlan:
    """Which crops to draw.

    Args:
        size: Crop size in voxels, one number a spatial axis of the crop.
        batch_size: Crops of one optimiser step over all parts.
        parts: Parts of a step's batch: devices x accumulated parts; each `__getitem__` gives one part.
        seed: Seed of the run.
        labels: Add `label` (B, *S) int64, `OUTSIDE` outside the image (cases without a label get the ignore value
            everywhere).
        classes: Add `class_index` (B,) int64.
        foreground: Share of crops centred near a voxel of a random class of the case; the rest anywhere, and those of
            cases that have no such voxel.
        evenly: `cases`: an epoch has every case once. `patients`: it has every patient once, by a random one of the
            patient's cases, so that one with many cases does not count for more.
        min_std: Crops whose standard deviation is below it in every channel are drawn again, at most 8 times: air
            teaches nothing. Those that are centred near a voxel of a class stay.
        partner: `patient` adds `partner` (B, C, *S): the crop at the same place, relative to its size, of another case
            of the same patient, and that case's `partner_spacing_mm` (B, D). `slice` adds the crop at the same place of
            a neighbouring slice. Where there is none it is the crop itself.
        slice_axis: Axis of 3D cases that 2D crops are slices across; None = crops have the dimension of the cases.
        slice_gap_mm: Largest distance of a neighbouring slice; the next one is always near enough.
    """

    size: tuple[int, ...]
    batch_size: int
    parts: int = 1
    seed: int = 0
    labels: bool = False
    classes: bool = False
    foreground: float = 0.0
    evenly: Evenly = "cases"
    min_std: float = 0.0
    partner: Partner = "same"
    slice_axis: int | None = None
    slice_gap_mm: float = 0.0

    @property
    def box(self) -> tuple[int, ...]:
        """Voxels that are read of a case, one number an axis of the case."""
        if self.slice_axis is None:
            return self.size
        return (*self.size[: self.slice_axis], 1, *self.size[self.slice_axis :])

    @property
    def case_dims(self) -> int:
        """Dimension of the cases that crops are drawn from."""
        return len(self.size) + (self.slice_axis is not None)


class StepDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Map-style: `dataset[draw]` is one part of a step's batch, drawn with a generator keyed by seed and crop number.

    Step `s` has the crops `s * batch_size ... (s + 1) * batch_size - 1`; each is a pure function of its number, so
    neither workers nor devices nor accumulation nor an interruption changes it. Cases (or patients) come in a new
    random order each epoch. `draw = s * parts + part`.

    A batch holds `image` (n, C, *S) in the cache's dtype, `index` (n,) int64 crop numbers, `step` () int64 = `draw`,
    which keys the randomness of augmentation and masks, `patient` (n,) int64 numbers of the crops' patients,
    `spacing_mm` (n, D) float64 voxel sizes of the crops' cases along the crops' axes, and what the plan adds. Where a
    case cannot be read, the next one stands in for it and `damaged` (k,) int64 holds the numbers of the cases that were
    passed over: whoever trains must tell it.

    Args:
        cache: Prepared cache.
        cases: Cases to draw from.
        plan: Which crops to draw.

    Raises:
        CacheError: No cases, or cases without the labels or classes that the plan asks for.
    """

    def __init__(self, cache: Cache, cases: Sequence[CachedCase], plan: CropPlan) -> None:
        self._cache, self._cases, self._plan = cache, tuple(cases), plan
        _check(cache, self._cases, plan)
        self._class_index = {name: number for number, name in enumerate(cache.classes)}
        self._patients = {name: number for number, name in enumerate(sorted({case.patient for case in self._cases}))}
        self._groups = self._drawn_evenly()
        self._order = -1, np.empty(0, dtype=np.int64)  # the epoch that was asked for last, and its order of the cases

    @property
    def plan(self) -> CropPlan:
        """Which crops are drawn."""
        return self._plan

    @property
    def cases(self) -> tuple[CachedCase, ...]:
        """What they are drawn from."""
        return self._cases

    def case_of(self, number: int) -> CachedCase:
        """Case that crop `number` is taken from."""
        return self._cases[self._position(number)]

    def _position(self, number: int) -> int:
        epoch, place = divmod(number, len(self._groups))
        if self._order[0] != epoch:
            generator = _generator(self._plan.seed, epoch, stream=2)
            groups = [self._groups[group] for group in generator.permutation(len(self._groups))]
            self._order = epoch, np.array([group[int(generator.integers(len(group)))] for group in groups])
        return int(self._order[1][place])

    def _drawn_evenly(self) -> list[list[int]]:
        """Positions of the cases of which an epoch has one each."""
        if self._plan.evenly == "cases":
            return [[position] for position in range(len(self._cases))]
        groups: dict[str, list[int]] = {}
        for position, case in enumerate(self._cases):
            groups.setdefault(case.patient, []).append(position)
        return list(groups.values())

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        """Part `draw % parts` of step `draw // parts`."""
        step, part = divmod(int(draw), self._plan.parts)
        size = self._plan.batch_size // self._plan.parts
        first = step * self._plan.batch_size + part * size
        damaged: set[int] = set()
        crops = [self._readable_crop(number, damaged) for number in range(first, first + size)]
        batch = {name: torch.from_numpy(np.stack([crop[name] for crop in crops])) for name in crops[0]}
        batch["index"] = torch.arange(first, first + size)
        batch["step"] = torch.tensor(int(draw))
        return batch if not damaged else {**batch, "damaged": torch.tensor(sorted(damaged))}

    def _readable_crop(self, number: int, damaged: set[int]) -> dict[str, np.ndarray]:
        """The crop, of the next case that can be read where the own one cannot; `damaged` gets what was passed over.

        Raises:
            CacheError: No case can be read.
        """
        first = self._position(number)
        for further in range(len(self._cases)):
            position = (first + further) % len(self._cases)
            try:
                return self._crop(self._cases[position], number, damaged)
            except CacheError as error:
                if error.reason != "bad-cache":
                    raise
                damaged.add(position)
        whose = f"no case of splits {sorted({case.split for case in self._cases})}"
        raise CacheError(f"{self._cache.path}: {whose} can be read any more: prepare it again", reason="bad-cache")

    def _crop(self, case: CachedCase, number: int, damaged: set[int]) -> dict[str, np.ndarray]:
        generator = _generator(self._plan.seed, number, stream=1)
        start, image = self._draw(case, number, generator)
        crop = {"image": self._flat(image), "patient": np.array(self._patients[case.patient], dtype=np.int64)}
        crop["spacing_mm"] = self._spacing_mm(case)
        if self._plan.labels:
            crop["label"] = self._flat(self._label(case, start))
        if self._plan.classes:
            crop["class_index"] = np.array(self._class_index[case.class_name], dtype=np.int64)
        if self._plan.partner != "same":
            find = self._neighbour if self._plan.partner == "slice" else self._of_patient
            other, whose = find(case, number, start, damaged) or (image, case)
            crop |= {"partner": self._flat(other), "partner_spacing_mm": self._spacing_mm(whose)}
        return crop

    def _flat(self, array: np.ndarray) -> np.ndarray:
        """Without the axis that slices lie across."""
        axis = self._plan.slice_axis
        return array if axis is None else array.squeeze(axis - self._plan.case_dims)

    def _spacing_mm(self, case: CachedCase) -> np.ndarray:
        """Voxel size along the axes of a crop."""
        kept = [mm for axis, mm in enumerate(case.spacing_mm) if axis != self._plan.slice_axis]
        return np.array(kept, dtype=np.float64)

    def _neighbour(
        self, case: CachedCase, number: int, start: tuple[int, ...], _damaged: set[int]
    ) -> tuple[np.ndarray, CachedCase] | None:
        """The crop at the same place of a slice near by, above or below, and its case."""
        axis = self._plan.slice_axis or 0
        reach = max(1, int(self._plan.slice_gap_mm / case.spacing_mm[axis] + 1e-6))
        steps = [step for step in range(-reach, reach + 1) if step and 0 <= start[axis] + step < case.shape[axis]]
        if not steps:
            return None
        step = int(_generator(self._plan.seed, number, stream=3).choice(steps))
        place = tuple(begin + step * (n == axis) for n, begin in enumerate(start))
        return self._cache.crop_image(case, place, self._plan.box), case

    def _of_patient(
        self, case: CachedCase, number: int, start: tuple[int, ...], damaged: set[int]
    ) -> tuple[np.ndarray, CachedCase] | None:
        """The crop at the same place of another case of the patient that can be read, and that case."""
        others = [n for n, other in enumerate(self._cases) if other.patient == case.patient and other.case != case.case]
        for position in _generator(self._plan.seed, number, stream=3).permutation(others).astype(int).tolist():
            other = self._cases[position]
            place = tuple(
                round(begin * (n - size) / (own - size)) if own > size and n > size else (n - size) // 2
                for begin, own, n, size in zip(start, case.shape, other.shape, self._plan.box, strict=True)
            )
            try:
                return self._cache.crop_image(other, place, self._plan.box), other
            except CacheError as error:
                if error.reason != "bad-cache":
                    raise
                damaged.add(position)
        return None

    def _draw(
        self, case: CachedCase, number: int, generator: np.random.Generator
    ) -> tuple[tuple[int, ...], np.ndarray]:
        best: tuple[float, tuple[int, ...], np.ndarray] | None = None
        wanted = due(number, self._plan.foreground)
        for _ in range(_TRIES):
            start, centred = self._start(case, wanted, generator)
            image = self._cache.crop_image(case, start, self._plan.box)
            if self._plan.min_std <= 0 or centred:
                return start, image
            spread = float(np.std(image, axis=tuple(range(1, image.ndim)), dtype=np.float32).max())
            if best is None or spread > best[0]:
                best = (spread, start, image)
            if spread >= self._plan.min_std:
                break
        if best is None:
            raise CacheError(f"no crop of case {case.case!r} could be drawn", reason="crop")
        return best[1], best[2]

    def _start(self, case: CachedCase, centre: bool, generator: np.random.Generator) -> tuple[tuple[int, ...], bool]:
        """First voxel of a crop, and whether it is centred on a structure: a case may have none."""
        voxels = self._cache.foreground(case) if centre and case.has_label else {}
        present = [value for value in sorted(voxels) if len(voxels[value])]
        if present:
            points = voxels[present[int(generator.integers(len(present)))]]
            middle = points[int(generator.integers(len(points)))]
            wanted = [int(c) - size // 2 for c, size in zip(middle, self._plan.box, strict=True)]
        else:
            wanted = [
                int(generator.integers(max(n - size, 0) + 1))
                for n, size in zip(case.shape, self._plan.box, strict=True)
            ]
        start = tuple(
            min(max(begin, 0), n - size) if n >= size else (n - size) // 2
            for begin, n, size in zip(wanted, case.shape, self._plan.box, strict=True)
        )
        return start, bool(present)

    def _label(self, case: CachedCase, start: tuple[int, ...]) -> np.ndarray:
        if case.has_label:
            return self._cache.crop_label(case, start, self._plan.box)
        return np.full(self._plan.box, self._cache.ignore_label, dtype=np.int64)


def _generator(seed: int, number: int, stream: int) -> np.random.Generator:
    key = np.array([seed, number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], dtype=np.uint64)))


def due(number: int, share: float) -> bool:
    """Every `1 / share`-th number is due, so that the share holds over any stretch of the run."""
    return int((number + 1) * share) > int(number * share)


def _check(cache: Cache, cases: Sequence[CachedCase], plan: CropPlan) -> None:
    if not cases:
        raise CacheError(f"{cache.path}: no cases to train on: prepare cases with split train", reason="no-cases")
    if plan.case_dims != cache.spatial_dims:
        raise CacheError(
            f"{cache.path} holds {cache.spatial_dims}D cases, crops of size {plan.size} are of {plan.case_dims}D ones",
            reason="crop",
        )
    bare = [case.case for case in cases if not case.has_label]
    if plan.labels and bare and cache.ignore_label is None:
        raise CacheError(
            f"{cache.path}: {len(bare)} cases have no label, first {bare[0]!r}: leave them out", reason="label"
        )
    unnamed = [case.case for case in cases if case.class_name not in cache.classes]
    if plan.classes and unnamed:
        raise CacheError(
            f"{cache.path}: {len(unnamed)} cases have no class, first {unnamed[0]!r}: fill the manifest's class column",
            reason="class",
        )
