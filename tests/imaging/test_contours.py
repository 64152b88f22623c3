"""Outlines with keyholes: one polygon an outline, and every rule of filling gives the mask with its holes."""

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from medssl.imaging.writers.contours import keyhole, outlines

_FINE = 8
"""Pixels of the fine picture a pixel of the mask."""
_DRAWN = {
    "no hole": ("###", "###"),
    "a hole": ("#####", "#...#", "#####"),
    "two holes in a row": ("#######", "#.#..##", "#######"),
    "a hole below a hole": ("####", "#.##", "####", "#.##", "####"),
    "a channel meets the side of a hole": ("######", "#...##", "######", "###..#", "######"),
    "a channel meets the flat side of an outline": ("..####", "######", "######", "###.##", "######"),
    "a channel meets the flat side of a hole": ("#######", "#.....#", "#######", "###.###", "#######"),
    "holes that touch at a corner": ("#####", "#.###", "##.##", "#####"),
    "a hole that touches the outside at a corner": (".####", "#.###", "#####", "#####"),
    "an island with a hole": ("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"),
    "two outlines with holes": ("###.####", "#.#.#..#", "###.####"),
    "a hole with arms": ("#######", "#.###.#", "#.#.#.#", "#.....#", "#######"),
}


def _mask(rows: tuple[str, ...]) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def _even_odd(polygon: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """By Pillow, on a picture so fine that its thick edges do not reach the centres."""
    rows, columns = shape
    image = PIL.Image.new("1", (columns * _FINE, rows * _FINE))
    PIL.ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in (polygon + 0.5) * _FINE], fill=1)
    return np.array(image)[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]


def _turns(polygon: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How often the polygon runs round each centre: the sum of the angles under which its edges are seen."""
    row, column = np.indices(shape)
    seen = (polygon[:, 0, None, None] - column) + 1j * (polygon[:, 1, None, None] - row)
    return np.rint(np.angle(np.roll(seen, -1, axis=0) / seen).sum(axis=0) / (2 * np.pi)).astype(int)


def _check(mask: np.ndarray) -> None:
    shapes = outlines(mask)
    by_parity, by_turns = np.zeros(mask.shape, int), np.zeros(mask.shape, int)
    for rings in shapes:
        polygon = keyhole(rings)
        by_parity += _even_odd(polygon, mask.shape)
        by_turns += np.abs(_turns(polygon, mask.shape))  # neither twice round a centre nor in two polygons
    np.testing.assert_array_equal(by_parity, mask)
    np.testing.assert_array_equal(by_turns, mask)


@pytest.mark.parametrize("drawn", _DRAWN)
def test_a_drawn_mask_is_filled_with_its_holes(drawn: str):
    mask = _mask(_DRAWN[drawn])
    for turned in (mask, mask[::-1], mask.T, mask[:, ::-1]):
        _check(turned)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.85, 0.95])
def test_masks_of_noise_are_filled_with_their_holes(rng: np.random.Generator, share: float):
    for _ in range(20):
        _check(rng.random(rng.integers(2, 16, size=2)) < share)


def test_there_is_one_polygon_for_each_part_and_islands_are_parts():
    assert [len(rings) for rings in outlines(_mask(_DRAWN["two holes in a row"]))] == [3]
    assert sorted(len(rings) for rings in outlines(_mask(_DRAWN["an island with a hole"]))) == [2, 2]
    assert outlines(np.zeros((3, 3), bool)) == []


def test_a_channel_runs_to_and_fro_on_the_same_points():
    """Up from the hole, half-way between two columns."""
    (rings,) = outlines(_mask(("####", "####", "#.##", "####")))
    polygon = keyhole(rings)
    assert len(polygon) == sum(map(len, rings)) + 3  # the top of the hole again, and the place above it twice
    edges = [(tuple(a), tuple(b)) for a, b in zip(polygon.tolist(), np.roll(polygon, -1, axis=0).tolist(), strict=True)]
    (above, top), back = sorted(edge for edge in edges if edge[::-1] in edges)
    assert back == (top, above)
    assert above[0] == top[0]
    assert above[0] in (0.5, 1.5)
    assert (above[1], top[1]) == (-0.5, 2.0)
