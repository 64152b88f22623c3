"""What a bundle may say of its own certainty, measured on patients that its networks have not learned from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medssl.data.cache import Cache, CachedCase
from medssl.export.calibration import LogitSample, fit_temperature, fit_window_temperature, volume_errors
from medssl.export.gate import measured_gate
from medssl.export.options import ConfidenceOptions, OperationOptions
from medssl.imaging.preprocess import restore_label
from medssl.imaging.progress import Progress
from medssl.runtime.confidence import Featured, Gate
from medssl.runtime.postprocess import keep_largest
from medssl.runtime.sliding_window import classify, segment, windows_of
from medssl.tasks.inference import Ensemble
from medssl.tasks.model_file import ModelSpec

T = TypeVar("T")
_Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Confidence:
    """Entries of bundle.json of the same names, and the gate's file; without any where there was nothing to measure."""

    temperature: float = 1.0
    calibration: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    embeddings: Gate | None = None


@dataclass(frozen=True)
class Trained:
    """Networks and what they learned from.

    Args:
        networks: One network or the folds, on the CPU.
        patients: Patients that each learned from; an empty set where nobody knows.
        spec: What they need and give.
        cache: Cache with the cases.
    """

    networks: Sequence[nn.Module]
    patients: Sequence[frozenset[str]]
    spec: ModelSpec
    cache: Cache

    def held_out(self) -> list[tuple[CachedCase, tuple[int, ...]]]:
        """Labelled cases that are no test cases, with the networks that have not seen their patient."""
        found = []
        for case in self.cache.cases:
            unseen = tuple(n for n, seen in enumerate(self.patients) if self._unseen(case, seen))
            if self._known(case) and unseen and case.split != "test":
                found.append((case, unseen))
        return found

    def measurable(self) -> list[CachedCase]:
        """Labelled cases that no network has seen and that are no test cases; any others where there are none, or of
        one class alone.
        """
        held = [case for case, unseen in self.held_out() if len(unseen) == len(self.networks)]
        if held and (self.spec.task == "segmentation" or len({case.class_name for case in held}) > 1):
            return held
        return [case for case in self.cache.cases if self._known(case) and case.split != "test"]

    def seen(self) -> list[CachedCase]:
        """Cases that the first network learned from."""
        seen = self.patients[0]
        return [c for c in self.cache.cases if (c.patient in seen if seen else c.split == "train")]

    def _known(self, case: CachedCase) -> bool:
        return case.has_label if self.spec.task == "segmentation" else case.class_name in self.spec.classes

    def _unseen(self, case: CachedCase, seen: frozenset[str]) -> bool:
        return case.patient not in seen if seen else case.split == "val" and len(self.networks) == 1

    def predict(self, chosen: Sequence[int]) -> Callable[[_Float], tuple[_Float, _Float]]:
        """Logits of some of the networks and features of the first of all."""
        ensemble = Ensemble([self.networks[n] for n in chosen], self.spec.activation).eval()
        first = Ensemble([self.networks[0]]).eval()

        @torch.no_grad()
        def answer(windows: _Float) -> tuple[_Float, _Float]:
            image = torch.from_numpy(np.ascontiguousarray(windows))
            if chosen[0] == 0:
                logits, features = ensemble.with_features(image)
            else:
                logits, features = ensemble(image), first.features(image)
            return logits.float().numpy(), features.float().numpy()

        return answer


def measure_confidence(trained: Trained, options: ConfidenceOptions, operation: OperationOptions) -> Confidence:
    """Temperature, volume intervals and gate, as far as there are patients to measure them on.

    Args:
        trained: Networks and data.
        options: How much is measured, and what is promised.
        operation: What the clinic does with the networks' answer.
    """
    if not options.measure:
        return Confidence()
    held = spread(trained.held_out(), options.cases)
    seen = spread(trained.seen(), options.training_images)
    cases, training = [], []
    with Progress("confidence", len(held) + len(seen)) as progress:
        for case, unseen in held:
            cases.append(_held_out_case(trained, case, unseen, operation))
            progress.advance(note=case.case)
        for case in seen:
            training.append(image_features(trained, trained.cache.image(case)))
            progress.advance(note=case.case)
    volumes = [
        volumes_ml(trained.cache.label(case), case, trained.spec)
        for case in seen
        if case.has_label and trained.spec.task == "segmentation"
    ]
    temperature, calibration = _temperature(cases, trained.spec)
    unseen_by_first = [case for case in cases if case.features is not None]
    gate, embeddings = measured_gate(
        np.array(training, dtype=np.float32),
        np.array([case.features for case in unseen_by_first], dtype=np.float32),
        lambda image: image_features(trained, image),
        [trained.cache.image(case.case) for case in unseen_by_first[: options.near_cases]],
        trained.spec,
        options,
    )
    return Confidence(temperature, calibration, _intervals(cases, volumes, trained.spec, options), gate, embeddings)


@dataclass(frozen=True)
class _Case:
    """What the networks that have not seen a case say of it."""

    case: CachedCase
    sample: LogitSample
    found_ml: Mapping[int, float]
    true_ml: Mapping[int, float]
    features: _Float | None


