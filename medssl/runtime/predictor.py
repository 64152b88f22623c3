"""From an image to a mask or class in the patient's own geometry, with the numbers that go with it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.preprocess import PreparedImage, restore_label
from medssl.imaging.volume import Volume
from medssl.runtime.blending import Observe
from medssl.runtime.bundle import GATE_FILE, Bundle
from medssl.runtime.confidence import Featured, Gate, Tally
from medssl.runtime.device import Device
from medssl.runtime.findings import check_modality, classified, doubts, likeness, measured, uncalibrated
from medssl.runtime.ort import onnxruntime
from medssl.runtime.postprocess import keep_largest
from medssl.runtime.session import open_session
from medssl.runtime.shares import Shares
from medssl.runtime.sliding_window import Plan, classify, segment_by

_LIBRARY_BYTES, _LEAST_SLAB_BYTES = 250 << 20, 128 << 20
NOT_A_DEVICE = "Not a medical device. For research only; not for diagnosis or treatment."


@dataclass(frozen=True)
class Prediction:
    """What the network found.

    Args:
        mask: (1, *S) uint8 on the native grid, None for classification.
        report: Content of report.json.
        shares: (L, *S) uint8 on the native grid, 255 times the probability of each label, where they were asked for.
    """

    mask: Volume | None
    report: dict[str, Any]
    shares: Volume | None = None


class Predictor:
    """A bundle, verified and loaded; predicts one volume at a time.

    Args:
        bundle: Folder or .zip.
        threads: Threads to compute with; 0 takes every processor this process may use.
        batch_size: Windows computed at once; more need more memory.
        device: What computes; `auto` takes what this build of ONNX Runtime offers.
        memory_mb: What image, masks and scores may take; with less, many classes on wide images take longer.
        endpoint: URL of a Triton server that computes instead; empty = this machine.

    Raises:
        BundleError: The bundle must not be used.
        ConfigError: The device is not offered here.
    """

    def __init__(
        self,
        bundle: Path,
        threads: int = 0,
        batch_size: int = 1,
        device: Device = "auto",
        memory_mb: int = 2000,
        endpoint: str = "",
    ) -> None:
        self.bundle = Bundle.open(bundle)
        self._session, self.golden_difference = open_session(self.bundle, threads, device, endpoint)
        self._gate = Gate.load(self.bundle.folder / GATE_FILE, self.bundle.spec.gate) if self.bundle.has_gate else None
        self._batch_size, self._memory_mb = batch_size, memory_mb

    def predict(
        self, volume: Volume, shares: bool = False, told: Callable[[float], None] = lambda _: None
    ) -> Prediction:
        """Predict one image.

        Args:
            volume: The image.
            shares: Keep the probability of each class at each voxel too; a segmentation has them.
            told: Of a segmentation, told of the share of the image that is done, plane by plane.

        Raises:
            ImageError: The image does not fit the bundle.
            BundleError: A server that computes does not answer, or serves another network by now.
        """
        spec = self.bundle.spec
        if spec.preprocess.channels_of(volume.channels) != len(spec.channels):
            raise ImageError(
                f"the bundle takes {len(spec.channels)} channel(s) ({', '.join(spec.channels)}), "
                f"the image has {volume.channels}",
                reason="channels",
            )
        untold = check_modality(volume, spec)
        began = time.perf_counter()
        prepared = PreparedImage(volume, spec.preprocess)
        ready = time.perf_counter()
        network = Featured(self._session.with_features, 2 ** len(spec.mirror_axes)) if self._gate else self._session
        flags = doubts(volume, spec)
        kept = self._shares(prepared, volume) if shares and spec.task == "segmentation" else None
        mask, result, computed = self._answer(volume, prepared, network, kept, told)
        self._session.confirm()  # a server may have been started again with another network since
        if self._gate is not None and isinstance(network, Featured):
            result["gate"], far = likeness(self._gate, network.features())
            flags += far
        warnings = [*volume.source.notes, *untold, *prepared.notes, *uncalibrated(spec)]
        warnings += [f"do not use: {flag['text']}" for flag in flags]
        timing = {
            "prepare_s": round(ready - began, 4),
            "network_s": round(computed - ready, 4),
            "restore_s": round(time.perf_counter() - computed, 4),
        }
        report = self._report(volume, {**result, "flags": flags, "warnings": warnings}, timing)
        return Prediction(mask, report, None if kept is None else kept.restore(prepared.record))

    def _answer(
        self,
        volume: Volume,
        prepared: PreparedImage,
        network: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
        kept: Shares | None,
        told: Callable[[float], None],
    ) -> tuple[Volume | None, dict[str, Any], float]:
        """Mask, what the report says of it, and when the network had finished."""
        spec = self.bundle.spec
        if spec.task == "classification":
            shares = classify(
                prepared,
                spec.window,
                network,
                mirror_axes=spec.mirror_axes,
                activation=spec.activation,
                temperature=spec.temperature,
            )
            return None, classified(shares, spec), time.perf_counter()
        largest = tuple(spec.post_processing.get("largest_component", ()))
        shape = prepared.shape[1:] if largest else None
        tally = Tally(spec.num_outputs, spec.activation, spec.temperature, shape)
        plan = Plan(spec.window, spec.overlap, self._batch_size, spec.mirror_axes, self._slab_bytes(prepared, kept))
        observe = tally.observe if kept is None else kept.after(tally.observe)
        observe = _telling(observe, told, int(np.prod(prepared.shape[1:])))
        labels = segment_by(plan, prepared, network, spec.num_outputs, observe)
        if largest:
            labels = keep_largest(labels, largest)
            tally.keep(labels)
        computed = time.perf_counter()
        mask = restore_label(labels, prepared.record)
        return mask, measured(mask, volume.source.calibrated, spec, tally), computed

    def _shares(self, prepared: PreparedImage, volume: Volume) -> Shares:
        spec = self.bundle.spec
        values = sorted(label.value for label in spec.labels)
        return Shares(values, prepared.shape[1:], volume.geometry.shape, spec.activation, spec.temperature)

    def _slab_bytes(self, prepared: PreparedImage, kept: Shares | None) -> int:
        """What is left for scores beside image, class map, shares, the scores of some windows and the libraries."""
        spec, voxels = self.bundle.spec, int(np.prod(prepared.shape[1:]))
        windows = 4 * (2 * self._batch_size + 1) * spec.num_outputs * int(np.prod(spec.window))
        tallied = voxels * Tally.VOXEL_BYTES if spec.post_processing.get("largest_component") else 0
        held = prepared.held_bytes + voxels + windows + tallied + _LIBRARY_BYTES
        held += 0 if kept is None else kept.held_bytes
        return max(self._memory_mb * 1_000_000 - held, _LEAST_SLAB_BYTES)

    def _report(self, volume: Volume, result: dict[str, Any], timing: dict[str, float]) -> dict[str, Any]:
        spec = self.bundle.spec
        return {
            "notice": NOT_A_DEVICE,
            "model": spec.name,
            "bundle_sha256": self.bundle.sha256,
            "task": spec.task,
            **result,
            "calibrated": bool(spec.calibration.get("cases")),
            "image": {
                "shape": list(volume.geometry.shape),
                "spacing_mm": [round(s, 6) for s in volume.geometry.spacing_mm],
                "affine": volume.geometry.affine.tolist(),
                "modality": volume.modality,
                "units": volume.source.units,
                "format": volume.source.format,
                "series": [channel.to_json() for channel in volume.source.channels],
            },
            "timing": timing,
            "versions": {"medssl": version("medssl"), "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
            "threads": self._session.threads,
            "precision": spec.precision,
            "providers": list(self._session.providers),
            "golden_difference": self.golden_difference,
        }


def _telling(observe: Observe, told: Callable[[float], None], voxels: int) -> Observe:
    """An observer that tells the share of an image's voxels that were observed."""
    done = 0

    def both(place: tuple[slice, ...], logits: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> None:
        nonlocal done
        observe(place, logits, labels)
        done += labels.size
        told(done / voxels)

    return both
