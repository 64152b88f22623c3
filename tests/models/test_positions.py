"""Patches and positions against hand-made slices and the formula."""

import math

import pytest
import torch

from medssl.models.positions import are_sincos, patchify, pick, sincos_positions, unpatchify

_CASES = [((8, 6), (4, 2), 1), ((8, 6), (2, 3), 4), ((4, 6, 8), (2, 3, 4), 1), ((4, 4, 6), (2, 4, 3), 2)]


@pytest.mark.parametrize(("shape", "patch", "channels"), _CASES)
def test_patches_round_trip_and_equal_slices(shape, patch, channels):
    image = torch.arange(2 * channels * math.prod(shape)).float().reshape(2, channels, *shape)
    tokens = patchify(image, patch)
    grid = [s // p for s, p in zip(shape, patch, strict=True)]
    assert tokens.shape == (2, math.prod(grid), math.prod(patch) * channels)
    assert torch.equal(unpatchify(tokens, grid, patch), image)
    for number, cell in enumerate(torch.cartesian_prod(*(torch.arange(g) for g in grid)).tolist()):
        part = image[(slice(None), slice(None), *(slice(c * p, c * p + p) for c, p in zip(cell, patch, strict=True)))]
        assert torch.equal(tokens[:, number], part.movedim(1, -1).flatten(1))


@pytest.mark.parametrize(("grid", "width"), [((3, 4), 16), ((2, 3, 4), 24), ((2, 3, 2), 32), ((5,), 8)])
def test_positions_follow_the_formula(grid, width):
    table = sincos_positions(grid, width)
    each = 2 * (width // (2 * len(grid)))  # numbers an axis gets
    for number, cell in enumerate(
        torch.cartesian_prod(*(torch.arange(g) for g in grid)).reshape(-1, len(grid)).tolist()
    ):
        row = []
        for place in cell:
            angles = [place * 10000 ** (-k / (each / 2)) for k in range(each // 2)]
            row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        row += [0.0] * (width - each * len(grid))
        assert table[number].tolist() == pytest.approx(row, abs=1e-6)


def test_width_that_does_not_divide_is_filled_with_zeros():
    assert (sincos_positions((2, 2, 2), 512)[:, 510:] == 0).all()
    assert (sincos_positions((2, 2, 2), 192)[0] != 0).sum() == 96  # cosines of 0


@pytest.mark.parametrize("grid", [(3, 4), (1, 6), (1, 1), (2, 3, 4), (1, 1, 5), (40, 3, 1)])
def test_fixed_positions_are_known_whatever_their_grid_is(grid):
    table = sincos_positions(grid, 28)
    assert are_sincos(table, len(grid))
    assert are_sincos(table.bfloat16(), len(grid))
    assert not are_sincos(torch.full_like(table, torch.nan), len(grid))
    assert not are_sincos(torch.zeros_like(table), len(grid))
    moved = table.clone()
    moved[-1, 0] += 0.01
    assert not are_sincos(moved, len(grid))
    if table.shape[0] > 1:
        assert not are_sincos(table.roll(1, 0), len(grid))


def test_table_cannot_be_changed_through_a_result():
    first = sincos_positions((3, 3), 16)
    first.zero_()
    assert sincos_positions((3, 3), 16).abs().sum() > 0


def test_pick_takes_rows_of_each_sample():
    tokens = torch.randn(3, 7, 5)
    index = torch.stack([torch.randperm(7)[:4] for _ in range(3)])
    assert torch.equal(pick(tokens, index), torch.stack([tokens[b, index[b]] for b in range(3)]))
