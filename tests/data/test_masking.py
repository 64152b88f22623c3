"""Masks: exact counts, one result for one key."""

import pytest
import torch

from medssl.data.masking import hidden_count, random_mask, step_generator


@pytest.mark.parametrize(("cells", "ratio", "hidden"), [(512, 0.75, 384), (196, 0.75, 147), (49, 0.6, 30), (8, 0.6, 5)])
def test_count_keeps_what_is_whole(cells: int, ratio: float, hidden: int):
    assert hidden_count(cells, ratio) == hidden == cells - int(cells * (1 - ratio))


@pytest.mark.parametrize("grid", [(4, 6), (8, 8), (2, 3, 4), (4, 4, 4)])
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75, 0.9])
def test_each_sample_hides_the_same_number(grid: tuple[int, ...], ratio: float):
    mask = random_mask(grid, 5, ratio, step_generator(0, 1))
    cells = int(torch.tensor(grid).prod())
    assert mask.shape == (5, *grid)
    assert mask.dtype == torch.bool
    assert mask.flatten(1).sum(1).tolist() == [hidden_count(cells, ratio)] * 5
    assert len({tuple(row.flatten().tolist()) for row in mask}) > 1, "samples must differ"


def test_key_decides_the_mask():
    draws = {(s, t): random_mask((4, 4), 3, 0.5, step_generator(s, t)) for s in (0, 1) for t in (0, 1)}
    torch.manual_seed(99)  # global state must not matter
    for (seed, step), mask in draws.items():
        assert torch.equal(mask, random_mask((4, 4), 3, 0.5, step_generator(seed, step)))
    flat = {tuple(m.flatten().tolist()) for m in draws.values()}
    assert len(flat) == 4


def test_cells_are_hidden_equally_often():
    mask = random_mask((4, 4), 4000, 0.75, step_generator(0, 0)).float().mean(0)
    assert (mask - 0.75).abs().max() < 0.03  # four standard errors of a share of 0.75 over 4,000 draws
