"""From an image to a mask or class in the patient's own geometry, with the numbers that go with it."""

import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medssl.imaging.errors import ImageError
from medssl.imaging.preprocess import prepare_volume, restore_label
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import Bundle
from medssl.runtime.postprocess import keep_largest
from medssl.runtime.session import open_session
from medssl.runtime.sliding_window import classify, segment

NOT_A_DEVICE = "Not a medical device. For research only; not for diagnosis or treatment."
_SPACING_RATIO = 1.5


@dataclass(frozen=True)
class Prediction:
    """What the network found.

    Args:
        mask: (1, *S) uint8 on the native grid, None for classification.
        report: Content of report.json.
    """

    mask: Volume | None
    report: dict[str, Any]


def called_class(probabilities: dict[str, float], operating_point: dict[str, Any]) -> str:
    """The class that is reported: the most probable one, or of two that which the operating point calls."""
    if not operating_point:
        return max(probabilities, key=lambda name: probabilities[name])
    chosen = str(operating_point["class"])
    other = next(name for name in probabilities if name != chosen)
    return chosen if probabilities[chosen] >= operating_point["threshold"] else other


class Predictor:
    """A bundle, verified and loaded; predicts one volume at a time.

    Args:
        bundle: Folder or .zip.
        threads: Threads to compute with; 0 takes every processor this process may use.
        batch_size: Windows computed at once; more need more memory.
        endpoint: URL of a Triton server that computes instead; empty = this machine.

    Raises:
        BundleError: The bundle must not be used.
    """

    def __init__(self, bundle: Path, threads: int = 0, batch_size: int = 1, endpoint: str = "") -> None:
        self.bundle = Bundle.open(bundle)
        self._session, self.golden_difference = open_session(self.bundle, threads, endpoint)
        self._batch_size = batch_size

    def predict(self, volume: Volume) -> Prediction:
        """Predict one image.

        Raises:
            ImageError: The image does not fit the bundle.
        """
        spec = self.bundle.spec
        if volume.channels != len(spec.channels):
            raise ImageError(
                f"the bundle takes {len(spec.channels)} channel(s) ({', '.join(spec.channels)}), "
                f"the image has {volume.channels}",
                reason="channels",
            )
        began = time.perf_counter()
        prepared = prepare_volume(volume, spec.preprocess)
        ready = time.perf_counter()
        warnings = [*volume.source.notes, *prepared.notes, *self._doubts(volume)]
        if spec.task == "classification":
            shares = classify(
                prepared.array,
                spec.window,
                self._session,
                mirror_axes=spec.mirror_axes,
                activation=spec.activation,
            )
            found = {name: float(p) for name, p in zip(spec.classes, shares, strict=True)}
            timing = self._timing(began, ready, time.perf_counter(), 0.0)
            result: dict[str, Any] = {"probabilities": found, "class": called_class(found, spec.operating_point)}
            if spec.operating_point:
                result["operating_point"] = spec.operating_point
            return Prediction(None, self._report(volume, warnings, timing, result))
        labels = segment(
            prepared.array,
            spec.window,
            self._session,
            spec.num_outputs,
            overlap=spec.overlap,
            batch_size=self._batch_size,
            mirror_axes=spec.mirror_axes,
        )
        labels = keep_largest(labels, tuple(spec.post_processing.get("largest_component", ())))
        computed = time.perf_counter()
        mask = restore_label(labels, prepared.record)
        timing = self._timing(began, ready, computed, time.perf_counter() - computed)
        return Prediction(mask, self._report(volume, warnings, timing, {"labels": self._volumes(mask)}))

    def _volumes(self, mask: Volume) -> list[dict[str, Any]]:
        counts = np.bincount(mask.array.ravel(), minlength=256)
        return [
            {
                "value": label.value,
                "name": label.name,
                "voxels": int(counts[label.value]),
                "volume_ml": round(float(counts[label.value]) * mask.geometry.voxel_ml, 6),
            }
            for label in self.bundle.spec.labels
        ]

    def _doubts(self, volume: Volume) -> list[str]:
        """Where the image lies outside what the network was trained on."""
        trained = self.bundle.spec.provenance.get("fingerprint", {}).get("spacing_mm", {})
        if not trained or not volume.source.calibrated:
            return []
        low = min(trained["smallest"]) / _SPACING_RATIO
        high = max(trained["largest"]) * _SPACING_RATIO
        if any(not low <= s <= high for s in volume.geometry.spacing_mm):
            own = ", ".join(f"{s:.2f}" for s in volume.geometry.spacing_mm)
            return [
                f"voxel size {own} mm lies outside the training data's {low:.2f} to {high:.2f} mm: "
                "do not trust the result"
            ]
        return []

    def _timing(self, began: float, ready: float, computed: float, restored: float) -> dict[str, float]:
        return {
            "prepare_s": round(ready - began, 4),
            "network_s": round(computed - ready, 4),
            "restore_s": round(restored, 4),
        }

    def _report(
        self, volume: Volume, warnings: list[str], timing: dict[str, float], result: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "notice": NOT_A_DEVICE,
            "model": self.bundle.spec.name,
            "bundle_sha256": self.bundle.sha256,
            "task": self.bundle.spec.task,
            **result,
            "warnings": warnings,
            "image": {
                "shape": list(volume.geometry.shape),
                "spacing_mm": [round(s, 6) for s in volume.geometry.spacing_mm],
                "affine": volume.geometry.affine.tolist(),
                "modality": volume.modality,
                "format": volume.source.format,
            },
            "timing": timing,
            "versions": {"medssl": version("medssl"), "onnxruntime": version("onnxruntime"), "numpy": np.__version__},
            "threads": self._session.threads,
            "providers": list(self._session.providers),
            "golden_difference": self.golden_difference,
        }
