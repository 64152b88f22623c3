"""How far from the true place a point of one case is found in others, by the embeddings of all voxels.

The protocol of SAM (Yan et al., IEEE TMI 2022, https://arxiv.org/abs/2012.02383): landmarks of a template are looked
for in other patients; the error is a distance in mm. Beside networks stands the rule of the same relative place.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.encoder_tests import Compared
from medssl.evaluation.statistics import statistic_interval
from medssl.evaluation.swap_tests import swap_medians
from medssl.imaging.errors import CacheError, ConfigError
from medssl.models.anatomy import AnatomyMaps, find_points

Landmarks = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""Case to name to place (3,) in RAS+ mm."""

Embed = Callable[[Tensor], AnatomyMaps]
"""Image (1, C, *S) to its embeddings."""

Errors = npt.NDArray[np.float64]
"""(runs, cases, landmarks) distances in mm; a run is a template and, of random weights, a seed. NaN: none there."""

_COLUMNS = ("case", "name", "x", "y", "z")


def read_landmarks(path: Path, cache: Cache) -> Landmarks:
    """Landmarks from a CSV file with the columns case, name, x, y, z.

    Raises:
        ConfigError: The file cannot be read, or lines of it are wrong: all are told.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, names = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([f"frozen.landmarks {path} cannot be read: {error}"]) from error
    if missing := [name for name in _COLUMNS if name not in names]:
        raise ConfigError([f"frozen.landmarks {path} has no column {name!r}; it has {names}" for name in missing])
    cases = {case.case: case for case in cache.cases}
    found: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    problems = []
    for line, row in enumerate(rows, start=2):
        wrong = _wrong(row, cases, found)
        if wrong:
            problems.append(f"frozen.landmarks {path} line {line}: {wrong}")
        else:
            found.setdefault(row["case"], {})[row["name"]] = np.array([float(row[axis]) for axis in "xyz"])
    if problems or not found:
        raise ConfigError(problems or [f"frozen.landmarks {path} names no landmark"])
    return found


def structure_centres(cache: Cache, cases: Sequence[CachedCase]) -> Landmarks:
    """Centres of mass of the labels' structures, as prepared, as landmarks."""
    found: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for case in cases:
        label = cache.label(case)
        for structure in cache.labels:
            voxels = np.argwhere(label == structure.value)
            if len(voxels):
                index = np.zeros(3)
                index[: label.ndim] = voxels.mean(0)
                found.setdefault(case.case, {})[structure.name] = case.record.prepared.to_world(index)
    return found


def choose_templates(cases: Sequence[CachedCase], landmarks: Landmarks, count: int) -> tuple[CachedCase, ...]:
    """The cases of split train that have the most landmarks, the first where several have, each of another patient.

    Raises:
        CacheError: None has one.
    """
    known = [case for case in cases if case.split == "train" and landmarks.get(case.case)]
    order = sorted(known, key=lambda case: (-len(landmarks[case.case]), case.case))
    if not order:
        raise CacheError("no case of split train has a landmark to look for in others", reason="no-landmarks")
    best: dict[str, CachedCase] = {}
    for case in order:
        best.setdefault(case.patient, case)
    return tuple(best.values())[:count]


def landmark_errors(
    embed: Embed,
    cache: Cache,
    templates: Sequence[CachedCase],
    queries: Sequence[CachedCase],
    landmarks: Landmarks,
) -> Errors:
    """Distances between where landmarks are found and where they are."""
    known = [embed(_image(cache, case)) for case in templates]

    def found(case: CachedCase) -> Iterator[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]]:
        maps = embed(_image(cache, case))
        for template in known:
            yield partial(_found, template, maps)

    return _errors(found, templates, queries, landmarks)


def same_place_errors(templates: Sequence[CachedCase], queries: Sequence[CachedCase], landmarks: Landmarks) -> Errors:
    """Distances of the rule that takes the same relative place along each axis of the prepared images."""

    def found(case: CachedCase) -> Iterator[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]]:
        for template in templates:
            ratio = np.array(case.shape) / np.array(template.shape)
            yield partial(_scaled, ratio)

    return _errors(found, templates, queries, landmarks)


def landmark_names(templates: Sequence[CachedCase], landmarks: Landmarks) -> tuple[str, ...]:
    """Names of the landmarks that a template has."""
    return tuple(dict.fromkeys(name for case in templates for name in landmarks[case.case]))


