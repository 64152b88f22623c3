"""Masks: exact counts, one result for one key."""

import math
from fractions import Fraction

import pytest
import torch

from medssl.data.masking import (
    SIGMAS,
    any_mask,
    block_mask,
    box_sides,
    draw_mask,
    hidden_count,
    random_mask,
    step_generator,
    wrong_mask,
)
from medssl.imaging.errors import ConfigError


@pytest.mark.parametrize(("cells", "ratio", "hidden"), [(512, 0.75, 384), (196, 0.75, 147), (49, 0.6, 30), (8, 0.6, 5)])
def test_count_keeps_what_is_whole(cells: int, ratio: float, hidden: int):
    assert hidden_count(cells, ratio) == hidden == cells - int(cells * (1 - ratio))


def test_count_is_that_of_exact_arithmetic():
    for cells in range(1, 300):
        for hundredths in range(1, 100):
            wanted = math.ceil(Fraction(cells * hundredths, 100))
            assert hidden_count(cells, hundredths / 100) == wanted, (cells, hundredths)


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


@pytest.mark.parametrize("kind", ["random", "block", "red", "blue", "green", "purple"])
@pytest.mark.parametrize("grid", [(7, 9), (14, 14), (4, 6, 5)])
@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_every_kind_hides_the_same_number_and_replays(kind, grid, ratio):
    mask = draw_mask(kind, grid, 6, ratio, step_generator(3, 4))
    assert mask.shape == (6, *grid)
    assert mask.flatten(1).sum(1).tolist() == [hidden_count(math.prod(grid), ratio)] * 6
    assert torch.equal(mask, draw_mask(kind, grid, 6, ratio, step_generator(3, 4)))
    assert len({tuple(row.flatten().tolist()) for row in mask}) == 6


@pytest.mark.parametrize("kind", ["random", "block", "red", ("green", 0.5, 1.0)])
def test_a_mask_that_leaves_nothing_is_refused(kind):
    told = r"a mask of 0.9 hides all 8 patches or blocks of a crop \(2 x 2 x 2\)"
    with pytest.raises(ConfigError, match=told):
        draw_mask(kind, (2, 2, 2), 2, 0.9, step_generator(0, 0))
    assert any_mask(kind, (2, 2, 2), 2, 0.9, step_generator(0, 0)).all()
    assert (~draw_mask(kind, (2, 2, 2), 2, 0.875, step_generator(0, 0))).flatten(1).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("colour", list(SIGMAS))
def test_filters_of_a_colour_can_be_chosen(colour):
    drawn = [
        draw_mask(kind, (32, 32), 2, 0.5, step_generator(0, 0))
        for kind in (colour, [colour, *SIGMAS[colour]], [colour, *(2 * sigma for sigma in SIGMAS[colour])])
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert wrong_mask((colour, *SIGMAS[colour])) == []


@pytest.mark.parametrize("kind", [("red", 0.0), ("red", 0.6, 1.8), ("green", 0.6), ("purple", 1.8, 0.6)])
def test_filters_that_do_not_suit_the_colour_are_told(kind):
    (told,) = wrong_mask(kind)
    assert told.startswith(f"mask {kind[0]} has {len(SIGMAS[kind[0]])} filter(s), whose widths must rise from above 0")


def _bands(kind, grid):
    """Energy of the binary mask under 0.1, up to 0.25 and above 0.25 cycles a cell; correlation of neighbours."""
    mask = draw_mask(kind, grid, 16, 0.75, step_generator(0, 0)).double()
    mask = mask - mask.mean()
    axes = tuple(range(1, mask.ndim))
    power = torch.fft.fftn(mask, dim=axes).abs().square().mean(0)
    radius = torch.stack(
        torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in grid], indexing="ij")
    ).norm(dim=0)
    inside = radius > 0
    bands = [inside & (radius < 0.1), (radius >= 0.1) & (radius < 0.25), radius >= 0.25]
    near = (mask * mask.roll(1, dims=1)).mean() / mask.square().mean()
    return [float(power[band].mean() / power[inside].mean()) for band in bands], float(near)


