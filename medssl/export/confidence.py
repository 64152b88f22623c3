"""What a bundle may say of its own certainty, measured on patients that its networks have not learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medssl.data.cache import CachedCase
from medssl.export.calibration import LogitSample, fit_temperature, fit_window_temperature, volume_errors
from medssl.export.gate import gate_lacks, measured_gate
from medssl.export.options import ConfidenceOptions, OperationOptions
from medssl.export.pretraining import HeldOut
from medssl.export.trained import Trained, spread
from medssl.imaging.errors import MedsslError
from medssl.imaging.preprocess import restore_label
from medssl.imaging.progress import Progress
from medssl.imaging.volume import Volume
from medssl.runtime.confidence import Gate
from medssl.runtime.postprocess import keep_largest
from medssl.runtime.sliding_window import classify, windows_of
from medssl.tasks.inference import Ensemble, segment_image, window_function
from medssl.tasks.model_file import ModelSpec

_Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Confidence:
    """Entries of bundle.json of the same names, and the gate's file; without any where there was nothing to measure."""

    temperature: float = 1.0
    calibration: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    embeddings: Gate | None = None


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
    near = spread(trained.unseen_by_first(), options.cases)
    temperature, calibration, intervals = _held_out_numbers(trained, held, seen, options, operation)
    gate, embeddings = _gate(trained, seen, near, options)
    return Confidence(temperature, calibration, intervals, gate, embeddings)


