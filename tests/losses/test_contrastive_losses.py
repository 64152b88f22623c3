import math

import pytest
import torch
from golden import X, Y, sines
from torch import Tensor
from torch.nn import functional

from medssl.losses.contrastive import batch_info_nce, nt_xent, queue_info_nce


def _slow_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    rows = torch.cat([functional.normalize(first, dim=1), functional.normalize(second, dim=1)])
    count, total = len(rows), 0.0
    for anchor in range(count):
        partner = (anchor + count // 2) % count
        others = [float((rows[anchor] @ rows[k] / temperature).exp()) for k in range(count) if k != anchor]
        total -= math.log(float((rows[anchor] @ rows[partner] / temperature).exp()) / sum(others))
    return total / count


@pytest.mark.parametrize(("temperature", "golden"), [(0.1, 1.47979017), (0.5, 1.17465458)])
def test_nt_xent_of_the_golden_matrices(temperature: float, golden: float) -> None:
    assert float(nt_xent(X, Y, temperature)) == pytest.approx(golden, abs=1e-8)
    assert _slow_nt_xent(X, Y, temperature) == pytest.approx(golden, abs=1e-8)


def test_nt_xent_is_symmetric_and_knows_no_order() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(6, 8, generator=generator) for _ in range(2))
    order = torch.randperm(6, generator=generator)
    value = nt_xent(first, second, 0.2)
    torch.testing.assert_close(nt_xent(second, first, 0.2), value)
    torch.testing.assert_close(nt_xent(first[order], second[order], 0.2), value)
    torch.testing.assert_close(nt_xent(3 * first, 0.1 * second, 0.2), value)


def test_nt_xent_at_collapse_and_at_its_best() -> None:
    same = torch.ones(5, 4)
    assert float(nt_xent(same, same, 0.07)) == pytest.approx(math.log(9))
    assert float(nt_xent(torch.eye(4), torch.eye(4), 0.01)) == pytest.approx(0, abs=1e-6)


def test_views_of_the_same_patient_are_no_negatives() -> None:
    """Four crops of two patients: what is left is the partner and the four views of the other patient."""
    same = torch.ones(4, 3)
    assert float(nt_xent(same, same, 0.5, torch.tensor([1, 1, 2, 2]))) == pytest.approx(math.log(5))
    apart = torch.tensor([1, 2, 3, 4])
    torch.testing.assert_close(nt_xent(X, Y, 0.5, apart), nt_xent(X, Y, 0.5))


def test_the_queue_of_the_golden_matrices_and_at_collapse() -> None:
    queue = functional.normalize(sines(5, 3, 7.0), dim=1)
    assert float(queue_info_nce(X, Y, queue, 0.2)) == pytest.approx(1.40519121, abs=1e-8)
    same = functional.normalize(torch.ones(7, 3), dim=1)
    assert float(queue_info_nce(same, same, same, 0.2)) == pytest.approx(math.log(8))


def test_the_batch_form_of_the_golden_matrices_and_at_collapse() -> None:
    both = batch_info_nce(X, Y, 0.2) + batch_info_nce(Y, X, 0.2)
    assert float(both) == pytest.approx(0.53011973, abs=1e-8)
    same = torch.ones(7, 3)
    assert float(batch_info_nce(same, same, 0.3)) == pytest.approx(0.6 * math.log(7))


@pytest.mark.parametrize("loss", [lambda q, k: queue_info_nce(q, k, Y, 0.2), lambda q, k: batch_info_nce(q, k, 0.2)])
def test_keys_get_no_gradient(loss) -> None:
    query, key = X.clone().requires_grad_(), Y.clone().requires_grad_()
    loss(query, key).backward()
    assert query.grad is not None
    assert key.grad is None


def test_losses_are_float32_whatever_comes_in() -> None:
    half = X.bfloat16()
    for value in (nt_xent(half, half, 0.1), batch_info_nce(half, half, 0.1), queue_info_nce(half, half, half, 0.1)):
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
