"""What a report says of an image: classes, volumes, how sure the bundle is, and what speaks against using them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.imaging.volume import Volume
from medssl.runtime.bundle import BundleSpec
from medssl.runtime.confidence import Gate, Tally, interval_ml

_SPACING_RATIO = 1.5
Flag = dict[str, str]
"""`code` and `text` of a reason not to use a result."""


def called_class(probabilities: dict[str, float], operating_point: dict[str, Any]) -> str:
    """The class that is reported: the most probable one, or of two that which the operating point calls."""
    if not operating_point:
        return max(probabilities, key=lambda name: probabilities[name])
    chosen = str(operating_point["class"])
    other = next(name for name in probabilities if name != chosen)
    return chosen if probabilities[chosen] >= operating_point["threshold"] else other


def classified(shares: npt.NDArray[np.float64], spec: BundleSpec) -> dict[str, Any]:
    """Probabilities of a classification and the class that they call."""
    found = {name: float(p) for name, p in zip(spec.classes, shares, strict=True)}
    result: dict[str, Any] = {"probabilities": found, "class": called_class(found, spec.operating_point)}
    return {**result, "operating_point": spec.operating_point} if spec.operating_point else result


def measured(mask: Volume, calibrated: bool, spec: BundleSpec, tally: Tally) -> dict[str, Any]:
    """Size, interval and mean probability of each label of a segmentation.

    A 3D image gives volumes, a 2D one areas; where the pixel size is unknown (not `calibrated`) voxels are counted.
    """
    counts = np.zeros(256, dtype=np.int64)
    for plane in np.moveaxis(mask.array[0], int(np.argmax(mask.geometry.shape)), 0):  # bincount needs 8 bytes a voxel
        counts += np.bincount(plane.ravel(), minlength=256)
    found: list[dict[str, Any]] = []
    solid = calibrated and mask.spatial_dims == 3
    intervals = spec.intervals.get("labels", {}) if solid else {}
    for label in spec.labels:
        voxels, sure = int(counts[label.value]), tally.mean(label.value)
        found.append({"value": label.value, "name": label.name, "voxels": voxels})
        if solid:
            found[-1]["volume_ml"] = round(voxels * mask.geometry.voxel_ml, 6)
        elif calibrated:
            found[-1]["area_mm2"] = round(voxels * float(np.prod(mask.geometry.spacing_mm)), 6)
        found[-1]["mean_probability"] = sure and round(sure, 4)
        if known := intervals.get(str(label.value)):
            low, high = interval_ml(voxels * mask.geometry.voxel_ml, known)
            found[-1] |= {"volume_ml_low": round(low, 6), "volume_ml_high": round(high, 6)}
    result: dict[str, Any] = {"labels": found}
    if intervals:
        result["volume_interval"] = {name: spec.intervals[name] for name in ("coverage", "patients", "meaning")}
    return result


def likeness(gate: Gate, features: npt.NDArray[np.float32]) -> tuple[dict[str, float], list[Flag]]:
    """How far an image lies from the training images, and a flag where that is too far."""
    distance = gate.distance(features)
    found = {"distance": round(min(distance, 1e9), 4), "threshold": round(gate.threshold, 4)}
    if distance <= gate.threshold:
        return found, []
    text = (
        f"the image is unlike those the network was trained on (distance {found['distance']:.2f}, at most "
        f"{found['threshold']:.2f} is usual)"
    )
    return found, [{"code": "unlike-training", "text": text}]


def doubts(volume: Volume, spec: BundleSpec) -> list[Flag]:
    """Where an image lies outside what the network was trained on, as its header tells."""
    trained = spec.provenance.get("fingerprint", {}).get("spacing_mm", {})
    if not trained or not (volume.source.calibrated or volume.source.at_detector):
        return []
    low = min(trained["smallest"]) / _SPACING_RATIO
    high = max(trained["largest"]) * _SPACING_RATIO
    if all(low <= s <= high for s in volume.geometry.spacing_mm):
        return []
    own = ", ".join(f"{s:.2f}" for s in volume.geometry.spacing_mm)
    text = f"voxel size {own} mm lies outside the training data's {low:.2f} to {high:.2f} mm"
    return [{"code": "voxel-size", "text": text}]
