"""Sliding-window inference with bounded memory, over any callable: ONNX Runtime in the clinic, torch in training.

Logits of windows are blended with a Gaussian weight (as nnU-Net does). The image is worked through in slabs along its
longest axis: once no further window reaches a plane, its class map is written and the plane's scores are dropped, so
all-class scores never exist at full size. For the class with the highest logit the weights need not be divided out.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError

_Float = npt.NDArray[np.float32]
Predict = Callable[[_Float], _Float]
"""(B, C, *window) to scores (B, K, *window): logits, before softmax or sigmoid."""
Activation = Literal["softmax", "sigmoid"]
"""How logits become scores: one class of all, or each class against all others, as the network was trained."""


def segment(
    image: _Float,
    window: Sequence[int],
    predict: Predict,
    num_classes: int,
    *,
    overlap: float = 0.5,
    batch_size: int = 4,
    mirror_axes: Sequence[int] = (),
) -> npt.NDArray[np.uint8]:
    """Class map of an image of any size.

    Args:
        image: (C, *S) prepared image.
        window: Size of a window, `spatial_dims` numbers.
        predict: The network.
        num_classes: K, background included.
        overlap: Share by which neighbouring windows overlap, in [0, 1).
        batch_size: Windows a call.
        mirror_axes: Spatial axes over whose mirrorings (all combinations) logits are averaged.

    Returns:
        (*S) uint8, the class with the highest blended logit.

    Raises:
        ImageError: Window and image differ in dimensions, or the network gives another number of classes or NaN.
    """
    padded, inside = _padded(image, window)
    shape = padded.shape[1:]
    stream = int(np.argmax(shape))  # the smallest cross-section makes the smallest slab
    order = (stream, *(a for a in range(len(shape)) if a != stream))
    starts = [_starts(shape[a], window[a], overlap) for a in order]
    weight = gaussian(window)
    labels = np.zeros(shape, dtype=np.uint8)
    slab_shape = [shape[a] for a in range(len(shape))]
    slab_shape[stream] = window[stream]
    slab: _Float = np.zeros((num_classes, *slab_shape), dtype=np.float32)
    rest = [dict(zip(order[1:], places, strict=True)) for places in product(*starts[1:])]
    for number, start in enumerate(starts[0]):
        boxes = [{stream: start, **place} for place in rest]
        for box, scores in _scores(padded, boxes, window, predict, batch_size, mirror_axes):
            _check_classes(scores, num_classes)
            where = [slice(box[a], box[a] + window[a]) for a in range(len(shape))]
            where[stream] = slice(0, window[stream])
            _add(slab[(slice(None), *where)], scores, weight)
            del scores  # all classes of a window: not two of them at once
        done = (starts[0][number + 1] if number + 1 < len(starts[0]) else shape[stream]) - start
        _flush(slab, labels, stream, start, done)
    return labels[inside]


def logits(
    image: _Float,
    window: Sequence[int],
    predict: Predict,
    num_classes: int,
    *,
    overlap: float = 0.5,
    batch_size: int = 4,
    mirror_axes: Sequence[int] = (),
) -> _Float:
    """Blended logits (K, *S) of an image of any size, all classes at full size: for measurements, not for the clinic.

    Where they are highest is the class that `segment` gives; arguments as there.

    Raises:
        ImageError: As `segment`.
    """
    padded, inside = _padded(image, window)
    shape, weight = padded.shape[1:], gaussian(window)
    total: _Float = np.zeros((num_classes, *shape), dtype=np.float32)
    weights = np.zeros(shape, dtype=np.float32)
    places = product(*(_starts(n, w, overlap) for n, w in zip(shape, window, strict=True)))
    boxes = [dict(enumerate(place)) for place in places]
    for box, scores in _scores(padded, boxes, window, predict, batch_size, mirror_axes):
        _check_classes(scores, num_classes)
        where = tuple(slice(box[a], box[a] + window[a]) for a in range(len(shape)))
        _add(total[(slice(None), *where)], scores, weight)
        weights[where] += weight
    total /= weights
    return total[(slice(None), *inside)]


def classify(
    image: _Float,
    window: Sequence[int],
    predict: Predict,
    *,
    mirror_axes: Sequence[int] = (),
    activation: Activation = "softmax",
) -> npt.NDArray[np.float64]:
    """Class probabilities (K,) of an image of any size: the mean over the fewest windows that cover it whole.

    The network learned from crops of the window's size, each with the image's class. Small images are padded.

    Args:
        image: (C, *S) prepared image.
        window: Size of a window, `spatial_dims` numbers.
        predict: The network, to logits (B, K).
        mirror_axes: Spatial axes over whose mirrorings (all combinations) probabilities are averaged.
        activation: How logits become probabilities.

    Raises:
        ImageError: Window and image differ in dimensions, or the network gives NaN.
    """
    padded, _ = _padded(image, window)
    places = product(*(_starts(n, w, 0.0) for n, w in zip(padded.shape[1:], window, strict=True)))
    boxes = [dict(enumerate(place)) for place in places]
    scores = [s for _, s in _scores(padded, boxes, window, _scored(predict, activation), 1, mirror_axes)]
    return np.asarray(np.mean(scores, axis=0), dtype=np.float64)


def gaussian(window: Sequence[int]) -> _Float:
    """Blending weight of a window: a Gaussian with a deviation of an eighth of each side, 1 at its highest."""
    weight = np.ones((), dtype=np.float64)
    for side in window:
        away = (np.arange(side) - (side - 1) / 2) / max(side / 8, 0.5)
        weight = weight[..., None] * np.exp(-0.5 * away**2)
    blend: _Float = np.maximum(weight / weight.max(), 1e-4).astype(np.float32)
    return blend


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


def _scored(predict: Predict, activation: Activation) -> Predict:
    function = {"softmax": softmax, "sigmoid": sigmoid}[activation]
    return lambda windows: function(predict(windows))


def _check_classes(scores: _Float, due: int) -> None:
    if scores.shape[0] != due:
        raise ImageError(f"the network gives {scores.shape[0]} classes, {due} are due", reason="classes")


def _padded(image: _Float, window: Sequence[int]) -> tuple[_Float, tuple[slice, ...]]:
    """Image at least as large as a window, its edge continued, and where the image lies in it."""
    if len(window) != image.ndim - 1:
        raise ImageError(f"window {tuple(window)} does not fit an image of {image.shape}", reason="window")
    margins = [
        (max(w - n, 0) // 2, max(w - n, 0) - max(w - n, 0) // 2) for n, w in zip(image.shape[1:], window, strict=True)
    ]
    inside = tuple(slice(a, a + n) for (a, _), n in zip(margins, image.shape[1:], strict=True))
    return (np.pad(image, [(0, 0), *margins], mode="edge") if any(map(any, margins)) else image), inside


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
    boxes: Sequence[dict[int, int]],
    window: Sequence[int],
    predict: Predict,
    batch_size: int,
    mirror_axes: Sequence[int],
) -> Iterator[tuple[dict[int, int], _Float]]:
    """Scores (K, ...) of each box, averaged over mirrorings."""
    flips = _mirrorings(mirror_axes)
    for first in range(0, len(boxes), batch_size):
        chosen = boxes[first : first + batch_size]
        crops = np.stack(
            [image[(slice(None), *(slice(b[a], b[a] + window[a]) for a in range(len(window))))] for b in chosen]
        )
        total = predict(crops)
        for flip in flips[1:]:
            axes = tuple(a + 1 for a in flip)
            mirrored = predict(np.ascontiguousarray(np.flip(crops, axes)))
            total = total + (np.flip(mirrored, axes) if mirrored.ndim == crops.ndim else mirrored)
        if len(flips) > 1:
            total = (total / len(flips)).astype(np.float32)
        if np.isnan(total).any():  # a comparison with NaN is false: such voxels would be called background
            raise ImageError("the network's answers are no numbers (NaN): nothing is predicted", reason="nan")
        for number, box in enumerate(chosen):
            yield box, total[number]
        del total


def _add(into: _Float, scores: _Float, weight: _Float) -> None:
    product = np.empty_like(weight)
    for number, score in enumerate(scores):  # a class at a time: the product stays in the processor's cache
        np.multiply(score, weight, out=product)
        into[number] += product


def _flush(slab: _Float, labels: npt.NDArray[np.uint8], stream: int, start: int, done: int) -> None:
    """Write the classes of the first `done` planes of the slab, then move the rest to its front."""
    front: list[slice] = [slice(None)] * labels.ndim
    place: list[slice] = [slice(None)] * labels.ndim
    for plane in range(done):
        front[stream], place[stream] = slice(plane, plane + 1), slice(start + plane, start + plane + 1)
        labels[tuple(place)] = _highest(slab[(slice(None), *front)])
    size = slab.shape[stream + 1]
    for plane in range(size):
        front[stream], place[stream] = slice(plane, plane + 1), slice(plane + done, plane + done + 1)
        slab[(slice(None), *front)] = slab[(slice(None), *place)] if plane + done < size else 0


def _highest(scores: _Float) -> npt.NDArray[np.uint8]:
    """Number of the class with the highest score, the first of equals; `argmax` over the first axis copies it all."""
    best, labels = scores[0].copy(), np.zeros(scores.shape[1:], dtype=np.uint8)
    for number, score in enumerate(scores[1:], start=1):
        labels[score > best] = number
        np.maximum(best, score, out=best)
    return labels
