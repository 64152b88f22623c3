"""What each of two gloo processes computes of one batch; started by test_gather.py."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from medssl.losses.agreement import barlow_twins, koleo, vicreg_terms
from medssl.losses.contrastive import batch_info_nce, nt_xent
from medssl.losses.distillation import moved_centre, sinkhorn
from medssl.losses.gather import alone, sum_over_processes

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": lambda a, b: nt_xent(a, b, 0.2),
    "batch_info_nce": lambda a, b: batch_info_nce(a, b, 0.2),
    "barlow_twins": lambda a, b: barlow_twins(a, b, 0.1)[0],
    "koleo": lambda a, _: koleo(a),
    "vicreg": lambda a, b: sum(vicreg_terms(a, b), torch.zeros(())),
}


def views() -> tuple[Tensor, Tensor]:
    """Two views of the whole batch of eight."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 6, generator=generator), torch.randn(8, 6, generator=generator)


def weights() -> Tensor:
    """A linear network for the gradient to reach."""
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()


def half(rank: int) -> dict[str, Tensor]:
    """What this process computes of its half; gradients are averaged as DDP averages them."""
    found: dict[str, Tensor] = {}
    rows = slice(4 * rank, 4 * rank + 4)
    for name, loss in LOSSES.items():
        weight = weights()
        first, second = (view[rows] @ weight for view in views())
        value = loss(first, second)
        value.backward()
        for tensor in (weight.grad, total := value.detach().clone()):
            dist.all_reduce(tensor)
            tensor.div_(2)
        found[name], found[f"{name}_gradient"] = total, weight.grad
    first, _ = views()
    found["sinkhorn"] = sinkhorn(first[rows], 0.5)
    with alone():  # the whole batch, as if there were no other process
        found |= {f"{name}_alone": loss(*views()) for name, loss in LOSSES.items()}
        found["sum_alone"] = sum_over_processes(first)
    found["centre"] = moved_centre(torch.zeros(6), first[rows].sum(0), 4, 0.9)
    return found