@pytest.mark.parametrize("grid", [(64, 64), (32, 32, 32)])
def test_coloured_masks_have_their_spectrum(grid):
    found = {kind: _bands(kind, grid) for kind in ("random", "red", "blue", "green", "purple")}
    (low, middle, _), near = (
        [{kind: values[0][n] for kind, values in found.items()} for n in range(3)],
        {kind: values[1] for kind, values in found.items()},
    )
    assert low["red"] > low["random"] > low["blue"]
    assert middle["green"] > middle["random"] > middle["purple"]
    assert near["red"] > near["green"] > near["random"] > near["blue"]
    assert near["red"] == pytest.approx(0.68, abs=0.03)  # as computed once from the formula by other code
    assert near["green"] == pytest.approx(0.25, abs=0.05)


def test_blocks_are_boxes():
    """One box on an empty grid: as many cells as its bounding box."""
    for seed in range(20):
        mask = block_mask((32, 32, 32), 1, 0.002, step_generator(seed, 0), smallest=66)[0]
        assert int(mask.sum()) == 66
    spread = block_mask((32, 32), 8, 0.4, step_generator(0, 0)).double()
    pairs = (spread[:, 1:] == spread[:, :-1]).double().mean()
    scattered = random_mask((32, 32), 8, 0.4, step_generator(0, 0)).double()
    assert pairs > (scattered[:, 1:] == scattered[:, :-1]).double().mean() + 0.2


def test_the_ratio_of_a_box_in_2d_is_drawn_at_once_and_log_uniformly():
    draws = torch.linspace(0, 1, 101, dtype=torch.float64)
    for other in (0.0, 0.5, 1.0):
        sides = torch.stack([box_sides(1e12, torch.tensor([draw, other], dtype=torch.float64)) for draw in draws])
        ratio = sides[:, 0] / sides[:, 1].double()
        torch.testing.assert_close(ratio.log(), (2 * draws - 1) * math.log(1 / 0.3), atol=1e-5, rtol=0)
        torch.testing.assert_close(sides.prod(1).double(), torch.full((101,), 1e12).double(), atol=0, rtol=1e-5)


def test_each_axis_of_a_box_in_3d_has_a_factor_of_its_own():
    ends = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)] * 3)
    for draws in ends:
        sides = box_sides(1e15, draws).double()
        assert float(sides.prod()) == pytest.approx(1e15, rel=1e-4)
        wanted = (draws[0] - draws[1]) * math.log(1 / 0.3)
        assert float((sides[0] / sides[1]).log()) == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.parametrize("grid", [(3, 12), (4, 12), (3, 5, 6), (7, 3, 8)])
def test_no_box_spans_an_axis(grid):
    """Masks of one box alone fill all between their first and last cells."""
    alone = spanning = 0
    for seed in range(400):
        mask = block_mask(grid, 1, 12 / math.prod(grid), step_generator(seed, 0), smallest=12)[0]
        cells = mask.nonzero()
        sides = cells.max(0).values - cells.min(0).values + 1
        if int(sides.prod()) == len(cells):
            alone += 1
            spanning += any(side == n for side, n in zip(sides.tolist(), grid, strict=True))
    assert alone > 150
    assert spanning <= 1  # two boxes side by side may look like one


@pytest.mark.parametrize("grid", [(1, 8, 8), (2, 8, 8), (2, 2, 2), (1, 9)])
def test_axes_of_one_or_two_cells_may_be_spanned(grid):
    def near(mask):
        return sum(int((mask.narrow(a, 1, n - 1) & mask.narrow(a, 0, n - 1)).sum()) for a, n in enumerate(grid, 1))

    blocks = block_mask(grid, 200, 0.4, step_generator(0, 0))
    assert near(blocks) > 1.1 * near(random_mask(grid, 200, 0.4, step_generator(0, 0)))


@pytest.mark.parametrize("grid", [(12, 12, 3), (24, 24, 3), (16, 16, 2), (14, 14, 1), (3, 5, 3)])
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_on_thin_grids_too_cells_are_hidden_in_boxes(grid, ratio):
    """Neighbours in the plane that are hidden both: boxes whose sides are too long had been drawn in vain there."""

    def near(mask):
        wide = [axis for axis, n in enumerate(grid, 1) if n > 3] or [2]
        return sum(int((mask.narrow(a, 1, grid[a - 1] - 1) & mask.narrow(a, 0, grid[a - 1] - 1)).sum()) for a in wide)

    blocks = block_mask(grid, 100, ratio, step_generator(0, 0))
    assert blocks.flatten(1).sum(1).tolist() == [hidden_count(math.prod(grid), ratio)] * 100
    gain = near(blocks) / near(random_mask(grid, 100, ratio, step_generator(0, 0)))
    assert gain > (1.35 if ratio == 0.3 and math.prod(grid) > 50 else 1.1)
