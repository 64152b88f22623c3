import math

import pytest
import torch
from golden import X, Y

from medssl.losses.agreement import barlow_twins, cosine_distance, koleo, negative_cosine, vicreg_terms


def test_the_golden_numbers() -> None:
    assert float(cosine_distance(X, Y)) == pytest.approx(0.23039119, abs=1e-8)
    assert float((negative_cosine(X, Y) + negative_cosine(Y, X)) / 2) == pytest.approx(-0.88480440, abs=1e-8)
    loss, _ = barlow_twins(X, Y, 0.0051)
    on, _ = barlow_twins(X, Y, 0.0)
    assert float(on) == pytest.approx(2.01483052, abs=1e-8)
    assert float(loss) == pytest.approx(2.03954969, abs=1e-8)
    assert float(barlow_twins(X, Y, 1.0)[0] - on) == pytest.approx(4.84689651, abs=1e-8)
    invariance, variance, covariance = vicreg_terms(X, Y)
    assert float(invariance) == pytest.approx(0.11854744, abs=1e-8)
    assert float(variance) == pytest.approx(0.27704740, abs=1e-8)
    assert float(covariance) == pytest.approx(1.34720584, abs=1e-8)
    assert float(25 * invariance + 25 * variance + covariance) == pytest.approx(11.23707686, abs=1e-8)
    assert float(koleo(X)) == pytest.approx(1.31458861, abs=1e-8)


def test_cosines_know_no_length_and_targets_no_gradient() -> None:
    for loss, best in ((cosine_distance, 0.0), (negative_cosine, -1.0)):
        prediction, target = X.clone().requires_grad_(), Y.clone().requires_grad_()
        loss(prediction, target).backward()
        assert prediction.grad is not None
        assert target.grad is None
        torch.testing.assert_close(loss(3 * X, 0.2 * Y), loss(X, Y))
        assert float(loss(X, 2 * X)) == pytest.approx(best, abs=1e-6)


def test_barlow_twins_of_uncorrelated_dimensions_is_zero_and_of_constants_finite() -> None:
    signs = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1]]).T[:, 1:]  # two uncorrelated columns
    loss, diagonal = barlow_twins(signs, signs, 0.1)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert float(diagonal) == pytest.approx(1, abs=1e-4)
    scaled = signs * torch.tensor([3.0, 0.5]) + torch.tensor([1.0, -2.0])
    torch.testing.assert_close(barlow_twins(signs, scaled, 0.1, 0.0)[0], barlow_twins(signs, signs, 0.1, 0.0)[0])
    constant = torch.ones(4, 3, requires_grad=True)
    loss, _ = barlow_twins(constant, constant, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(3)
    assert torch.isfinite(constant.grad).all()


def test_each_term_of_vicreg_alone() -> None:
    signs = 3 * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])  # standard deviation above 1, uncorrelated
    assert [float(term) for term in vicreg_terms(signs, signs)] == [0, 0, 0]
    constant = torch.ones(4, 3, requires_grad=True)
    _, variance, covariance = vicreg_terms(constant, constant)
    variance.backward()
    assert variance.item() == pytest.approx(1 - math.sqrt(1e-4))
    assert covariance.item() == 0
    assert torch.isfinite(constant.grad).all()


def test_koleo_finds_near_neighbours_in_bf16_too() -> None:
    angles = torch.tensor([0.0, 0.03, 0.05, 1.5, 1.52, 1.57])  # cosines of neighbours differ by less than bf16 can tell
    points = torch.stack([angles.cos(), angles.sin()], 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = koleo(points)
    nearest = torch.tensor([0.03, 0.02, 0.02, 0.02, 0.02, 0.05])
    torch.testing.assert_close(found, -(2 * (nearest / 2).sin()).log().mean(), atol=1e-4, rtol=1e-4)


def test_koleo_of_two_opposite_points_and_of_duplicates() -> None:
    assert float(koleo(torch.tensor([[1.0, 0], [-1, 0]]))) == pytest.approx(-math.log(2), abs=1e-6)
    same = torch.ones(4, 384)
    assert float(koleo(same)) == pytest.approx(-math.log((math.sqrt(384) + 1) * 1e-8), rel=1e-4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(koleo(X[order]), koleo(X))
    assert koleo(torch.tensor([[1.0, 0], [1, 0.1]])) > koleo(torch.tensor([[1.0, 0], [1, 0.5]]))
