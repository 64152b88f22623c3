"""Losses between a teacher's and a student's distributions over prototypes, and how the teacher's is balanced.

All are computed in float32.
"""

import torch
from torch import Tensor

from medssl.losses.gather import max_over_processes, sum_over_processes

_TINY = 1e-38  # rows of padding, and prototypes that underflow, sum to 0


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, rounds: int = 3, counted: Tensor | None = None) -> Tensor:
    """Soft assignments in which all prototypes are used alike over the batch of all processes.

    Sinkhorn-Knopp as in SwAV, Caron et al., NeurIPS 2020, https://arxiv.org/abs/2006.09882. The largest score is
    subtracted first: the result is the same and nothing overflows.

    Args:
        scores: (B, K) similarities to the prototypes.
        temperature: Divides the scores.
        rounds: Alternations of prototypes and samples; the samples come last, so each row sums to 1.
        counted: (B,) bool; rows that are False are padding and come back as 0. None = all count.

    Returns:
        (B, K).
    """
    scaled = scores.float() / temperature
    if counted is not None:
        scaled = scaled.masked_fill(~counted[:, None], -torch.inf)
    weight = torch.ones(len(scores), device=scores.device) if counted is None else counted.float()
    peak = max_over_processes(scaled.max()).clamp(min=torch.finfo(scaled.dtype).min)  # finite where no row counts
    assignments = (scaled - peak).exp()
    samples = sum_over_processes(weight.sum()).clamp(min=1)
    assignments = assignments / sum_over_processes(assignments.sum()).clamp(min=_TINY)
    for _ in range(rounds):
        assignments = assignments / sum_over_processes(assignments.sum(0)).clamp(min=_TINY) / scores.shape[1]
        assignments = assignments / assignments.sum(1, keepdim=True).clamp(min=_TINY) / samples
    return assignments * samples


def soft_cross_entropy(target: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """`-sum target log softmax(logits / temperature)`: (..., K) twice, to (...); the target gets no gradient."""
    return -(target.detach().float() * (logits.float() / temperature).log_softmax(-1)).sum(-1)


@torch.no_grad()
def centred_softmax(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """DINO's target: `softmax((logits - centre) / temperature)`, (..., K).

    Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294: the centre keeps one prototype from winning everywhere,
    the low temperature keeps the target from being uniform.
    """
    return ((logits.float() - centre) / temperature).softmax(-1)


@torch.no_grad()
def moved_centre(centre: Tensor, logits: Tensor, momentum: float) -> Tensor:
    """The centre (K,) after taking in the mean of logits (..., K) of all processes."""
    flat = logits.float().flatten(0, -2)
    total = sum_over_processes(flat.sum(0))
    count = sum_over_processes(torch.tensor(float(len(flat)), device=flat.device)).clamp(min=1)
    return centre * momentum + total / count * (1 - momentum)
