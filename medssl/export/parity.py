"""Proof that the exported graph does what the trained network does: the same logits, the same masks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medssl.data.cache import Cache, CachedCase
from medssl.export.options import ParityOptions
from medssl.imaging.errors import BundleError
from medssl.imaging.progress import Progress
from medssl.runtime.sliding_window import classify, segment
from medssl.tasks.model_file import ModelSpec

Predict = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
BATCHES = (1, 3)


@dataclass(frozen=True)
class Parity:
    """What was measured.

    Args:
        max_logit_difference: Largest difference of any logit, by batch size.
        windows: Windows of real cases that were compared.
        volumes: Whole images that were predicted both ways.
        min_dice: Smallest Dice between both masks of any class in any image; None for classification, or where neither
            mask holds a class.
        differing_voxels: Voxels of the masks that differ, of how many.
        max_probability_difference: Classification: largest difference of a probability of a whole image.
        torch_window_s: Median time of one window in torch.
        onnxruntime_window_s: Median time of one window in ONNX Runtime.
    """

    max_logit_difference: dict[str, float]
    windows: int
    volumes: int
    min_dice: float | None
    differing_voxels: tuple[int, int] | None
    max_probability_difference: float | None
    torch_window_s: float
    onnxruntime_window_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for bundle.json."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def problems(self, options: ParityOptions) -> list[str]:
        """What breaks the rules, one sentence each; a difference that is no number breaks them."""
        found = [
            f"logits differ by {value:.3g} at {batch.replace('_', ' ')}, allowed are {options.max_logit_difference:g}"
            for batch, value in self.max_logit_difference.items()
            if not value <= options.max_logit_difference
        ]
        if self.min_dice is not None and not self.min_dice >= options.min_dice:
            found.append(f"masks agree with a Dice of {self.min_dice:.5f} only, {options.min_dice:g} are due")
        return found


def measure_parity(
    reference: Predict,
    exported: Predict,
    cache: Cache,
    cases: Sequence[CachedCase],
    windows: npt.NDArray[np.float32],
    spec: ModelSpec,
) -> Parity:
    """Compare two ways to predict, on windows and on whole images of real cases.

    Args:
        reference: Torch.
        exported: The clinic's session on the exported graph.
        cache: Prepared cache.
        cases: Cases to predict as whole images, without mirroring.
        windows: (N, C, *window), N >= 3.
        spec: Window, overlap and classes.

    Raises:
        BundleError: The exported graph gives something of another shape.
    """
    differences = {f"batch_{size}": _logit_difference(reference, exported, windows, size) for size in BATCHES}
    torch_s, exported_s = window_seconds(reference, windows[:1]), window_seconds(exported, windows[:1])
    lowest: float | None = None
    probability: float | None = None
    voxels = [0, 0]
    with Progress("parity", len(cases)) as progress:
        for case in cases:
            image = cache.image(case)
            if spec.task == "segmentation":
                masks = [_mask(predict, image, spec) for predict in (reference, exported)]
                voxels = [voxels[0] + int((masks[0] != masks[1]).sum()), voxels[1] + int(masks[0].size)]
                lowest = _lowest(lowest, masks[0], masks[1], [label.value for label in spec.labels])
            else:
                shares = [
                    classify(image, spec.window, predict, activation=spec.activation)
                    for predict in (reference, exported)
                ]
                probability = max(probability or 0.0, float(np.abs(shares[0] - shares[1]).max()))
            progress.advance(note=case.case)
    return Parity(
        max_logit_difference=differences,
        windows=len(windows),
        volumes=len(cases),
        min_dice=lowest,
        differing_voxels=(voxels[0], voxels[1]) if spec.task == "segmentation" else None,
        max_probability_difference=probability,
        torch_window_s=torch_s,
        onnxruntime_window_s=exported_s,
    )


def torch_function(network: torch.nn.Module) -> Predict:
    """Logits of image windows, numpy to numpy, on the CPU."""

    @torch.no_grad()
    def predict(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = network(torch.from_numpy(np.ascontiguousarray(windows))).float().numpy()
        return logits

    return predict


def _logit_difference(reference: Predict, exported: Predict, windows: npt.NDArray[np.float32], batch: int) -> float:
    """Largest difference over all windows, taken `batch` at a time; the last batch begins earlier to be full."""
    largest = 0.0
    for begin in range(0, len(windows), batch):
        first = max(min(begin, len(windows) - batch), 0)
        chunk = windows[first : first + batch]
        ours, theirs = reference(chunk), exported(chunk)
        if ours.shape != theirs.shape:
            raise BundleError(
                f"the exported graph gives {theirs.shape} where torch gives {ours.shape}: no bundle is made",
                reason="parity",
            )
        difference = float(np.abs(ours - theirs).max())
        largest = difference if np.isnan(difference) else max(largest, difference)
        if np.isnan(largest):
            break
    return largest


def _mask(predict: Predict, image: npt.NDArray[np.float32], spec: ModelSpec) -> npt.NDArray[np.uint8]:
    return segment(image, spec.window, predict, spec.network.out_channels, overlap=spec.overlap, batch_size=1)


def _lowest(
    lowest: float | None, ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8], values: Sequence[int]
) -> float | None:
    found = [dice for value in values if (dice := overlap(ours == value, theirs == value)) is not None]
    return min([*found, *([] if lowest is None else [lowest])], default=None)


def overlap(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float | None:
    """Dice of two masks; None where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else None


def window_seconds(predict: Predict, window: npt.NDArray[np.float32]) -> float:
    """Time of a window, the median of three calls."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        predict(window)
        times.append(time.perf_counter() - began)
    return sorted(times)[1]