def _held_out_numbers(
    trained: Trained,
    held: Sequence[HeldOut],
    training: Sequence[CachedCase],
    options: ConfidenceOptions,
    operation: OperationOptions,
) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Temperature, and what is said of it and of volumes; nothing is predicted where both lack patients."""
    segmentation, patients = trained.spec.task == "segmentation", len({case.patient for case, _ in held})
    no_temperature = _lacking(3 if segmentation else 10, patients)
    no_interval = _lacking(options.interval_patients, patients)
    cases = []
    if not no_temperature or (segmentation and not no_interval):
        with Progress("confidence", len(held)) as progress:
            for case, unseen in held:
                cases.append(_held_out_case(trained, case, unseen, operation))
                progress.advance(note=case.case)
    said = trained.measured_by([case for case, _ in held])
    temperature, calibration = _temperature(cases, trained, said) if not no_temperature else (1.0, no_temperature)
    if not segmentation:
        return temperature, calibration, {}
    return temperature, calibration, no_interval or _intervals(cases, training, trained, options, said)


def _lacking(least: int, patients: int) -> dict[str, Any]:
    """The entry of what cannot be measured on so few patients; empty where they are enough."""
    if patients >= least:
        return {}
    return {"missing": f"needs {least} patients held out of the training, there are {patients}"}


def _gate(
    trained: Trained, seen: Sequence[CachedCase], near: Sequence[CachedCase], options: ConfidenceOptions
) -> tuple[dict[str, Any], Gate | None]:
    """The gate and its entry; no image is looked at where they are too few."""
    if lacks := gate_lacks(len(seen), len({case.patient for case in near})):
        return {"missing": lacks}, None
    features = []
    with Progress("gate", len(seen) + len(near)) as progress:
        for case in [*seen, *near]:
            features.append(image_features(trained, trained.cache.image(case)))
            progress.advance(note=case.case)
    entry, gate = measured_gate(
        np.array(features[: len(seen)], dtype=np.float32),
        [(case.patient, one) for case, one in zip(near, features[len(seen) :], strict=True)],
        lambda image: image_features(trained, image),
        [trained.cache.image(case) for case in near[: options.near_cases or None]],
        trained.spec,
        options,
    )
    said = trained.pretraining.said(near)
    return {**entry, **({"measured_by": said[0]} if said else {})}, gate


@dataclass(frozen=True)
class _Case:
    """What the networks that have not seen a case say of it; volumes are None where its original label is not there."""

    patient: str
    sample: LogitSample
    volumes_ml: tuple[Mapping[int, float], Mapping[int, float]] | None


def _held_out_case(trained: Trained, case: CachedCase, unseen: tuple[int, ...], operation: OperationOptions) -> _Case:
    spec, cache = trained.spec, trained.cache
    networks = [trained.networks[n] for n in unseen]
    if spec.task == "classification":
        network = window_function(Ensemble(networks, spec.activation).eval())
        windows: list[_Float] = []

        def keep(batch: _Float) -> _Float:
            windows.append(network(batch))
            return windows[-1]

        classify(cache.image(case), spec.window, keep, mirror_axes=spec.mirror_axes, activation=spec.activation)
        truth = np.array([spec.classes.index(case.class_name)])
        return _Case(case.patient, LogitSample(np.concatenate(windows), truth), None)
    collector = _Collector(cache.label(case), spec.ignore_label)
    mask = segment_image(networks, spec, cache.image(case), observe=collector.observe)
    volumes = None
    if (true := _reference(trained, case)) is not None:
        found = restore_label(keep_largest(mask, operation.largest_component), case.record)
        counts = true.array != (spec.ignore_label if spec.ignore_label is not None else -1)
        volumes = volumes_ml(found, spec, counts), volumes_ml(true, spec, counts)
    return _Case(case.patient, collector.sample(), volumes)


def _reference(trained: Trained, case: CachedCase) -> Volume | None:
    """Original label of a case; None where the file is no longer there or is another one."""
    try:
        return trained.reference(trained.cache, case)
    except (MedsslError, OSError):
        return None


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


def volumes_ml(label: Volume, spec: ModelSpec, counts: npt.NDArray[np.bool_]) -> dict[int, float]:
    """Volume of each class on the native grid, over the voxels that count."""
    voxels = np.bincount(label.array[counts], minlength=256)
    return {item.value: float(voxels[item.value]) * label.geometry.voxel_ml for item in spec.labels}


def _temperature(cases: Sequence[_Case], trained: Trained, said: str) -> tuple[float, dict[str, Any]]:
    fit = fit_temperature if trained.spec.task == "segmentation" else fit_window_temperature
    temperature, numbers = fit([case.sample for case in cases], trained.spec.activation)
    if "missing" in numbers:
        return temperature, numbers
    patients = len({case.patient for case in cases})
    return temperature, {**numbers, "cases": len(cases), "patients": patients, "measured_by": said}


def _intervals(
    cases: Sequence[_Case], training: Sequence[CachedCase], trained: Trained, options: ConfidenceOptions, said: str
) -> dict[str, Any]:
    """Split-conformal intervals: the error that as many patients held out stay below as is promised.

    The largest error of a patient's cases counts, so that cases of one patient need not be independent.
    """
    known = [(case.patient, *case.volumes_ml) for case in cases if case.volumes_ml is not None]
    if len(known) < len(cases):
        there = f"{len(known)} of {len(cases)} cases held out have their original label where it was when prepared"
        return {"missing": f"{there}; volumes are compared with those of all or not at all"}
    patients = len({patient for patient, _, _ in known})
    rank = int(np.ceil((patients + 1) * options.coverage - 1e-9))
    usual = _usual_ml(trained, training)
    labels = {}
    for value in usual:
        floor = 0.05 * usual[value]
        errors = volume_errors([(patient, found[value], true[value]) for patient, found, true in known], floor)
        labels[str(value)] = {"quantile": float(np.sort(errors)[rank - 1]), "floor_ml": floor}
    return {
        "coverage": options.coverage,
        "patients": patients,
        "meaning": (
            f"of patients like those of the validation, at least {options.coverage:.0%} have the volume that an expert "
            "would draw within the interval, for each structure by itself; nothing is said of other patients; "
            f"{said}"
        ),
        "labels": labels,
    }


def _usual_ml(trained: Trained, training: Sequence[CachedCase]) -> dict[int, float]:
    """Median volume of each class over the training cases that hold it, as prepared: it sets a floor alone."""
    found: dict[int, list[float]] = {}
    for case in training:
        if case.has_label:
            label = restore_label(trained.cache.label(case), case.record)
            for value, ml in volumes_ml(label, trained.spec, np.ones(label.array.shape, dtype=bool)).items():
                found.setdefault(value, []).append(ml)
    usual = {value: [ml for ml in volumes if ml > 0] for value, volumes in found.items()}
    return {value: float(np.median(volumes)) for value, volumes in usual.items() if volumes}
