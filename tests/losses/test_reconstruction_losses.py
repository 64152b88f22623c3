"""Reconstruction losses: the golden number and closed forms."""

import itertools

import pytest
import torch
from torch import Tensor

from medssl.losses.reconstruction import (
    latent_regression,
    local_statistics,
    masked_l1,
    masked_token_mse,
    normalise_patches,
    token_mse,
)


def _sines(rows: int, columns: int, offset: float) -> Tensor:
    return torch.sin(offset + torch.arange(rows * columns, dtype=torch.float64)).reshape(1, rows, columns)


def test_golden_number():
    """Tokens sin(2 + 6 i + j), prediction sin(2.3 + 6 i + j), mask 1 0 1 1; an independent float64 computation."""
    target, prediction = normalise_patches(_sines(4, 6, 2.0), 1e-6), _sines(4, 6, 2.3)
    hidden = torch.tensor([[True, False, True, True]])
    assert masked_token_mse(prediction, target, hidden).item() == pytest.approx(0.10822899, abs=1e-8)
    assert token_mse(prediction[hidden], target[hidden]).item() == pytest.approx(0.10822899, abs=1e-8)


def test_golden_number_of_latents_and_no_gradient_to_what_is_wanted():
    wanted, predicted = (_sines(4, 6, offset).requires_grad_() for offset in (2.0, 2.3))
    loss = latent_regression(predicted, wanted)
    loss.backward()
    assert loss.item() == pytest.approx(0.08065265, abs=1e-8)
    assert wanted.grad is None
    assert predicted.grad is not None


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


@pytest.mark.parametrize(("shape", "window"), [((6, 5), 3), ((4, 7), 47), ((4, 3, 5), 3)])
def test_local_statistics_equal_loops(shape: tuple[int, ...], window: int):
    image = 3 + torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, deviation = local_statistics(image.float(), window, 1e-4)
    for place in itertools.product(*(range(n) for n in shape)):
        box = tuple(slice(max(p - window // 2, 0), p + window // 2 + 1) for p in place)
        near = image[(slice(None), slice(None), *box)].flatten(2)
        here = (slice(None), slice(None), *place)
        torch.testing.assert_close(mean[here].double(), near.mean(-1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(deviation[here].double(), (near.var(-1) + 1e-4).sqrt(), atol=1e-5, rtol=1e-4)


def test_local_statistics_of_a_constant_image_are_its_value_and_the_floor():
    mean, deviation = local_statistics(torch.full((1, 1, 9, 9), 1000.0), 5, 1e-2)
    assert (mean == 1000).all()
    torch.testing.assert_close(deviation, torch.full_like(deviation, 0.1))


def test_masked_l1_is_the_mean_over_what_counts():
    target = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    counted = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.3
    spread = counted.expand_as(target)
    prediction = torch.where(spread, target - 2, target + 100)
    assert masked_l1(prediction, target, spread).item() == pytest.approx(2, rel=1e-5)
    assert masked_l1(prediction, target, torch.zeros_like(spread)).item() == 0
