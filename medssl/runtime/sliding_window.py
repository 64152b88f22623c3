"""Sliding-window inference with bounded memory, over any callable: ONNX Runtime in the clinic, torch in training.

Logits of windows are blended with a Gaussian weight (as nnU-Net does). The image is worked through in slabs along its
longest axis: once no further window reaches a plane, its class map is written and the plane's scores are dropped, so
all-class scores never exist at full size. Where even a slab would be large (many classes on wide planes), the image is
worked through in strips of the next axis; windows across a strip's edge are computed for both strips, and the result is
the same. For the class with the highest logit the weights need not be divided out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise, product
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ConfigError, ImageError
from medssl.runtime.blending import Observe, Slab, gaussian

_Float = npt.NDArray[np.float32]
Predict = Callable[[_Float], _Float]
"""(B, C, *window) to scores (B, K, *window): logits, before softmax or sigmoid."""
Activation = Literal["softmax", "sigmoid"]
"""How logits become scores: one class of all, or each class against all others, as the network was trained."""
SLAB_BYTES = 1 << 30
"""Largest slab of scores before the image is worked through in strips."""


class Image(Protocol):
    """A prepared image that need not exist as a whole."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *S)."""

    def planes(self, axis: int, begin: int, end: int) -> _Float:
        """(C, *S) with the planes `begin` to `end` of a spatial axis alone."""


@runtime_checkable
class Counting(Protocol):
    """A network that keeps account of the windows it is asked for."""

    def again(self, windows: _Float) -> _Float:
        """Scores of windows that were counted before."""


@dataclass(frozen=True)
class Plan:
    """How an image is cut into windows, and how much is held at a time.

    Args:
        window: Size of a window, `spatial_dims` numbers.
        overlap: Share by which neighbouring windows overlap, in [0, 1).
        batch_size: Windows a call.
        mirror_axes: Spatial axes over whose mirrorings (all combinations) logits are averaged.
        slab_bytes: Largest slab of scores; where it would be larger, the image is worked through in strips.
    """

    window: Sequence[int]
    overlap: float = 0.5
    batch_size: int = 4
    mirror_axes: Sequence[int] = ()
    slab_bytes: int = SLAB_BYTES

    def __post_init__(self) -> None:
        if self.batch_size < 1:  # no window would be computed, and the mask be empty
            raise ConfigError([f"batch_size must be 1 or more, got {self.batch_size}"])


def segment(
    image: _Float | Image,
    window: Sequence[int],
    predict: Predict,
    num_classes: int,
    *,
    overlap: float = 0.5,
    batch_size: int = 4,
    mirror_axes: Sequence[int] = (),
    observe: Observe | None = None,
) -> npt.NDArray[np.uint8]:
    """Class map of an image of any size; `segment_by` with a plan of these numbers."""
    return segment_by(Plan(window, overlap, batch_size, mirror_axes), image, predict, num_classes, observe)


def segment_by(
    plan: Plan, image: _Float | Image, predict: Predict, num_classes: int, observe: Observe | None = None
) -> npt.NDArray[np.uint8]:
    """Class map of an image of any size.

    Args:
        plan: How it is cut.
        image: (C, *S) prepared image, or one that gives its planes when asked.
        predict: The network; one that is `Counting` counts a window once, however many strips it reaches into.
        num_classes: K, background included.
        observe: Told of the blended logits of each plane.

    Returns:
        (*S) uint8, the class with the highest blended logit.

    Raises:
        ImageError: Window and image differ in dimensions, or the network gives another number of classes or what is no
            finite number.
    """
    window = plan.window
    padded = _Padded(image, window)
    shape = padded.shape
    order = sorted(range(len(shape)), key=lambda a: -shape[a])  # the longest axis has the smallest cross-section
    stream = order[0]
    starts = [_starts(n, w, plan.overlap) for n, w in zip(shape, window, strict=True)]
    weight, labels = gaussian(window), np.zeros(shape, dtype=np.uint8)
    again = predict.again if isinstance(predict, Counting) else predict
    for strip in _strips(shape, window[stream] * num_classes, order, plan.slab_bytes):
        sizes = [part.stop - part.start for part in strip]
        sizes[stream] = window[stream]
        slab = Slab(num_classes, sizes, [part.start for part in strip], stream, weight, observe is not None)
        rest = _places(strip, starts, window, stream)
        across, edge = order[1], strip[order[1]].start  # windows from before the edge were computed for that strip, too
        groups = (again, [p for p in rest if p[across] < edge]), (predict, [p for p in rest if p[across] >= edge])
        for number, start in enumerate(starts[stream]):
            block = padded.planes(stream, start, start + window[stream])
            for place, scores in chain.from_iterable(
                _scores(block, places, window, network, plan.batch_size, plan.mirror_axes) for network, places in groups
            ):
                if scores.shape[0] != num_classes:
                    text = f"the network gives {scores.shape[0]} classes, {num_classes} are due"
                    raise ImageError(text, reason="classes")
                slab.add([start if a == stream else p for a, p in enumerate(place)], scores)
                del scores  # all classes of a window: not two of them at once
            following = starts[stream][number + 1] if number + 1 < len(starts[stream]) else shape[stream]
            slab.finish(following - start, labels, observe and padded.observer(observe))
        del slab
    return labels[padded.inside]