def summarise_errors(
    errors: Errors, names: Sequence[str], patients: Sequence[str], within_mm: Sequence[float], resamples: int
) -> dict[str, Any]:
    """Median, mean and shares within distances, of all landmarks and of each, with intervals over patients; JSON-able.

    Args:
        errors: Of an arm.
        names: Of the landmarks.
        patients: Of the cases.
        within_mm: Distances.
        resamples: Bootstrap resamples.
    """
    measures: dict[str, Callable[[Errors], float]] = {"median_mm": median_mm, "mean_mm": _mean}
    measures |= {f"within_{distance:g}_mm": partial(_share, distance) for distance in within_mm}

    def told(part: Errors) -> dict[str, Any]:
        return {
            **{
                name: statistic_interval(partial(_of_drawn, measure, part), patients, resamples=resamples).to_json()
                for name, measure in measures.items()
            },
            "searches": int(np.isfinite(part).sum()),
        }

    return {**told(errors), "landmarks": {name: told(errors[..., [k]]) for k, name in enumerate(names)}}


def median_difference(ours: Errors, theirs: Sequence[Errors], patients: Sequence[str], resamples: int) -> Compared:
    """Difference of the median errors, ours minus theirs, over the same cases; negative: ours are nearer.

    Args:
        ours: Of a network.
        theirs: Of others, whose errors count together.
        patients: Of the cases.
        resamples: Bootstrap resamples, and swaps.
    """
    others = np.concatenate(theirs)
    interval = statistic_interval(
        lambda drawn: median_mm(ours[:, drawn]) - median_mm(others[:, drawn]), patients, resamples=resamples
    )
    test = swap_medians(ours, others, patients, resamples)
    return Compared(known_median(ours), [known_median(part) for part in theirs], interval, test, smaller=True)


def median_mm(errors: Errors) -> float:
    """Median of the errors that are there; NaN where none is."""
    known = errors[np.isfinite(errors)]
    return float(np.median(known)) if len(known) else math.nan


def known_median(errors: Errors) -> float | None:
    """The same for JSON, which has no NaN."""
    median = median_mm(errors)
    return median if math.isfinite(median) else None


def _errors(
    found: Callable[[CachedCase], Iterator[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]]],
    templates: Sequence[CachedCase],
    queries: Sequence[CachedCase],
    landmarks: Landmarks,
) -> Errors:
    """Errors of what finds points of each template in a case: voxels (P, D) of the template to voxels of the case."""
    names = landmark_names(templates, landmarks)
    errors = np.full((len(templates), len(queries), len(names)), np.nan)
    for number, query in enumerate(queries):
        truth = landmarks[query.case]
        for run, (template, find) in enumerate(zip(templates, found(query), strict=True)):
            known = landmarks[template.case]
            shared = [k for k, name in enumerate(names) if name in known and name in truth]
            if not shared:
                continue
            dims = len(query.shape)
            asked = template.record.prepared.to_index(np.stack([known[names[k]] for k in shared]))[:, :dims]
            index = np.zeros((len(shared), 3))
            index[:, :dims] = np.clip(find(asked), 0, np.array(query.shape) - 1)  # filled up parts lie outside
            places = query.record.prepared.to_world(index)
            errors[run, number, shared] = np.linalg.norm(places - np.stack([truth[names[k]] for k in shared]), axis=1)
    return errors


def _found(template: AnatomyMaps, query: AnatomyMaps, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    places, _ = find_points(template, torch.from_numpy(points).float(), query)
    return places.double().numpy()


def _scaled(ratio: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (points + 0.5) * ratio - 0.5


def _image(cache: Cache, case: CachedCase) -> Tensor:
    return torch.from_numpy(cache.image(case).astype(np.float32))[None]


def _of_drawn(measure: Callable[[Errors], float], errors: Errors, drawn: npt.NDArray[np.int64]) -> float:
    return measure(errors[:, drawn])


def _mean(errors: Errors) -> float:
    known = errors[np.isfinite(errors)]
    return float(known.mean()) if len(known) else math.nan


def _share(distance: float, errors: Errors) -> float:
    known = errors[np.isfinite(errors)]
    return float((known <= distance).mean()) if len(known) else math.nan


def _wrong(
    row: Mapping[str, str | None],
    cases: Mapping[str, CachedCase],
    found: Mapping[str, Mapping[str, npt.NDArray[np.float64]]],
) -> str:
    """What is wrong with a line; empty where nothing is."""
    case, name = row["case"] or "", row["name"] or ""
    if case not in cases:
        return f"case {case!r} is not in the cache"
    if not name or name in found.get(case, {}):
        return f"landmark {name!r} of case {case!r} is there twice" if name else "the name is empty"
    try:
        place = np.array([float(row[axis] or "") for axis in "xyz"])
    except ValueError:
        return f"x, y, z must be numbers, got {[row[axis] for axis in 'xyz']}"
    grid = cases[case].record.prepared
    index = grid.to_index(place)[: len(grid.shape)]
    if not ((index >= -0.5) & (index <= np.array(grid.shape) - 0.5)).all():  # NaN lies nowhere
        return f"({', '.join(f'{n:.1f}' for n in place)}) mm lies outside the prepared image of case {case!r}"
    return ""
