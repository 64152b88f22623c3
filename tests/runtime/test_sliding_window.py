import itertools

import numpy as np
import pytest

from medssl.imaging.errors import ConfigError, ImageError
from medssl.runtime import postprocess
from medssl.runtime.blending import gaussian
from medssl.runtime.postprocess import find_runs, keep_largest
from medssl.runtime.sliding_window import Plan, classify, segment, segment_by


def _network(weights: np.ndarray):
    """Some network that depends on the place in the window, so that blending matters."""

    def predict(crops: np.ndarray) -> np.ndarray:
        shifted = np.stack(
            [np.roll(crops[:, 0], k + 1, axis=-1) + np.roll(crops[:, 0], -k, axis=1) for k in range(len(weights))], 1
        )
        return (shifted * weights.reshape(1, -1, *([1] * (crops.ndim - 2)))).astype(np.float32)

    return predict


def _oracle(image, window, predict, mirror_axes=()):
    """All-class scores at full size, windows one by one."""
    shape = [max(n, w) for n, w in zip(image.shape[1:], window, strict=True)]
    margins = [(0, 0)] + [((s - n) // 2, s - n - (s - n) // 2) for s, n in zip(shape, image.shape[1:], strict=True)]
    padded = np.pad(image, margins, mode="edge")
    starts = []
    for size, side in zip(shape, window, strict=True):
        steps = -(-(size - side) // (side // 2)) if size > side else 0
        starts.append([round(k * (size - side) / steps) for k in range(steps + 1)] if steps else [0])
    total, weight = 0, gaussian(window)
    for place in itertools.product(*starts):
        box = (slice(None), *(slice(p, p + w) for p, w in zip(place, window, strict=True)))
        if isinstance(total, int):
            total = np.zeros((predict(padded[box][None]).shape[1], *shape))
        scores = 0
        for bits in itertools.product((0, 1), repeat=len(mirror_axes)):
            axes = tuple(a + 1 for a, bit in zip(mirror_axes, bits, strict=True) if bit)
            scores = scores + np.flip(predict(np.flip(padded[box], axes)[None])[0], axes)
        total[box] += scores * weight
    inside = tuple(slice(a, a + n) for (a, _), n in zip(margins[1:], image.shape[1:], strict=True))
    return total.argmax(axis=0)[inside]


@pytest.mark.parametrize("mirror", [(), (0, 1)])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((50, 33, 70), (16, 16, 16)),
        ((10, 40, 12), (16, 16, 16)),
        ((8, 8, 8), (8, 8, 8)),
        ((40, 61), (16, 24)),
        ((5, 7), (8, 8)),
    ],
)
def test_streaming_gives_exactly_what_the_full_accumulator_gives(shape, window, mirror, rng):
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    predict = _network(rng.normal(size=4))
    labels = segment(image, window, predict, 4, batch_size=3, mirror_axes=mirror)
    np.testing.assert_array_equal(labels, _oracle(image, window, predict, mirror))


def test_a_pointwise_network_is_reproduced_voxel_by_voxel(rng):
    image = rng.normal(size=(1, 30, 20, 25)).astype(np.float32)
    labels = segment(image, (8, 8, 8), lambda x: np.concatenate([x * 0, x, 2 * x - 1], axis=1), 3)
    expected = np.where(image[0] > 1, 2, (image[0] > 0).astype(int))
    np.testing.assert_array_equal(labels, expected)


def test_batches_never_exceed_their_size(rng):
    seen = []

    def predict(crops: np.ndarray) -> np.ndarray:
        seen.append(len(crops))
        return np.concatenate([crops, -crops], axis=1)

    segment(rng.normal(size=(1, 20, 20, 20)).astype(np.float32), (8, 8, 8), predict, 2, batch_size=3)
    assert max(seen) == 3


def test_wrong_window_and_wrong_classes_are_refused():
    image = np.zeros((1, 9, 9, 9), np.float32)
    with pytest.raises(ImageError, match="window"):
        segment(image, (8, 8), lambda x: x, 1)
    with pytest.raises(ImageError, match="gives 1 classes, 2"):
        segment(image, (8, 8, 8), lambda x: x, 2)


def test_the_weight_is_symmetric_and_highest_in_the_middle():
    weight = gaussian((9, 8))
    np.testing.assert_array_equal(weight, weight[::-1, ::-1])
    assert weight.max() == weight[4, 4] == 1
    assert weight.min() > 0


def test_classification_averages_mirrorings():
    image = np.zeros((1, 4, 4), np.float32)
    image[0, :2] = 1
    probabilities = classify(image, (4, 4), lambda x: np.stack([x[:, 0, 0, 0], x[:, 0, 3, 0]], 1), mirror_axes=(0,))
    np.testing.assert_allclose(probabilities, [0.5, 0.5])


def test_classification_sees_the_whole_image_once():
    """A lesion in a corner counts as much as one in the middle; each of the 3 x 2 windows is asked once."""
    asked = []

    def brightest(windows):
        asked.append(len(windows))
        return np.stack([np.zeros(len(windows)), windows.max(axis=(1, 2, 3))], 1).astype(np.float32)

    for place in ((0, 0), (5, 3), (11, 7)):
        image = np.zeros((1, 12, 8), np.float32)
        image[(0, *place)] = 2
        probabilities = classify(image, (4, 4), brightest)
        lit, dark = 1 / (1 + np.exp(-2)), 0.5
        np.testing.assert_allclose(probabilities[1], (lit + 5 * dark) / 6, rtol=1e-6)
    assert sum(asked) == 18


def test_with_sigmoid_each_class_stands_for_itself():
    scores = np.array([[0.0, 2.0, -800.0]], np.float32)
    found = classify(np.zeros((1, 4, 4), np.float32), (4, 4), lambda _: scores, activation="sigmoid")
    np.testing.assert_allclose(found, [0.5, 1 / (1 + np.exp(-2)), 0.0], atol=1e-7)


@pytest.mark.parametrize("shape", [(40, 41), (12, 13, 14)])
@pytest.mark.parametrize("density", [0.1, 0.35, 0.6])
def test_components_equal_a_slow_flood_fill(shape, density, rng):
    mask = rng.random(shape) < density
    expected, number = np.zeros(shape, int), 0
    for seed in map(tuple, np.argwhere(mask)):
        if expected[seed]:
            continue
        number += 1
        queue = [seed]
        expected[seed] = number
        while queue:
            place = queue.pop()
            for axis, step in itertools.product(range(len(shape)), (-1, 1)):
                near = tuple(p + step * (a == axis) for a, p in enumerate(place))
                if all(0 <= p < n for p, n in zip(near, shape, strict=True)) and mask[near] and not expected[near]:
                    expected[near] = number
                    queue.append(near)
    runs = find_runs(mask.astype(np.uint8), 1)
    found = np.zeros(shape, int)
    for begin, end, part in zip(runs.begins, runs.ends, runs.parts(), strict=True):
        found.reshape(-1)[begin:end] = part + 1
    pairs = set(zip(found[mask].tolist(), expected[mask].tolist(), strict=True))
    assert len(pairs) == number == len(np.unique(found[mask]))
    assert not found[~mask].any()


def test_only_the_largest_part_of_the_chosen_labels_is_kept():
    labels = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [2, 0, 2, 2]], np.uint8)
    np.testing.assert_array_equal(keep_largest(labels, (1,)), [[1, 1, 0, 0], [0, 0, 0, 0], [2, 0, 2, 2]])


