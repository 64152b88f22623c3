"""The probability of each class at each voxel, kept while the image is worked through; for DICOM-SEG FRACTIONAL."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError
from medssl.imaging.preprocess import Restoration, restored_maps
from medssl.imaging.volume import Volume
from medssl.runtime.blending import Observe
from medssl.runtime.sliding_window import Activation, sigmoid, softmax

_MOST = 1 << 28
"""Most voxels times classes: a frame each, of one byte a pixel, so a file of 256 MiB, and 1 GiB while it is written."""


class Shares:
    """Probabilities of the labels on the prepared grid, to 1 in 255, without post-processing.

    Args:
        values: Values of the labels, ascending.
        shape: The prepared image's.
        native: The image's own.
        activation: How logits become probabilities.
        temperature: Logits are divided by it first.

    Raises:
        ImageError: So many voxels and classes that their probabilities make no sensible file.
    """

    def __init__(
        self,
        values: Sequence[int],
        shape: Sequence[int],
        native: Sequence[int],
        activation: Activation,
        temperature: float = 1.0,
    ) -> None:
        size = len(values) * max(int(np.prod(shape)), int(np.prod(native)))
        if size > _MOST:
            raise ImageError(
                f"the probabilities of {len(values)} classes at each voxel would be {size / 1e6:.0f} million numbers, "
                f"more than {_MOST / 1e6:.0f} million: leave dicom-seg-fractional out of the formats",
                reason="too-large",
            )
        self._kept = np.zeros((len(values), *shape), dtype=np.uint8)
        self._values, self._activation, self._temperature = list(values), activation, np.float32(temperature)

    @property
    def held_bytes(self) -> int:
        """What is kept."""
        return int(self._kept.nbytes)

    def observe(self, place: tuple[slice, ...], logits: npt.NDArray[np.float32], _: npt.NDArray[np.uint8]) -> None:
        """Take in a finished plane: its place in the image and its blended logits (K, *plane)."""
        scored = {"softmax": softmax, "sigmoid": sigmoid}[self._activation](logits[None] / self._temperature)[0]
        self._kept[(slice(None), *place)] = np.rint(scored[self._values] * 255)

    def after(self, first: Observe) -> Observe:
        """Another observer, and then this one."""

        def both(place: tuple[slice, ...], logits: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> None:
            first(place, logits, labels)
            self.observe(place, logits, labels)

        return both

    def restore(self, record: Restoration) -> Volume:
        """(L, *S) uint8 on the native grid, linear between voxels, 0 where the prepared image does not reach."""
        layers = np.zeros((len(self._kept), *record.native.shape), dtype=np.uint8)
        for layer, moved in zip(layers, restored_maps(self._kept, record), strict=True):
            layer[...] = np.rint(np.clip(moved, 0, 255))
        return Volume(layers, record.native)