def classify(
    image: _Float | Image,
    window: Sequence[int],
    predict: Predict,
    *,
    mirror_axes: Sequence[int] = (),
    activation: Activation = "softmax",
    temperature: float = 1.0,
) -> npt.NDArray[np.float64]:
    """Class probabilities (K,) of an image of any size: the mean over the fewest windows that cover it whole.

    The network learned from crops of the window's size, each with the image's class. Small images are padded.

    Args:
        image: (C, *S) prepared image, or one that gives its planes when asked.
        window: Size of a window, `spatial_dims` numbers.
        predict: The network, to logits (B, K).
        mirror_axes: Spatial axes over whose mirrorings (all combinations) probabilities are averaged.
        activation: How logits become probabilities.
        temperature: Logits are divided by it first.

    Raises:
        ImageError: Window and image differ in dimensions, or the network gives NaN or infinity.
    """
    padded = _Padded(image, window)
    places = product(*(_starts(n, w, 0.0) for n, w in zip(padded.shape, window, strict=True)))
    scored = _scored(predict, activation, temperature)
    scores: list[_Float] = []
    for start, group in groupby(places, key=lambda place: place[0]):
        block = padded.planes(0, start, start + window[0])
        rest = [(0, *place[1:]) for place in group]
        scores += [s for _, s in _scores(block, rest, window, scored, 1, mirror_axes)]
    return np.asarray(np.mean(scores, axis=0), dtype=np.float64)


def windows_of(image: _Float | Image, window: Sequence[int], overlap: float) -> Iterator[_Float]:
    """The windows (1, C, *window) in which an image is predicted, one by one; without overlap those of `classify`."""
    padded = _Padded(image, window)
    places = product(*(_starts(n, w, overlap) for n, w in zip(padded.shape, window, strict=True)))
    for start, group in groupby(places, key=lambda place: place[0]):
        block = padded.planes(0, start, start + window[0])
        for place in group:
            inside = tuple(slice(p, p + w) for p, w in zip(place[1:], window[1:], strict=True))
            yield block[None][(slice(None), slice(None), slice(None), *inside)]


def softmax(scores: _Float) -> _Float:
    """Softmax over axis 1 of (B, K, ...)."""
    result: _Float = scores - scores.max(axis=1, keepdims=True)
    np.exp(result, out=result)  # in place: with many classes these arrays are the peak of memory
    result /= result.sum(axis=1, keepdims=True)
    return result


def sigmoid(scores: _Float) -> _Float:
    """Sigmoid of each number, without overflow."""
    result: _Float = 0.5 + 0.5 * np.tanh(0.5 * scores)
    return result


def _scored(predict: Predict, activation: Activation, temperature: float) -> Predict:
    function = {"softmax": softmax, "sigmoid": sigmoid}[activation]
    return lambda windows: function(_finite(predict(windows)) / np.float32(temperature))


def _finite(scores: _Float) -> _Float:
    """The scores, if each is a number: a comparison with NaN is false, such voxels would be called background."""
    if not np.isfinite(scores).all():
        text = "the network's answers are no finite numbers (NaN or infinity): nothing is predicted"
        raise ImageError(text, reason="nan")
    return scores


