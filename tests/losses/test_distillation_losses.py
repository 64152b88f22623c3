import math

import pytest
import torch
from golden import X, Y

from medssl.losses.distillation import (
    across_views,
    centred_softmax,
    entropy,
    moved_centre,
    over_hidden_tokens,
    sinkhorn,
    soft_cross_entropy,
)


def test_sinkhorn_of_the_golden_matrix() -> None:
    found = sinkhorn(X, 0.5)
    assert [float(found[i]) for i in ((0, 0), (0, 1), (3, 2))] == pytest.approx(
        [0.41933000, 0.46982888, 0.43869992], abs=1e-8
    )
    assert float(found[:, 0].sum()) == pytest.approx(1.32846741, abs=1e-8)


def test_sinkhorn_balances_both_sides() -> None:
    scores = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    few, many = sinkhorn(scores, 0.5), sinkhorn(scores, 0.5, rounds=200)
    torch.testing.assert_close(few.sum(1), torch.ones(64))
    torch.testing.assert_close(few.sum(0), torch.full((8,), 8.0), rtol=0.3, atol=0)
    torch.testing.assert_close(many.sum(0), torch.full((8,), 8.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(sinkhorn(torch.zeros(5, 4), 0.1), torch.full((5, 4), 0.25))


def test_sinkhorn_knows_neither_order_nor_offset() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(10, 6, generator=generator)
    rows, columns = torch.randperm(10, generator=generator), torch.randperm(6, generator=generator)
    torch.testing.assert_close(sinkhorn(scores[rows][:, columns], 0.2), sinkhorn(scores, 0.2)[rows][:, columns])
    torch.testing.assert_close(sinkhorn(scores + 1000, 0.2), sinkhorn(scores, 0.2), rtol=1e-3, atol=1e-4)


def test_padding_takes_no_part() -> None:
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    counted = torch.tensor([True, True, False, True, True, False])
    found = sinkhorn(scores, 0.3, counted=counted)
    torch.testing.assert_close(found[counted], sinkhorn(scores[counted], 0.3))
    assert not found[~counted].any()
    assert torch.isfinite(sinkhorn(scores, 0.3, counted=torch.zeros(6).bool())).all()
    assert sinkhorn(scores[:0], 0.3).shape == (0, 4)


def test_the_golden_cross_entropy_and_centre() -> None:
    centre = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
    target = centred_softmax(Y, centre, 0.04)
    assert float(soft_cross_entropy(target, X, 0.1).mean()) == pytest.approx(0.45125023, abs=1e-8)
    assert float(moved_centre(centre, Y.sum(0), 4, 0.9)[0]) == pytest.approx(0.09195673, abs=1e-8)


def test_a_centre_that_nothing_was_said_to_stays() -> None:
    centre = torch.tensor([0.5, -1.0])
    assert torch.equal(moved_centre(centre, torch.zeros(2), 0, 0.9), centre)
    torch.testing.assert_close(moved_centre(centre, torch.tensor([2.0, 4.0]), 2, 0.5), torch.tensor([0.75, 0.5]))


def test_views_are_compared_with_every_other_view() -> None:
    centre = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
    target = centred_softmax(Y, centre, 0.04)
    assert float(across_views([target], [Y, X], 0.1)) == pytest.approx(0.45125023, abs=1e-8)  # not with itself
    generator = torch.Generator().manual_seed(5)
    targets = torch.randn(2, 3, 6, generator=generator).softmax(-1)
    students = torch.randn(5, 3, 6, generator=generator)
    terms = [
        soft_cross_entropy(target, student, 0.2).mean()
        for number, target in enumerate(targets)
        for other, student in enumerate(students)
        if number != other
    ]
    assert len(terms) == 2 * (5 - 1)
    torch.testing.assert_close(across_views(list(targets), list(students), 0.2), torch.stack(terms).mean())


def test_each_sample_counts_its_hidden_tokens_alike_and_those_without_dilute() -> None:
    generator = torch.Generator().manual_seed(6)
    target, logits = torch.randn(2, 4, 5, generator=generator).unbind()
    target, sample = target.softmax(-1), torch.tensor([0, 0, 0, 2])
    terms = soft_cross_entropy(target, logits, 0.1)
    found = over_hidden_tokens(target, logits, 0.1, sample, 3)
    torch.testing.assert_close(found, (terms[:3].mean() + 0 + terms[3]) / 3)
    none = over_hidden_tokens(target[:0], logits[:0].requires_grad_(), 0.1, sample[:0], 3)
    assert none == 0
    none.backward()


def test_entropy_lies_between_one_prototype_and_all() -> None:
    assert float(entropy(torch.eye(4))) == 0
    assert float(entropy(torch.full((3, 8), 1 / 8))) == pytest.approx(math.log(8), abs=1e-6)


def test_what_equals_the_centre_teaches_the_uniform_distribution() -> None:
    centre = torch.randn(16, generator=torch.Generator().manual_seed(3))
    target = centred_softmax(centre.expand(5, 16), centre, 0.04)
    assert float(soft_cross_entropy(target, torch.zeros(5, 16), 0.1).mean()) == pytest.approx(math.log(16), abs=1e-5)


def test_the_target_gets_no_gradient() -> None:
    target, logits = X.softmax(-1).requires_grad_(), Y.clone().requires_grad_()
    soft_cross_entropy(target, logits, 0.1).sum().backward()
    assert target.grad is None
    assert logits.grad is not None
