"""Two processes that share a batch compute what one process computes of the whole."""

from pathlib import Path

import gloo_pair
import torch
from gloo import in_two_processes
from gloo_pair import LOSSES, views, weights
from torch import Tensor

from medssl.losses.distillation import moved_centre, sinkhorn
from medssl.losses.gather import gather, gather_with_gradient, sum_over_processes


def test_one_process_is_the_identity() -> None:
    tensor = torch.ones(3, requires_grad=True)
    assert gather_with_gradient(tensor) is tensor
    assert torch.equal(gather(tensor), tensor)
    assert not gather(tensor).requires_grad
    assert torch.equal(sum_over_processes(tensor), tensor)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    halves: list[dict[str, Tensor]] = in_two_processes(gloo_pair.half, tmp_path)
    for name, loss in LOSSES.items():
        weight = weights()
        value = loss(*(view @ weight for view in views()))
        value.backward()
        for half in halves:
            torch.testing.assert_close(half[name], value.detach(), msg=name)
            torch.testing.assert_close(half[f"{name}_gradient"], weight.grad, msg=name)
    first, _ = views()
    both = torch.cat([half["sinkhorn"] for half in halves])
    torch.testing.assert_close(both, sinkhorn(first, 0.5))
    for half in halves:
        assert torch.equal(half["sum_alone"], first)
        for name, loss in LOSSES.items():
            torch.testing.assert_close(half[f"{name}_alone"], loss(*views()), msg=name)
        torch.testing.assert_close(half["centre"], moved_centre(torch.zeros(6), first.sum(0), 8, 0.9))
