"""A fine-tuned run, loaded to predict the cases of a cache: one network, or the ensemble of its folds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

from medssl.data.cache import Cache
from medssl.evaluation.device import chosen_device
from medssl.evaluation.options import PredictOptions
from medssl.evaluation.run_records import (
    patients_of,
    read_record,
    refuse_partial_folds,
    refuse_running,
    stopped_early,
)
from medssl.evaluation.seen_patients import seen_in_pretraining, seen_in_training
from medssl.imaging.errors import ConfigError
from medssl.imaging.naming import other_channels
from medssl.models.networks import Network
from medssl.tasks.model_file import ModelSpec, load_model, model_folders, weights_hash

_OF_ONE = ("patients", "cases", "seed", "step", "steps", "planned_steps", "finished")
"""What a model's provenance says that is not true of an ensemble of folds."""


@dataclass(frozen=True)
class LoadedRun:
    """Networks ready to predict.

    Args:
        name: Name of the run's folder, as it is called in tables.
        networks: One, or the folds, whose probabilities are averaged.
        spec: What the model needs and gives.
        patients: Patients that each network learned from, empty where its run.json is not there.
        device: Where they compute.
        weights: SHA-256 of the weights of each network.
        pretrained_on: Patients that a pretraining learned from before; empty where weights were random, None where
            nobody knows.
        validated_on: Patients by which the weights that are kept were chosen.
    """

    name: str
    networks: tuple[Network, ...]
    spec: ModelSpec
    patients: tuple[frozenset[str], ...]
    device: str
    weights: tuple[str, ...]
    pretrained_on: frozenset[str] | None
    validated_on: frozenset[str] = frozenset()

    @property
    def trained_on(self) -> frozenset[str]:
        """Patients that any of the networks learned from."""
        return frozenset().union(*self.patients)

    @property
    def unfinished(self) -> list[str]:
        """What to say where a training was stopped before its end: a sentence, or none."""
        early = self.spec.provenance.get("unfinished")
        return [f"{self.name}: {early}; medssl finetune --resume goes on with it."] if early else []

    def warnings(self, patients: Collection[str], split: str) -> list[str]:
        """What to say where it is not what it was to be, or may have met patients it is measured on, a sentence each.

        Args:
            patients: Those it is measured on.
            split: Their split.
        """
        trained = self.trained_on if all(self.patients) else None
        return [
            *self.unfinished,
            *seen_in_training(self.name, trained, self.validated_on, patients, split),
            *seen_in_pretraining(self.name, self.pretrained_on, patients, split),
        ]


def load_run(run: Path, options: PredictOptions) -> LoadedRun:
    """Load a run's model, or all its folds.

    Raises:
        CheckpointError: No finished model there, a damaged one, one in training, or folds of which one is missing.
        ConfigError: Folds that do not belong together, or a device that is not there.
    """
    device = chosen_device(options.device, "predict.device")
    folders = model_folders(Path(run))
    records = [read_record(folder) for folder in folders]
    refuse_partial_folds(Path(run), folders, records)
    refuse_running(folders, records)
    loaded = [load_model(folder) for folder in folders]
    first = loaded[0][1]
    if any(_facts(spec) != _facts(first) for _, spec in loaded):
        raise ConfigError([f"{run}: its folds differ in preprocessing, window or classes, so they make no ensemble"])
    mirror_axes = _mirrored(first, options.mirror)
    networks = tuple(network.to(device) for network, _ in loaded)
    known = [patients_of(record) for record in records]
    patients = tuple(frozenset(of_folder.get("train") or ()) for of_folder in known)
    spec = replace(_of_all([spec for _, spec in loaded], patients), mirror_axes=mirror_axes)
    if early := stopped_early(folders, records, [own.provenance for _, own in loaded]):
        spec = replace(spec, provenance={**spec.provenance, "unfinished": early})
    before = [_pretrained_on(own, met.get("pretraining")) for (_, own), met in zip(loaded, known, strict=True)]
    pretrained_on = None if None in before else frozenset().union(*(one for one in before if one is not None))
    weights = tuple(weights_hash(folder) for folder in folders)
    validated_on = frozenset(name for of_folder in known for name in of_folder.get("validation") or ())
    return LoadedRun(Path(run).resolve().name, networks, spec, patients, device, weights, pretrained_on, validated_on)


def check_fits(spec: ModelSpec, cache: Cache) -> None:
    """Refuse a cache that was not prepared as the model's images were.

    Raises:
        ConfigError: Every difference.
    """
    problems = []
    if spec.preprocess.to_json() != cache.preprocess.to_json():
        problems.append(f"data {cache.path} was prepared otherwise than the model's images: prepare it the same way")
    if len(spec.channels) != len(cache.channels):
        problems.append(
            f"data {cache.path} has {len(cache.channels)} channel(s), the model takes {len(spec.channels)} "
            f"({', '.join(spec.channels)})"
        )
    elif other_channels(spec.channels, cache.channels):
        problems.append(
            f"data {cache.path} has the channels {', '.join(cache.channels)}, the model takes "
            f"{', '.join(spec.channels)}: prepare the images in this order, by these names"
        )
    ours, theirs = ({label.value: label.name for label in labels} for labels in (spec.labels, cache.labels))
    if spec.task == "segmentation" and ours != theirs:
        problems.append(f"data {cache.path} has the classes {theirs}, the model {ours}")
    if spec.task == "classification" and not set(cache.classes) <= set(spec.classes):
        problems.append(f"data {cache.path} has classes {list(cache.classes)}, the model {list(spec.classes)}")
    if problems:
        raise ConfigError(problems)


def _facts(spec: ModelSpec) -> tuple[object, ...]:
    return spec.task, spec.preprocess.to_json(), spec.window, spec.labels, spec.classes, spec.channels, spec.activation


def _of_all(specs: Sequence[ModelSpec], patients: Sequence[frozenset[str]]) -> ModelSpec:
    """What is true of the ensemble: patients of all folds, means of their validation; what is of each, fold by fold."""
    first = specs[0]
    if len(specs) == 1:
        return first
    each = [
        {name: spec.provenance[name] for name in _OF_ONE if name in spec.provenance}
        | {"validation": dict(spec.validation)}
        for spec in specs
    ]
    common = {name: value for name, value in first.provenance.items() if name not in _OF_ONE}
    if all(patients):
        common["patients"] = len(frozenset().union(*patients))
    shared = [name for name in first.validation if all(name in spec.validation for spec in specs)]
    validation = {name: fmean(spec.validation[name] for spec in specs) for name in shared}
    return replace(first, validation=validation, provenance={**common, "folds": each})


def _mirrored(spec: ModelSpec, mirror: Literal["model", "on", "off"]) -> tuple[int, ...]:
    if mirror == "model":
        return spec.mirror_axes
    return tuple(range(spec.network.spatial_dims)) if mirror == "on" else ()


def _pretrained_on(spec: ModelSpec, patients: list[str] | None) -> frozenset[str] | None:
    if spec.provenance.get("init") is None:
        return frozenset()
    return None if patients is None else frozenset(patients)
