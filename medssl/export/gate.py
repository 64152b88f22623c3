"""The gate for images unlike the training's: its threshold, and how well it tells images that are nearly like them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.export.options import ConfidenceOptions
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.preprocess import prepare_volume
from medssl.imaging.readers.open import read_channels
from medssl.imaging.readers.scan import images_below
from medssl.runtime.confidence import Gate
from medssl.tasks.classification import auroc
from medssl.tasks.model_file import ModelSpec

_Float = npt.NDArray[np.float32]
_LEAST_TRAINING, _LEAST_HELD_OUT = 20, 10
_KEPT = 0.6
_AXES = {"R": "left-right", "L": "left-right", "A": "front-back", "P": "front-back", "S": "up-down", "I": "up-down"}


def gate_lacks(training: int, patients: int) -> str:
    """What a gate lacks with so many images of the training and patients held out; empty where they are enough."""
    if training >= _LEAST_TRAINING and patients >= _LEAST_HELD_OUT:
        return ""
    due = f"{_LEAST_TRAINING} images of the training and {_LEAST_HELD_OUT} patients held out"
    return f"needs {due}, there are {training} and {patients}"


def measured_gate(
    training: _Float,
    held_out: Sequence[tuple[str, _Float]],
    features: Callable[[_Float], _Float],
    images: Sequence[_Float],
    spec: ModelSpec,
    options: ConfidenceOptions,
) -> tuple[dict[str, Any], Gate]:
    """Entry of bundle.json and the gate; the images must be enough (`gate_lacks`).

    Args:
        training: (N, F) features of images the encoder learned from.
        held_out: Patient and features (F,) of each image it did not; of a patient's images the farthest counts.
        features: Features (F,) of a prepared image.
        images: Prepared images of those held out, to flip and cut.
        spec: Preprocessing of other images.
        options: Quantile, and folders of other images.

    Raises:
        ConfigError: A folder of other images holds none that can be prepared.
    """
    patients = len({patient for patient, _ in held_out})
    gate = Gate.fit(training, options.neighbours)
    usual = np.array([gate.distance(one) for _, one in held_out])
    farthest: dict[str, float] = {}
    for (patient, _), distance in zip(held_out, usual, strict=True):
        farthest[patient] = max(farthest.get(patient, 0.0), float(distance))
    rank = min(int(np.ceil((patients + 1) * options.quantile)), patients)
    threshold = sorted(farthest.values())[rank - 1]
    measured = {}
    for name, found in _near(images, features, spec, options):
        distances = np.array([gate.distance(one) for one in found])
        score = np.minimum(np.concatenate([usual, distances]), 1e30)
        measured[name] = {
            "auroc": round(auroc(score, np.arange(len(score)) >= len(usual)), 4),
            "flagged": round(float((distances > threshold).mean()), 4),
            "images": len(distances),
        }
    return {
        "neighbours": options.neighbours,
        "threshold": threshold,
        "quantile": min(options.quantile, patients / (patients + 1)),
        "training_images": len(training),
        "held_out_images": len(usual),
        "held_out_patients": patients,
        "near": measured,
        "given": list(options.near),
    }, gate


def _near(
    images: Sequence[_Float], features: Callable[[_Float], _Float], spec: ModelSpec, options: ConfidenceOptions
) -> Iterator[tuple[str, list[_Float]]]:
    """Kinds of images that look nearly like the training's, with their features."""
    for axis in range(spec.network.spatial_dims):
        name = _axis_name(axis, spec)
        yield f"flipped {name}", [features(np.ascontiguousarray(np.flip(image, axis + 1))) for image in images]
    for axis in range(spec.network.spatial_dims):
        name = _axis_name(axis, spec)
        yield f"{_KEPT:.0%} of the field of view, {name}", [features(_cut(image, axis)) for image in images]
    for name, folder in options.near.items():
        yield name, [features(image) for image in _prepared(name, folder, spec, options.near_cases)]


def _axis_name(axis: int, spec: ModelSpec) -> str:
    return _AXES[spec.preprocess.orientation[axis]] if spec.network.spatial_dims == 3 else f"axis {axis}"


def _cut(image: _Float, axis: int) -> _Float:
    kept = max(int(image.shape[axis + 1] * _KEPT), 1)
    return np.ascontiguousarray(image[(slice(None),) * (axis + 1) + (slice(0, kept),)])


def _prepared(name: str, folder: Path, spec: ModelSpec, most: int) -> list[_Float]:
    """Other images, prepared as the clinic would; those that the clinic would refuse need no gate."""
    fields = images_below(folder) if folder.is_dir() else [str(folder)]
    found, refused = [], ""
    for field in fields:
        try:
            volume = read_channels(field, Path())
            if volume.channels == len(spec.channels):
                found.append(prepare_volume(volume, spec.preprocess).array)
        except MedsslError as error:
            refused = f"; the first that was refused: {error.message}"
        if most and len(found) == most:
            break
    if not found:
        raise ConfigError([f"confidence.near {name}: {folder} holds no image that the model takes{refused}"])
    return found
