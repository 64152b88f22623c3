"""Reconstruction losses: the golden number and closed forms."""

import pytest
import torch
from torch import Tensor

from medssl.losses.reconstruction import masked_token_mse, normalise_patches, token_mse


def _sines(rows: int, columns: int, offset: float) -> Tensor:
    return torch.sin(offset + torch.arange(rows * columns, dtype=torch.float64)).reshape(1, rows, columns)


def test_golden_number():
    """Tokens sin(2 + 6 i + j), prediction sin(2.3 + 6 i + j), mask 1 0 1 1; an independent float64 computation."""
    target, prediction = normalise_patches(_sines(4, 6, 2.0), 1e-6), _sines(4, 6, 2.3)
    hidden = torch.tensor([[True, False, True, True]])
    assert masked_token_mse(prediction, target, hidden).item() == pytest.approx(0.10822899, abs=1e-6)
    assert token_mse(prediction[hidden], target[hidden]).item() == pytest.approx(0.10822899, abs=1e-6)


def test_normalised_patches_have_mean_zero_and_unbiased_variance_one():
    patches = normalise_patches(7 + 3 * torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.var(-1), torch.ones(2, 5), atol=1e-4, rtol=0)


def test_affine_intensity_changes_nothing():
    patches = torch.randn(1, 3, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalise_patches(5 * patches - 2), normalise_patches(patches), atol=1e-4, rtol=1e-4)


def test_floor_keeps_constant_patches_quiet():
    noise = 1e-3 * torch.randn(1, 1, 512, generator=torch.Generator().manual_seed(0))
    assert normalise_patches(noise, 1e-6).std() > 0.6
    assert normalise_patches(noise, 1e-2).std() < 0.02
    assert (normalise_patches(torch.full((1, 1, 8), 3.0)) == 0).all()


def test_perfect_prediction_costs_nothing_and_visible_tokens_do_not_count():
    target = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    hidden = torch.tensor([[True, False, True, False], [False, False, True, True]])
    prediction = torch.where(hidden[..., None], target, target + 100)
    assert masked_token_mse(prediction, target, hidden).item() == 0
    assert masked_token_mse(target + 2, target, hidden).item() == pytest.approx(4)
