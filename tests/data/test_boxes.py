"""Boxes drawn by hand, and oracles that count voxels and slice."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.data.boxes import cell_corners, cut_boxes, draw_boxes, inside, overlap_shares, place, sides_of

_SHAPES = [(12, 9), (8, 6, 10)]


def _painted(start: list[int], size: list[int], shape: tuple[int, ...]) -> np.ndarray:
    found = np.zeros(shape, dtype=bool)
    found[tuple(slice(b, b + s) for b, s in zip(start, size, strict=True))] = True
    return found


@pytest.mark.parametrize("shape", _SHAPES)
def test_boxes_lie_inside_and_have_all_sides(shape: tuple[int, ...]) -> None:
    low, high = [2] * len(shape), [n // 2 for n in shape]
    start, size = draw_boxes(shape, (3, 400), (low, high), torch.Generator().manual_seed(0))
    assert start.shape == size.shape == (3, 400, len(shape))
    for axis, n in enumerate(shape):
        assert set(size[..., axis].unique().tolist()) == set(range(2, n // 2 + 1))
        end = start[..., axis] + size[..., axis]
        assert start[..., axis].min() == 0
        assert end.max() == n
    again = draw_boxes(shape, (3, 400), (low, high), torch.Generator().manual_seed(0))
    assert torch.equal(again[0], start)


def test_sides_from_shares() -> None:
    assert sides_of((64, 128, 6), (1 / 6, 1 / 3)) == ([10, 21, 1], [21, 42, 2])
    assert sides_of((64, 128), (0.0625, 0.625)) == ([4, 8], [40, 80])


@pytest.mark.parametrize("shape", _SHAPES)
def test_inside_equals_painted_boxes(shape: tuple[int, ...]) -> None:
    start, size = draw_boxes(shape, (5, 1), ([1] * len(shape), list(shape)), torch.Generator().manual_seed(2))
    size[0] = 0
    found = inside(start[:, 0], size[:, 0], shape)
    for sample in range(5):
        expected = _painted(start[sample, 0].tolist(), size[sample, 0].tolist(), shape)
        assert np.array_equal(found[sample].numpy(), expected)
    assert not found[0].any()


def test_overlaps_of_boxes_drawn_by_hand() -> None:
    """Cells of 4 x 4 in an image of 8 x 8."""
    cells = cell_corners((8, 8), (2, 2))
    assert cells.tolist() == [[0, 0], [0, 4], [4, 0], [4, 4]]
    random = torch.tensor([[[0, 4], [2, 2], [1, 4], [0, 3]]])
    expected = [[0, 1, 0, 0], [0.25] * 4, [0, 0.75, 0, 0.25], [0.25, 0.75, 0, 0]]
    torch.testing.assert_close(overlap_shares(random, cells, (4, 4)), torch.tensor([expected]))


@pytest.mark.parametrize(("shape", "grid"), [((12, 8), (4, 2)), ((8, 12, 6), (2, 3, 1)), ((8, 8, 8), (2, 2, 2))])
def test_overlaps_equal_counted_voxels_and_sum_to_one(shape: tuple[int, ...], grid: tuple[int, ...]) -> None:
    size = [n // cells for n, cells in zip(shape, grid, strict=True)]
    cells = cell_corners(shape, grid)
    uniform = torch.rand(2, 7, len(shape), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    random = place(torch.tensor(size), shape, uniform)
    shares = overlap_shares(random, cells, size)
    for sample, number, cell in itertools.product(range(2), range(7), range(len(cells))):
        box = _painted(random[sample, number].tolist(), size, shape)
        both = box & _painted(cells[cell].tolist(), size, shape)
        assert shares[sample, number, cell].item() == pytest.approx(both.sum() / box.sum())
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 7))
    assert torch.equal(overlap_shares(cells, cells, size), torch.eye(len(cells)))


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_boxes_are_cut_and_mirrored_as_by_slicing(channels: int, shape: tuple[int, ...]) -> None:
    image = torch.randn(2, channels, *shape, generator=torch.Generator().manual_seed(5))
    size, generator = [n // 2 for n in shape], torch.Generator().manual_seed(6)
    start = place(torch.tensor(size), shape, torch.rand(2, 4, len(shape), generator=generator, dtype=torch.float64))
    flips = torch.rand(2, 4, len(shape), generator=generator) < 0.5
    assert flips.any()
    assert not flips.all()
    views = cut_boxes(image, start, size, flips)
    assert views.shape == (2, 4, channels, *size)
    for sample, view in itertools.product(range(2), range(4)):
        corner: Tensor = start[sample, view]
        box = tuple(slice(int(b), int(b) + s) for b, s in zip(corner, size, strict=True))
        axes = [1 + axis for axis, on in enumerate(flips[sample, view].tolist()) if on]
        assert torch.equal(views[sample, view], image[(sample, slice(None), *box)].flip(axes))
