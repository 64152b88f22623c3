"""Weights of tasks that are learned."""

import math

import pytest
import torch

from medssl.losses.weighting import automatic_weighting


def test_at_the_start_it_is_half_the_sum_and_a_constant():
    losses = torch.tensor([1.3, 0.2, 4.0])
    assert automatic_weighting(losses, torch.ones(3)).item() == pytest.approx(5.5 / 2 + 3 * math.log(2))


@pytest.mark.parametrize("sigma", [0.7, 1.0, -1.6])
@pytest.mark.parametrize("loss", [0.3, 5.0])
def test_gradient(sigma: float, loss: float):
    learned = torch.tensor([sigma], requires_grad=True)
    losses = torch.tensor([loss], requires_grad=True)
    automatic_weighting(losses, learned).backward()
    assert learned.grad is not None
    assert losses.grad is not None
    assert learned.grad.item() == pytest.approx(-loss / sigma**3 + 2 * sigma / (1 + sigma**2), rel=1e-4)
    assert losses.grad.item() == pytest.approx(0.5 / sigma**2)


def test_the_best_sigma_is_that_of_the_closed_form():
    losses = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    best = ((losses / 2 + (losses**2 / 4 + 2 * losses).sqrt()) / 2).sqrt()
    least = automatic_weighting(losses, best)
    for change in (-0.05, 0.05):
        for task in range(3):
            other = best.clone()
            other[task] += change
            assert automatic_weighting(losses, other) > least
    assert (best[1:] > best[:-1]).all(), "the larger loss gets the smaller weight"