def _held_out_case(trained: Trained, case: CachedCase, unseen: tuple[int, ...], operation: OperationOptions) -> _Case:
    spec, cache = trained.spec, trained.cache
    network = Featured(trained.predict(unseen), 2 ** len(spec.mirror_axes))
    if spec.task == "classification":
        windows: list[_Float] = []

        def keep(batch: _Float) -> _Float:
            windows.append(network(batch))
            return windows[-1]

        classify(cache.image(case), spec.window, keep, mirror_axes=spec.mirror_axes, activation=spec.activation)
        truth = np.array([spec.classes.index(case.class_name)])
        sample, found, true = LogitSample(np.concatenate(windows), truth), {}, {}
    else:
        label = cache.label(case)
        collector = _Collector(label, spec.ignore_label)
        mask = segment(
            cache.image(case),
            spec.window,
            network,
            spec.network.out_channels,
            overlap=spec.overlap,
            batch_size=2,
            mirror_axes=spec.mirror_axes,
            observe=collector.observe,
        )
        sample, true = collector.sample(), volumes_ml(label, case, spec)
        found = volumes_ml(keep_largest(mask, operation.largest_component), case, spec)
    return _Case(case, sample, found, true, network.features() if 0 in unseen else None)


class _Collector:
    """Logits and truth of voxels that are a structure, or are taken for one; of large structures a random part."""

    _MOST = 20_000

    def __init__(self, truth: npt.NDArray[np.uint8], ignore: int | None) -> None:
        self._truth, self._ignore = truth, ignore
        self._share = min(1.0, self._MOST / max(int(np.count_nonzero(truth)), 1))
        self._rng = np.random.default_rng(0)
        self._logits: list[_Float] = []
        self._classes: list[npt.NDArray[np.int64]] = []

    def observe(self, place: tuple[slice, ...], logits: _Float, labels: npt.NDArray[np.uint8]) -> None:
        truth = self._truth[place]
        chosen = ((truth > 0) | (labels > 0)) & (self._rng.random(truth.shape) < self._share)
        if self._ignore is not None:
            chosen &= truth != self._ignore
        self._logits.append(logits[:, chosen].T)
        self._classes.append(truth[chosen].astype(np.int64))

    def sample(self) -> LogitSample:
        return LogitSample(np.concatenate(self._logits), np.concatenate(self._classes))


def image_features(trained: Trained, image: _Float) -> _Float:
    """Features of a prepared image, as the clinic takes them: the mean over its windows; the encoder alone works."""
    spec, first = trained.spec, Ensemble([trained.networks[0]]).eval()
    overlap = spec.overlap if spec.task == "segmentation" else 0.0
    with torch.no_grad():
        found = [
            first.features(torch.from_numpy(np.ascontiguousarray(crop))).float().numpy()
            for crop in windows_of(image, spec.window, overlap)
        ]
    return np.asarray(np.concatenate(found).mean(axis=0, dtype=np.float64), dtype=np.float32)


def volumes_ml(label: npt.NDArray[np.uint8], case: CachedCase, spec: ModelSpec) -> dict[int, float]:
    """Volume of each class on the native grid."""
    native = restore_label(label, case.record)
    counts = np.bincount(native.array.ravel(), minlength=256)
    return {item.value: float(counts[item.value]) * native.geometry.voxel_ml for item in spec.labels}


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` items, evenly over the list; all where it is 0."""
    picked = np.linspace(0, len(items) - 1, min(count or len(items), len(items))).round().astype(int)
    return [items[position] for position in dict.fromkeys(picked.tolist())]


def _temperature(cases: Sequence[_Case], spec: ModelSpec) -> tuple[float, dict[str, Any]]:
    fit = fit_temperature if spec.task == "segmentation" else fit_window_temperature
    least = 3 if spec.task == "segmentation" else 10
    patients = len({case.case.patient for case in cases})
    if patients < least:
        return 1.0, {"missing": f"needs {least} patients held out of the training, there are {patients}"}
    temperature, numbers = fit([case.sample for case in cases], spec.activation)
    return temperature, {**numbers, "cases": len(cases), "patients": patients}


def _intervals(
    cases: Sequence[_Case], training: Sequence[Mapping[int, float]], spec: ModelSpec, options: ConfidenceOptions
) -> dict[str, Any]:
    """Split-conformal intervals: the error that as many patients held out stay below as is promised.

    The largest error of a patient's cases counts, so that cases of one patient need not be independent.
    """
    if spec.task != "segmentation":
        return {}
    patients = sorted({case.case.patient for case in cases})
    rank = int(np.ceil((len(patients) + 1) * options.coverage))
    if rank > len(patients):
        least = int(np.ceil(options.coverage / (1 - options.coverage) - 1e-9))
        return {"missing": f"needs {least} patients held out of the training, there are {len(patients)}"}
    labels = {}
    for label in spec.labels:
        known = [found[label.value] for found in training if found[label.value] > 0]
        if not known:
            continue
        floor = 0.05 * float(np.median(known))
        errors = volume_errors(
            [(c.case.patient, c.found_ml[label.value], c.true_ml[label.value]) for c in cases], floor
        )
        labels[str(label.value)] = {"quantile": float(np.sort(errors)[rank - 1]), "floor_ml": floor}
    return {
        "coverage": options.coverage,
        "patients": len(patients),
        "meaning": (
            f"of patients like those of the validation, at least {options.coverage:.0%} have the volume that an expert "
            "would draw within the interval, for each structure by itself; nothing is said of other patients"
        ),
        "labels": labels,
    }
