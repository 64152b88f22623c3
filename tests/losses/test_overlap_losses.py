"""Losses of volume contrast against closed forms and loops."""

import math

import pytest
import torch
from golden import X, Y, sines
from torch import Tensor

from medssl.losses.overlap import likeness, overlap_entropy, overlap_terms, similarity


def _given() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    cosine = 2 * torch.rand(3, 2, 4, generator=generator) - 1
    share = torch.tensor([[0.0, 0.25, 0.75, 0.0], [1.0, 0.0, 0.0, 0.0]]).repeat(3, 1, 1)
    share[1] = 0.25  # a sample with an overlap everywhere has no term of those apart
    return cosine, share


def test_terms_equal_loops() -> None:
    cosine, share = _given()
    near, far, entropy = 0.0, 0.0, 0.0
    for sample in range(3):
        sums = {"near": 0.0, "share": 0.0, "far": 0.0, "count": 0}
        for crop in range(2):
            for cell in range(4):
                y, guess = share[sample, crop, cell].item(), max(cosine[sample, crop, cell].item(), 0.0)
                term = -math.log(1 - abs(y - guess) + 1e-6)
                entropy += term / 24
                sums["near"], sums["share"] = sums["near"] + y * term, sums["share"] + y
                if y == 0:
                    sums["far"], sums["count"] = sums["far"] + guess**2, sums["count"] + 1
        near, far = near + sums["near"] / sums["share"] / 3, far + sums["far"] / max(sums["count"], 1) / 3
    found = overlap_terms(cosine, share)
    assert [value.item() for value in found] == pytest.approx([near, far], rel=1e-5)
    assert overlap_entropy(cosine, share).item() == pytest.approx(entropy, rel=1e-5)


def test_collapse_in_closed_form() -> None:
    share = torch.tensor([[[0.25, 0.75, 0.0, 0.0]]])
    near, far = overlap_terms(torch.ones(1, 1, 4), share)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert near.item() == pytest.approx(expected, rel=1e-4)
    assert far.item() == 1
    aligned = torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])
    near, far = overlap_terms(torch.ones(1, 1, 4), aligned)
    assert near.item() == pytest.approx(0, abs=2e-6)
    assert far.item() == 1
    same = torch.ones(2, 4, 3)
    assert likeness(same, squared=True).item() == pytest.approx(1)
    assert likeness(same, squared=False).item() == pytest.approx(1)


def test_a_perfect_guess_costs_nothing() -> None:
    _, share = _given()
    near, far = overlap_terms(share, share)
    assert near.item() == pytest.approx(0, abs=2e-6)
    assert far.item() == 0
    assert overlap_entropy(share, share).item() == pytest.approx(0, abs=2e-6)


def test_orthogonal_bases_are_not_alike_and_opposite_ones_only_in_the_paper() -> None:
    assert likeness(torch.eye(3)[None], squared=True).item() == 0
    opposite = torch.tensor([[[1.0, 0.0], [-2.0, 0.0]]])
    assert likeness(opposite, squared=True).item() == 0
    assert likeness(opposite, squared=False).item() == pytest.approx(1)


def test_cosines_and_likeness_equal_loops() -> None:
    first, second = X[None], sines(5, 3, 7.0)[None]
    found = similarity(first, second)[0]
    pairs = []
    for row in range(4):
        for column in range(5):
            a, b = X[row].tolist(), sines(5, 3, 7.0)[column].tolist()
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            assert found[row, column].item() == pytest.approx(dot / math.hypot(*a) / math.hypot(*b), abs=1e-6)
    for row in range(4):
        for column in range(row):
            cosine = torch.nn.functional.cosine_similarity(Y[row], Y[column], dim=0).item()
            pairs.append((max(cosine, 0.0) ** 2, abs(cosine)))
    squared, absolute = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    assert likeness(Y[None], squared=True).item() == pytest.approx(squared, rel=1e-5)
    assert likeness(Y[None], squared=False).item() == pytest.approx(absolute, rel=1e-5)


def test_each_pair_is_pushed_apart_with_half_the_gradient() -> None:
    """In each of its two orders a pair moves one of its crops alone."""
    base = sines(3, 4, 0.3)[None].float().requires_grad_()
    likeness(base, squared=True).backward()
    whole = base.detach().clone().requires_grad_()
    unit = torch.nn.functional.normalize(whole[0], dim=1)
    cosines = torch.stack([unit[0] @ unit[1], unit[0] @ unit[2], unit[1] @ unit[2]])
    cosines.clamp(min=0).square().mean().backward()
    torch.testing.assert_close(base.grad, whole.grad / 2)


def test_bf16_is_only_outside() -> None:
    first, second = X[None].float(), Y[None].float()
    with torch.autocast("cpu", torch.bfloat16):
        within = similarity(first, second)
    assert torch.equal(within, similarity(first, second))
    near, far = overlap_terms(within.bfloat16(), torch.full((1, 4, 4), 0.25))
    assert torch.isfinite(near)
    assert torch.isfinite(far)
