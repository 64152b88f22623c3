"""Masks of unlike ratios: how they are drawn, and how hidden patches are counted."""

import pytest
import torch

from medssl.data.mask_ratios import HiddenTokens, independent_ratios, masks_of_ratios, stratified_ratios
from medssl.data.masking import hidden_count


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["block", "random", "green"])
@pytest.mark.parametrize("grid", [(6, 8), (4, 5, 3)])
def test_each_sample_hides_its_own_share(kind, grid) -> None:
    ratios = torch.tensor([0.3, 0.0, 0.5, 0.1])
    masks = masks_of_ratios(kind, grid, ratios, _generator())
    cells = masks[0].numel()
    assert masks.shape == (4, *grid)
    assert masks.flatten(1).sum(1).tolist() == [hidden_count(cells, r) if r else 0 for r in ratios.tolist()]
    assert torch.equal(masks, masks_of_ratios(kind, grid, ratios, _generator()))
    assert not torch.equal(masks, masks_of_ratios(kind, grid, ratios, _generator(1)))


def test_independent_ratios_are_none_or_uniform() -> None:
    ratios = independent_ratios(4000, 0.25, (0.1, 0.5), _generator())
    masked = ratios[ratios > 0]
    assert len(masked) / 4000 == pytest.approx(0.25, abs=0.03)
    assert 0.1 <= masked.min() < 0.11
    assert 0.49 < masked.max() <= 0.5
    assert float(masked.mean()) == pytest.approx(0.3, abs=0.02)
    assert not independent_ratios(10, 0.0, (0.1, 0.5), _generator()).any()
    assert independent_ratios(10, 1.0, (0.1, 0.5), _generator()).all()


@pytest.mark.parametrize(("count", "share", "masked"), [(10, 0.5, 5), (7, 0.5, 3), (6, 1.0, 6), (1, 0.5, 0)])
def test_stratified_ratios_fill_the_range_evenly(count: int, share: float, masked: int) -> None:
    ratios = stratified_ratios(count, share, (0.2, 0.6), _generator())
    found = ratios[ratios > 0].sort().values
    assert len(ratios) == count
    assert len(found) == masked
    step = 0.4 / max(masked, 1)
    for number, ratio in enumerate(found.tolist()):
        assert 0.2 + step * number <= ratio <= 0.2 + step * (number + 1)


def test_stratified_ratios_are_shuffled() -> None:
    drawn = [stratified_ratios(8, 0.5, (0.1, 0.5), _generator(seed)) for seed in range(20)]
    assert {int(number) for ratios in drawn for number in ratios.nonzero()} == set(range(8))


def test_hidden_patches_are_counted_over_the_batch() -> None:
    mask = torch.tensor([[[False, True], [True, False]], [[False, False], [False, False]], [[True, False]] * 2])
    hidden = HiddenTokens.of(mask, torch.device("cpu"))
    assert hidden.mask.tolist() == mask.flatten(1).tolist()
    assert hidden.rows.tolist() == [1, 2, 8, 10]
    assert hidden.sample.tolist() == [0, 0, 2, 2]
    assert len(HiddenTokens.of(torch.zeros(2, 3, dtype=torch.bool), torch.device("cpu")).rows) == 0
