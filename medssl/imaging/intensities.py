"""What normalisation needs to know of a channel whose values come in parts, and the normalisation itself."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError

_Float = npt.NDArray[np.float32]
_MOST_VALUES = 1_000_000
"""Values of which `robust_ends` are taken."""


def normalise(array: _Float, kind: str, ends: Sequence[tuple[float, float]]) -> None:
    """Normalise channels in place.

    Args:
        array: (C, *S).
        kind: `zscore`: to mean 0, deviation 1; else to -1 to 1, clipped.
        ends: Mean and deviation, or lower and upper end, of each channel.
    """
    for values, (low, high) in zip(array, ends, strict=True):
        np.subtract(values, low, out=values)
        np.divide(values, high if kind == "zscore" else high - low, out=values)
        if kind != "zscore":
            np.clip(values, 0, 1, out=values)
            np.multiply(values, 2, out=values)
            np.subtract(values, 1, out=values)


def robust_ends(values: npt.NDArray[np.generic]) -> tuple[float, float]:
    """The 0.5th and 99.5th percentile, of evenly spread values where there are many."""
    step = int(np.ceil((values.size / _MOST_VALUES) ** (1 / values.ndim)))
    low, high = np.percentile(values[(slice(None, None, max(step, 1)),) * values.ndim].astype(np.float32), [0.5, 99.5])
    return float(low), float(high)


class Spread:
    """Range, mean and standard deviation of values that come in parts.

    Args:
        nonzero: Mean and deviation leave out values that are 0.
    """

    def __init__(self, nonzero: bool) -> None:
        self._nonzero = nonzero
        self.low, self.high = np.inf, -np.inf
        self._count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: _Float) -> None:
        """Take in a part (Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983)."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        chosen = values[values != 0] if self._nonzero else values
        if not chosen.size:
            return
        mean, deviation = float(chosen.mean(dtype=np.float64)), float(chosen.std(dtype=np.float64))
        count, apart = self._count + chosen.size, mean - self.mean
        self._squares += chosen.size * deviation**2 + apart**2 * self._count * chosen.size / count
        self.mean += apart * chosen.size / count
        self._count = count

    @property
    def deviation(self) -> float:
        """Standard deviation."""
        return float(np.sqrt(self._squares / max(self._count, 1)))


class Percentiles:
    """Percentiles of values that come in parts; they are all kept until then.

    Args:
        most: How many values may come.
        nonzero: Leave out values that are 0.
    """

    def __init__(self, most: int, nonzero: bool) -> None:
        self._values, self._count, self._nonzero = np.empty(most, dtype=np.float32), 0, nonzero

    def add(self, values: _Float) -> None:
        """Take in a part."""
        chosen = values[values != 0] if self._nonzero else values.ravel()
        self._values[self._count : self._count + chosen.size] = chosen
        self._count += chosen.size

    def at(self, low: float, high: float) -> tuple[float, float]:
        """The two percentiles; asked for once, since the values lose their order.

        Raises:
            ImageError: Both have one value.
        """
        values = self._values[: self._count]
        found = np.percentile(values, (low, high), overwrite_input=True) if values.size else np.zeros(2)
        if not found[0] < found[1]:
            raise ImageError("constant image: both percentiles have one value", reason="constant-image")
        return float(found[0]), float(found[1])
