import math

import pytest
import torch

from medssl.data.masking import step_generator
from medssl.data.target_blocks import context_and_targets


@pytest.mark.parametrize("grid", [(14, 14), (8, 12), (6, 6, 6), (4, 8, 5)])
def test_blocks_are_boxes_beside_the_context(grid: tuple[int, ...]) -> None:
    cells = math.prod(grid)
    for seed in range(10):
        context, blocks = context_and_targets(grid, 5, step_generator(seed, 0))
        assert context.shape[0] == 5
        assert blocks.shape[:2] == (5, 4)
        assert context.shape[1] >= max(1, cells // 20)
        shapes = set()
        for sample in range(5):
            assert not torch.isin(context[sample], blocks[sample]).any()
            assert len(context[sample].unique()) == context.shape[1]
            for block in blocks[sample]:
                where = torch.stack(torch.unravel_index(block, grid))
                sides = where.amax(1) - where.amin(1) + 1
                assert int(sides.prod()) == len(block.unique()) == blocks.shape[2]
                shapes.add(tuple(sides.tolist()))
        assert len(shapes) == 1  # one size a batch


def test_blocks_have_the_share_asked_for_and_reach_every_cell() -> None:
    grid, seen, shares, kept = (16, 16, 16), torch.zeros(16**3), [], []
    for seed in range(60):
        context, blocks = context_and_targets(grid, 4, step_generator(seed, 1))
        seen[blocks.flatten()] += 1
        shares.append(blocks.shape[2] / 16**3)
        kept.append(context.shape[1] / 16**3)
    assert sum(shares) / len(shares) == pytest.approx(0.175, abs=0.02)
    assert 0.3 < sum(kept) / len(kept) < 0.7  # four blocks cover 40 to 50 per cent
    cube = seen.view(grid)
    assert min(cube[-1].sum(), cube[:, -1].sum(), cube[..., -1].sum()) > 0  # the last valid position is used as well
    assert (seen > 0).double().mean() > 0.99


@pytest.mark.parametrize("grid", [(16, 16, 1), (14, 1, 14), (1, 14, 14)])
def test_an_axis_of_one_cell_does_not_make_blocks_smaller_or_larger(grid: tuple[int, ...]) -> None:
    drawn = [context_and_targets(grid, 1, step_generator(seed, 3)) for seed in range(40)]
    shares = [blocks.shape[2] / math.prod(grid) for _, blocks in drawn]
    assert sum(shares) / len(shares) == pytest.approx(0.175, abs=0.02)
    assert max(shares) < 0.24
    assert sum(context.shape[1] for context, _ in drawn) / len(drawn) / math.prod(grid) > 0.35


@pytest.mark.parametrize("grid", [(120, 120), (60, 60, 60)])
def test_further_sides_have_the_ratio_asked_for_to_the_first(grid: tuple[int, ...]) -> None:
    ratios = []
    for seed in range(40):
        _, blocks = context_and_targets(grid, 1, step_generator(seed, 2), targets=1)
        where = torch.stack(torch.unravel_index(blocks[0, 0], grid))
        sides = (where.amax(1) - where.amin(1) + 1).double()
        ratios += (sides[1:] / sides[0]).tolist()
    assert 0.7 < min(ratios) < 0.85
    assert 1.35 < max(ratios) < 1.6


def test_a_key_decides_the_blocks() -> None:
    first, again, other = (context_and_targets((8, 8), 3, step_generator(0, step)) for step in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1]) or not torch.equal(first[0], other[0])


def test_a_context_that_targets_would_eat_is_drawn_again() -> None:
    context, blocks = context_and_targets((4, 4), 8, step_generator(0, 0), target_scale=(0.5, 0.5))
    assert context.shape[1] >= 1
    assert blocks.shape[2] >= 6