def test_keeping_the_largest_part_works_in_pieces(rng, monkeypatch):
    labels = rng.integers(0, 3, size=(9, 10, 11)).astype(np.uint8)
    whole = keep_largest(labels, (1, 2))
    monkeypatch.setattr(postprocess, "_CHUNK", 7)
    np.testing.assert_array_equal(keep_largest(labels, (1, 2)), whole)
    assert (whole != labels).any()


@pytest.mark.parametrize(("window", "strip"), [((16, 16, 16), 0), ((16, 12, 40), 1)])
def test_strips_give_what_the_whole_gives(window, strip, rng):
    image, predict = rng.normal(size=(1, 30, 34, 20)).astype(np.float32), _network(rng.normal(size=4))
    whole = segment(image, window, predict, 4)
    plan = Plan(window, slab_bytes=4 * window[1] * 30 * 20 * 4 // 3)
    observed = np.full(image.shape[1:], 9, np.uint8)
    strips = []

    def observe(place, logits, labels):
        strips.append(place[strip].start)
        np.testing.assert_array_equal(logits.argmax(axis=0), labels)
        observed[place] = labels

    np.testing.assert_array_equal(segment_by(plan, image, predict, 4, observe), whole)
    np.testing.assert_array_equal(observed, whole)
    assert len(set(strips)) > 1, "the image was not cut into strips"


def test_observed_logits_are_the_weighted_mean_over_windows(rng):
    image = rng.normal(size=(1, 7, 20)).astype(np.float32)
    found = np.zeros((2, 7, 20))

    def observe(place, logits, _):
        found[(slice(None), *place)] = logits

    segment(image, (8, 8), lambda crops: np.concatenate([crops, 2 * crops], 1), 2, observe=observe)
    np.testing.assert_allclose(found, np.concatenate([image, 2 * image]), atol=1e-5)


def test_an_image_in_planes_is_read_as_a_whole_one(rng):
    class Planes:
        def __init__(self, array):
            self.array, self.shape, self.longest = array, array.shape, 0

        def planes(self, axis, begin, end):
            self.longest = max(self.longest, end - begin)
            return np.take(self.array, range(begin, end), axis + 1)

    image = rng.normal(size=(1, 21, 40, 10)).astype(np.float32)
    predict = _network(rng.normal(size=3))
    planes = Planes(image)
    np.testing.assert_array_equal(segment(planes, (16, 16, 16), predict, 3), segment(image, (16, 16, 16), predict, 3))
    assert planes.longest == 16

    def mean(crops):
        return crops.mean(axis=(2, 3, 4)) * np.float32([1, -1])

    np.testing.assert_allclose(classify(planes, (16, 16, 16), mean), classify(image, (16, 16, 16), mean))


def test_temperature_flattens_probabilities(rng):
    image = rng.normal(size=(1, 8, 8)).astype(np.float32)
    found = classify(image, (8, 8), lambda crops: np.float32([[3.0, 1.0]] * len(crops)), temperature=2.0)
    np.testing.assert_allclose(found, [np.e / (np.e + 1), 1 / (np.e + 1)])


@pytest.mark.parametrize("answer", [np.nan, np.inf, -np.inf])
def test_answers_that_are_no_numbers_are_never_called_background(answer: float):
    def broken(crops: np.ndarray) -> np.ndarray:
        scores = np.concatenate([crops, crops], axis=1)
        scores[0, 1, 0, 0] = answer
        return scores

    with pytest.raises(ImageError, match="no finite numbers") as caught:
        segment(np.zeros((1, 8, 8), np.float32), (8, 8), broken, 2)
    assert caught.value.reason == "nan"
    with pytest.raises(ImageError, match="no finite numbers"):
        classify(np.zeros((1, 8, 8), np.float32), (8, 8), lambda crops: broken(crops)[:, :, 0, 0])


def test_no_windows_at_once_are_no_empty_mask():
    with pytest.raises(ConfigError, match="batch_size must be 1 or more, got -1"):
        segment(np.zeros((1, 8, 8), np.float32), (4, 4), lambda windows: windows, 1, batch_size=-1)
