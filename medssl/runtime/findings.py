"""What a report says of an image: classes, volumes, how sure the bundle is, and what speaks against using them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.modality import known_modality
from medssl.imaging.target_grid import oriented
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


def check_modality(volume: Volume, spec: BundleSpec) -> list[str]:
    """Refuse a DICOM image of another modality than the bundle is for; a sentence where the image does not tell.

    Raises:
        ImageError: It is of another one.
    """
    if not spec.modalities or volume.source.format != "dicom" or volume.modality in spec.modalities:
        return []
    due = " or ".join(spec.modalities)
    if volume.modality in ("", "OT"):
        return [f"the image does not tell its modality, so whether it is {due}, as the bundle needs, is taken on trust"]
    own = known_modality(volume.modality) or "another one"  # an unknown code may be any text
    raise ImageError(f"the image is of modality {own}, the bundle is for {due}", reason="modality")


def uncalibrated(spec: BundleSpec) -> list[str]:
    """The warning that nobody compared class probabilities with how often they are right."""
    if spec.task != "classification" or spec.calibration.get("cases"):
        return []
    return ["the class probabilities are not calibrated: nobody compared them with how often they are right"]


def doubts(volume: Volume, spec: BundleSpec) -> list[Flag]:
    """What its reader doubts, and where an image lies outside what the network was trained on, as its header tells."""
    told = [{"code": code, "text": text} for code, text in volume.source.doubts]
    own, ranges = _sizes(volume, spec)
    if text := _no_size(volume, spec, known=bool(ranges[0])):
        return [*told, {"code": "voxel-size", "text": text}]
    if not volume.source.to_scale:
        return told
    low, high = (size / _SPACING_RATIO for size in ranges[0]), (size * _SPACING_RATIO for size in ranges[1])
    limits = list(zip(low, high, strict=True))
    if all(a <= size <= b for size, (a, b) in zip(own, limits, strict=True)):
        return told
    usual = ", ".join(dict.fromkeys(f"{a:.2f} to {b:.2f}" for a, b in limits))
    text = f"voxel size {', '.join(f'{s:.2f}' for s in own)} mm lies outside the training data's {usual} mm"
    return [*told, {"code": "voxel-size", "text": text}]


def _no_size(volume: Volume, spec: BundleSpec, *, known: bool) -> str:
    """What speaks against an image that the network works on in mm, where it or the training does not tell its mm."""
    if spec.preprocess.spacing_mm is None or volume.source.to_scale is known:
        return ""
    works = f"the network works on voxels of {_by(spec.preprocess.spacing_mm)} mm"
    if known:
        return f"{works}, but the image does not tell its voxel size, so 1 mm was taken"
    if not spec.provenance.get("fingerprint"):
        return ""
    own = _by(volume.geometry.spacing_mm)
    return f"{works}, but its training images did not tell theirs, so 1 mm was taken; this one has voxels of {own} mm"


def _by(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:.2f}" for size in sizes)


def _sizes(volume: Volume, spec: BundleSpec) -> tuple[tuple[float, ...], tuple[Sequence[float], Sequence[float]]]:
    """Voxel size of an image, and the smallest and largest of the training, axis by axis.

    Bundles of earlier versions know the training's along the axes of its files alone, which may lie otherwise in each:
    then all axes have one range.
    """
    if spec.spacing_mm:
        own = oriented(volume.geometry, spec.preprocess.orientation).spacing_mm
        return own, (spec.spacing_mm["smallest"], spec.spacing_mm["largest"])
    own, known = volume.geometry.spacing_mm, spec.provenance.get("fingerprint", {}).get("spacing_mm")
    if not known:
        return (), ((), ())
    return own, ([min(known["smallest"])] * len(own), [max(known["largest"])] * len(own))
