"""Predicts the cases of a split with one or several arms, and compares each mask with its reference natively."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.lesions import CaseLesions, find_lesions
from medssl.evaluation.metrics import score_classes
from medssl.evaluation.options import LesionOptions
from medssl.evaluation.subgroups import groups_of
from medssl.evaluation.summaries import CaseResult, size_unit
from medssl.imaging.errors import CacheError, ConfigError, ImageError, MedsslError
from medssl.imaging.files import sha256
from medssl.imaging.geometry import Geometry
from medssl.imaging.preprocess import restore_label, restore_scores
from medssl.imaging.progress import Progress
from medssl.imaging.readers.open import is_dicom_label, read_channels, read_label
from medssl.imaging.volume import Source, Volume

Arm = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint8]]
"""Prepared image (C, *S) to class map (*S)."""

ScoredArm = Callable[[npt.NDArray[np.float32]], tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]
"""Prepared image (C, *S) to class map (*S) and the probabilities (K, *S) behind it."""

Lesions = tuple[dict[str, int], LesionOptions]
"""Label name to value of the classes whose lesions are counted, and how."""


@dataclass(frozen=True)
class Failure:
    """A case that could not be evaluated.

    Args:
        case: Its id.
        reason: Reason code.
        message: What is wrong and what to do.
    """

    case: str
    reason: str
    message: str


@dataclass
class Outcome:
    """What came of a split.

    Args:
        results: Arm to its results, in the order of the cases.
        failures: Cases without results.
        uncalibrated: Cases whose image does not say how large a pixel is. All: lengths are in pixels. Some: theirs are
            not defined, because pixels and mm have no mean.
    """

    results: dict[str, list[CaseResult]]
    failures: list[Failure] = field(default_factory=list)
    uncalibrated: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """Number of cases with results."""
        return len(next(iter(self.results.values())))

    @property
    def calibrated(self) -> bool:
        """Whether lengths are in mm."""
        return len(self.uncalibrated) < self.cases


def labelled_cases(cache: Cache, split: str) -> tuple[CachedCase, ...]:
    """Cases of a split that have a label map.

    Raises:
        CacheError: No such split, or none of its cases is labelled.
    """
    _check_split(cache, split)
    cases = cache.select(split, labelled=True)
    if not cases:
        raise CacheError(
            f"none of the {len(cache.select(split))} cases of split {split!r} in {cache.path} has a label map, so "
            "nothing can be compared: add labels to the manifest and prepare again, or choose another --split",
            reason="no-labelled-cases",
        )
    return cases


def classified_cases(cache: Cache, split: str) -> tuple[CachedCase, ...]:
    """Cases of a split that have a class.

    Raises:
        CacheError: No such split, or none of its cases has a class.
    """
    _check_split(cache, split)
    cases = tuple(case for case in cache.select(split) if case.class_name)
    if not cases:
        raise CacheError(
            f"none of the {len(cache.select(split))} cases of split {split!r} in {cache.path} has a class: fill the "
            "column `class` of the manifest and prepare again, or choose another --split",
            reason="no-labelled-cases",
        )
    return cases


def left_out(cache: Cache, split: str, cases: Sequence[CachedCase], kind: str) -> list[str]:
    """What to say of cases of a split that no number counts: without an answer, or not prepared; nothing where all are.

    Args:
        cache: Prepared cache.
        split: The split.
        cases: Those of it that are evaluated.
        kind: What the others lack.
    """
    evaluated = {case.case for case in cases}
    others = [case.case for case in cache.select(split) if case.case not in evaluated]
    odd, found = cache.not_prepared(split), []
    if others:
        found.append(
            f"{len(others)} of {len(others) + len(cases)} cases of split {split} have no {kind} and are in no number "
            f"({_named(others)}): if they were not left unlabelled at random, the numbers are not those of all cases."
        )
    if odd:
        found.append(
            f"{len(odd)} case(s) of split {split} could not be prepared and are in no number ({_named(odd)}): such "
            f"scans are often the harder ones. Why stands in {cache.path / 'problems.csv'}."
        )
    return found


def _named(cases: Sequence[str]) -> str:
    return ", ".join(cases[:5]) + (", ..." if len(cases) > 5 else "")


def evaluate_cases(
    cache: Cache,
    cases: Sequence[CachedCase],
    arms: Mapping[str, Arm | ScoredArm],
    tolerance_mm: float = 1.0,
    lesions: LesionOptions | None = None,
) -> Outcome:
    """Predict and score every case with every arm; a case that fails is told and the others go on.

    Args:
        cache: Prepared cache.
        cases: Labelled cases of it.
        arms: Name to what predicts.
        tolerance_mm: Of surface Dice.
        lesions: How single lesions are counted, for arms that give probabilities as well.

    Raises:
        ConfigError: Labels of lesions that the cache does not have.
    """
    asked = lesion_labels(cache, lesions)
    outcome = Outcome({name: [] for name in arms})
    with Progress("evaluate", len(cases)) as progress:
        for case in cases:
            try:
                scored, calibrated = _evaluate_case(cache, case, arms, tolerance_mm, asked)
            except (MedsslError, OSError) as error:
                outcome.failures.append(_failure(case, error))
            else:
                outcome.uncalibrated += [] if calibrated else [case.case]
                for name, result in scored.items():
                    outcome.results[name].append(result)
            progress.advance(note=case.case)
    if outcome.calibrated:
        without = set(outcome.uncalibrated)
        for name, found in outcome.results.items():
            outcome.results[name] = [r.without_lengths(cache.spatial_dims) if r.case in without else r for r in found]
    return outcome


def is_calibrated(cache: Cache, case: CachedCase) -> bool:
    """Whether a case's image says how large a voxel is, whatever its label's file says.

    Raises:
        ImageError: The cache does not tell, and the image is not where it was, or is another one.
    """
    return native_image(cache, case).source.calibrated if case.calibrated is None else case.calibrated


def native_image(cache: Cache, case: CachedCase) -> Volume:
    """Original image of a case.

    Raises:
        ImageError: It is not where it was, or is another one.
    """
    image = read_channels(case.image_field, Path("/"), resample_irregular=cache.resample_irregular)
    _check_grid(image.geometry, case, case.image_field)
    return image


def native_reference(cache: Cache, case: CachedCase) -> Volume:
    """Original label map of a case on the grid of its image, with the cache's classes.

    Raises:
        ImageError: It is not where it was, has changed since, or does not fit.
    """
    file = Path(case.label_field)
    if case.label_sha256 and file.is_file() and sha256(file) != case.label_sha256:
        raise ImageError(
            f"{file} has changed since the cache was prepared, and networks have learned from, or were "
            "judged by, what it was: run medssl prepare again, into another folder, and train and evaluate anew",
            reason="changed",
        )
    if case.uids is None and is_dicom_label(file):
        raise ImageError(
            f"{file}: the cache was prepared by an earlier version, which read overlapping segments by another rule: "
            "run medssl prepare again, and train anew where segments overlap",
            reason="changed",
        )
    return read_label(case.label_field, _empty_like(case), cache.labels, cache.label_map or None, cache.ignore_label)


def lesion_labels(cache: Cache, options: LesionOptions | None) -> Lesions | None:
    """The labels whose lesions are counted; None where there are none.

    Raises:
        ConfigError: A label that the cache does not have.
    """
    if options is None or not options.labels:
        return None
    known = {label.name: label.value for label in cache.labels}
    names = tuple(known) if options.labels == ("all",) else options.labels
    if missing := [name for name in names if name not in known]:
        raise ConfigError([f"lesions.labels {name!r} is none of the labels {list(known)}" for name in missing])
    return {name: known[name] for name in names}, options


def _evaluate_case(
    cache: Cache,
    case: CachedCase,
    arms: Mapping[str, Arm | ScoredArm],
    tolerance_mm: float,
    asked: Lesions | None,
) -> tuple[dict[str, CaseResult], bool]:
    reference = native_reference(cache, case)
    image = cache.image(case)
    grid = case.record.native
    calibrated = is_calibrated(cache, case)
    spacing = grid.spacing_mm if calibrated else (1.0,) * grid.spatial_dims
    size, unit = _voxel_size(grid, calibrated)
    scored = {}
    for name, arm in arms.items():
        began = time.perf_counter()
        answer = arm(image)
        prediction, probabilities = answer if isinstance(answer, tuple) else (answer, None)
        mask = restore_label(prediction, case.record)
        seconds = time.perf_counter() - began
        scores = score_classes(
            mask.array[0],
            reference.array[0],
            [label.value for label in cache.labels],
            spacing,
            tolerance_mm,
            cache.ignore_label,
            grid.affine[:3, :3] if calibrated and grid.spatial_dims == 3 and grid.is_sheared else None,
        )
        by_name = {label.name: scores[label.value] for label in cache.labels}
        found = _lesions(probabilities, reference.array[0], case, cache.ignore_label, asked)
        scored[name] = CaseResult(case.case, case.patient, by_name, size, unit, seconds, groups_of(case), found)
    return scored, calibrated


def _lesions(
    probabilities: npt.NDArray[np.float32] | None,
    reference: npt.NDArray[np.uint8],
    case: CachedCase,
    ignore: int | None,
    asked: Lesions | None,
) -> dict[str, CaseLesions]:
    """Lesions of the labels asked for, on the native grid."""
    if probabilities is None or asked is None:
        return {}
    labels, options = asked
    native = restore_scores(probabilities[list(labels.values())], case.record)
    judged = None if ignore is None else reference != ignore
    return {
        name: find_lesions(scores, reference == value, options, judged)
        for (name, value), scores in zip(labels.items(), native, strict=True)
    }


def _voxel_size(grid: Geometry, calibrated: bool) -> tuple[float, str]:
    """Size of a voxel and its unit."""
    if not calibrated:
        return 1.0, "pixels"
    size = grid.voxel_ml if grid.spatial_dims == 3 else float(np.prod(grid.spacing_mm))
    return size, size_unit(grid.spatial_dims)


def _empty_like(case: CachedCase) -> Volume:
    """The native grid without its voxels, and whose it is: all that a label needs to find its place."""
    grid, source = case.record.native, Source(uids=case.uids or {})
    return Volume(np.broadcast_to(np.zeros((), np.uint8), (1, *grid.shape)), grid, case.modality, source)


def _check_split(cache: Cache, split: str) -> None:
    known = sorted({case.split for case in cache.cases})
    if split not in known:
        raise CacheError(
            f"{cache.path} has no split {split!r}; it has {', '.join(known)}: choose one of them with --split",
            reason="no-such-split",
        )


def _check_grid(found: Geometry, case: CachedCase, where: str) -> None:
    if not found.is_close(case.record.native):
        raise ImageError(f"{where} changed since case {case.case!r} was prepared: prepare it again", reason="changed")


def _failure(case: CachedCase, error: MedsslError | OSError) -> Failure:
    if isinstance(error, MedsslError):
        return Failure(case.case, error.reason, error.message)
    return Failure(case.case, "cannot-read", f"{error}: the original files must stay where they were when prepared")