class _Padded:
    """An image at least as large as a window, its edge continued; `inside` is where the image lies in it."""

    def __init__(self, image: _Float | Image, window: Sequence[int]) -> None:
        if len(window) != len(image.shape) - 1:
            raise ImageError(f"window {tuple(window)} does not fit an image of {image.shape}", reason="window")
        sizes = image.shape[1:]
        gaps = [max(w - n, 0) for n, w in zip(sizes, window, strict=True)]
        self._image, self._margins = image, [(gap // 2, gap - gap // 2) for gap in gaps]
        self.inside = tuple(slice(a, a + n) for (a, _), n in zip(self._margins, sizes, strict=True))
        self.shape = tuple(n + gap for n, gap in zip(sizes, gaps, strict=True))

    def planes(self, axis: int, begin: int, end: int) -> _Float:
        """Padded planes `begin` to `end` of an axis; where it is padded there is one window, which is all of it."""
        size = self._image.shape[axis + 1]
        low, high = (0, size) if any(self._margins[axis]) else (begin, end)
        if isinstance(self._image, np.ndarray):
            block: _Float = self._image[(slice(None),) * (axis + 1) + (slice(low, high),)]
        else:
            block = self._image.planes(axis, low, high)
        return np.pad(block, [(0, 0), *self._margins], mode="edge") if any(map(any, self._margins)) else block

    def observer(self, observe: Observe) -> Observe:
        """`observe` in places of the image itself, without what is padded."""
        if not any(map(any, self._margins)):
            return observe

        def inner(place: tuple[slice, ...], logits: _Float, labels: npt.NDArray[np.uint8]) -> None:
            cut, own = [], []
            for part, inside in zip(place, self.inside, strict=True):
                low, high = max(part.start, inside.start), min(part.stop, inside.stop)
                cut.append(slice(low - part.start, max(high, low) - part.start))
                own.append(slice(low - inside.start, max(high, low) - inside.start))
            if labels[tuple(cut)].size:
                observe(tuple(own), logits[(slice(None), *cut)], labels[tuple(cut)])

        return inner


def _strips(shape: Sequence[int], depth: int, order: Sequence[int], slab_bytes: int) -> Iterator[tuple[slice, ...]]:
    """The image whole, or parts of it along its second-longest axis whose slab of scores is no larger than allowed."""
    whole = [slice(0, n) for n in shape]
    plane = int(np.prod([n for a, n in enumerate(shape) if a != order[0]]))
    number = min(-(-depth * plane * 4 // slab_bytes), shape[order[1]])
    edges = np.linspace(0, shape[order[1]], number + 1).round().astype(int).tolist()
    for low, high in pairwise(edges):
        whole[order[1]] = slice(low, high)
        yield tuple(whole)


def _places(
    strip: Sequence[slice], starts: Sequence[Sequence[int]], window: Sequence[int], stream: int
) -> list[tuple[int, ...]]:
    """Where the windows begin that reach into a strip, 0 along the axis that is worked through."""
    reaching = [
        [0] if a == stream else [s for s in starts[a] if s < part.stop and s + window[a] > part.start]
        for a, part in enumerate(strip)
    ]
    return list(product(*reaching))


def _starts(size: int, window: int, overlap: float) -> list[int]:
    """Evenly spread starts, so that neighbours overlap by at least the share asked for."""
    steps = max(int(np.ceil((size - window) / max(window * (1 - overlap), 1))), 0)
    return [round(k * (size - window) / steps) for k in range(steps + 1)] if steps else [0]


def _mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Axes of (C, *S) to flip, for each combination."""
    return [
        tuple(a + 1 for a, chosen in zip(axes, bits, strict=True) if chosen)
        for bits in product((0, 1), repeat=len(axes))
    ]


def _scores(
    image: _Float,
    places: Sequence[tuple[int, ...]],
    window: Sequence[int],
    predict: Predict,
    batch_size: int,
    mirror_axes: Sequence[int],
) -> Iterator[tuple[tuple[int, ...], _Float]]:
    """Scores (K, ...) of the window at each place, averaged over mirrorings."""
    flips = _mirrorings(mirror_axes)
    for first in range(0, len(places), batch_size):
        chosen = places[first : first + batch_size]
        boxes = [tuple(slice(b, b + w) for b, w in zip(place, window, strict=True)) for place in chosen]
        crops = np.stack([image[(slice(None), *box)] for box in boxes])
        total = _finite(predict(crops))
        for flip in flips[1:]:
            axes = tuple(a + 1 for a in flip)
            mirrored = _finite(predict(np.ascontiguousarray(np.flip(crops, axes))))
            total = total + (np.flip(mirrored, axes) if mirrored.ndim == crops.ndim else mirrored)
        if len(flips) > 1:
            total = (total / len(flips)).astype(np.float32)
        for number, place in enumerate(chosen):
            yield place, total[number]
        del total
