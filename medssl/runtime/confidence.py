"""How sure a bundle is of what it says, by numbers measured when it was made: probabilities, volumes, likeness.

Probabilities are softmax or sigmoid of logits divided by a temperature (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017, arXiv 1706.04599). Volumes carry a split-conformal interval (Lei et al., "Distribution-Free
Predictive Inference for Regression", JASA 2018). Likeness is the distance of the encoder's features to those of
training images, for which a threshold was set on patients held out.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import BundleError
from medssl.runtime.bundle_guard import check_arrays
from medssl.runtime.sliding_window import Activation

_Float = npt.NDArray[np.float32]


class Tally:
    """Mean calibrated probability of each class over the voxels that were given it.

    Args:
        num_classes: K.
        activation: How logits become probabilities.
        temperature: Logits are divided by it first.
        shape: Of the image, where voxels may lose their class later (`keep`): each one's probability is kept then.
    """

    VOXEL_BYTES = 2
    """Memory for each voxel of an image of known shape."""

    def __init__(
        self, num_classes: int, activation: Activation, temperature: float, shape: Sequence[int] | None = None
    ) -> None:
        self._sum, self._voxels = np.zeros(num_classes), np.zeros(num_classes, dtype=np.int64)
        self._activation, self._temperature = activation, temperature
        self._each = None if shape is None else np.zeros(shape, dtype=np.float16)

    def observe(self, place: tuple[slice, ...], logits: _Float, labels: npt.NDArray[np.uint8]) -> None:
        """Take in a plane; background is not counted, which is most of an image."""
        found = labels > 0
        if not found.any():
            return
        called = labels[found]
        shares = called_probability(logits[:, found], called, self._activation, self._temperature)
        if self._each is not None:
            self._each[place][found] = shares
        self._sum += np.bincount(called, weights=shares, minlength=len(self._sum))
        self._voxels += np.bincount(called, minlength=len(self._sum))

    def keep(self, labels: npt.NDArray[np.uint8]) -> None:
        """Count only voxels that still have their class in (*S) labels, after post-processing.

        Raises:
            ValueError: The image's shape was not known.
        """
        if self._each is None:
            raise ValueError("a tally forgets single voxels unless it is given the image's shape")
        self._sum[:], self._voxels[:] = 0, 0
        for plane, shares in zip(labels, self._each, strict=True):  # bincount needs 8 bytes a voxel
            found = plane > 0
            called = plane[found]
            self._sum += np.bincount(called, weights=shares[found], minlength=len(self._sum))
            self._voxels += np.bincount(called, minlength=len(self._sum))

    def mean(self, value: int) -> float | None:
        """Of a class; None where no voxel was given it."""
        return float(self._sum[value] / self._voxels[value]) if self._voxels[value] else None


def called_probability(
    logits: _Float, called: npt.NDArray[np.integer[Any]], activation: Activation, temperature: float
) -> npt.NDArray[np.float64]:
    """Calibrated probability (N,) of the classes called, from logits (K, N)."""
    scale = np.float32(1 / temperature)
    own = np.take_along_axis(logits, called[None].astype(np.int64), axis=0)[0] * scale
    if activation == "sigmoid":
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * own.astype(np.float64)))
    top = logits.max(axis=0) * scale
    total = np.zeros_like(top)
    for row in logits:
        total += np.exp(row * scale - top)  # float32: with many classes this is most of the work after the network
    return np.asarray(np.exp((own - top).astype(np.float64)) / total)


def interval_ml(volume_ml: float, entry: Mapping[str, float]) -> tuple[float, float]:
    """Volumes between which the true one lies in the share of patients that the bundle states.

    Args:
        volume_ml: The measured volume.
        entry: `quantile` of the errors |true - measured| / (measured + `floor_ml`) on patients held out.
    """
    reach = entry["quantile"] * (volume_ml + entry["floor_ml"])
    return max(volume_ml - reach, 0.0), volume_ml + reach


@dataclass(frozen=True)
class Gate:
    """Features of training images, and how far from them an image may lie.

    The distance is that to the `neighbours`-th nearest training image, features scaled to unit deviation (after Sun et
    al., "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022, arXiv 2204.06507, without their scaling
    of each vector to unit length: pooled features say something by their size).

    Args:
        mean: (F,) of the training images.
        scale: (F,) their standard deviation.
        embeddings: (N, F) scaled features of the training images.
        neighbours: Which neighbour's distance counts.
        threshold: Images farther away are flagged.
    """

    mean: _Float
    scale: _Float
    embeddings: _Float
    neighbours: int
    threshold: float = float("inf")

    @classmethod
    def fit(cls, features: _Float, neighbours: int) -> "Gate":
        """Gate without a threshold from features (N, F) of training images, N > `neighbours`."""
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        scale = np.maximum(deviation, 1e-3 * float(deviation.max()) + 1e-12).astype(np.float32)
        return cls(mean, scale, (features - mean) / scale, neighbours)

    @classmethod
    def load(cls, path: Path, content: Mapping[str, Any]) -> "Gate":
        """Gate from a bundle's file and its entry in bundle.json.

        Raises:
            BundleError: The file does not hold what it should.
        """
        try:
            check_arrays(path, "gate")
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                mean, scale, known = (arrays[name].astype(np.float32) for name in ("mean", "scale", "embeddings"))
            gate = cls(mean, scale, known, int(content["neighbours"]), float(content["threshold"]))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path.name} is damaged ({error})", reason="gate") from error
        if known.ndim != 2 or not mean.shape == scale.shape == known.shape[1:] or not 0 < gate.neighbours < len(known):
            raise BundleError(f"{path.name} holds arrays that do not belong together", reason="gate")
        return gate

    def distance(self, features: npt.NDArray[np.floating[Any]]) -> float:
        """Distance of an image's features (F,), divided by the square root of their number; infinite if no number."""
        apart = np.sqrt((((features - self.mean) / self.scale - self.embeddings) ** 2).mean(axis=1))
        found = float(np.partition(apart, self.neighbours - 1)[self.neighbours - 1])
        return found if np.isfinite(found) else float("inf")


class Featured:
    """A network that answers logits and keeps the mean of its features over the windows it saw.

    Args:
        predict: (B, C, *window) to logits (B, K, ...) and features (B, F).
        mirrorings: How often each batch is asked for, mirrored in turn; its features count the first time, unmirrored.
    """

    def __init__(self, predict: Callable[[_Float], tuple[_Float, _Float]], mirrorings: int = 1) -> None:
        self._predict, self._mirrorings, self._calls = predict, mirrorings, 0
        self._sum: npt.NDArray[np.float64] | None = None
        self._windows = 0

    def __call__(self, windows: _Float) -> _Float:
        """Logits."""
        logits, features = self._predict(windows)
        self._calls += 1
        if (self._calls - 1) % self._mirrorings:
            return logits
        total = features.sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._windows += len(features)
        return logits

    def again(self, windows: _Float) -> _Float:
        """Logits of windows that were counted before."""
        return self._predict(windows)[0]

    def features(self) -> _Float:
        """(F,) mean over the windows."""
        if self._sum is None:
            raise ValueError("no window was seen")
        return np.asarray(self._sum / self._windows, dtype=np.float32)
