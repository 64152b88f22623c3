"""Losses between a teacher's and a student's distributions over prototypes, and how the teacher's is balanced.

All are computed in float32, or in float64 where that is what comes in.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medssl.losses.gather import max_over_processes, rank, sum_over_processes, world_size
from medssl.losses.precision import full

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
    scaled = full(scores) / temperature
    if counted is not None:
        scaled = scaled.masked_fill(~counted[:, None], -torch.inf)
    weight = torch.ones(len(scores), device=scores.device) if counted is None else counted.float()
    peak = scaled.max() if len(scaled) else scaled.new_tensor(-torch.inf)  # another process may have rows
    peak = max_over_processes(peak).clamp(min=torch.finfo(scaled.dtype).min)  # finite where no row counts
    assignments = (scaled - peak).exp()
    samples = sum_over_processes(weight.sum()).clamp(min=1)
    assignments = assignments / sum_over_processes(assignments.sum()).clamp(min=_TINY)
    for _ in range(rounds):
        assignments = assignments / sum_over_processes(assignments.sum(0)).clamp(min=_TINY) / scores.shape[1]
        assignments = assignments / assignments.sum(1, keepdim=True).clamp(min=_TINY) / samples
    return assignments * samples


@torch.no_grad()
def balanced(
    vectors: Tensor, prototypes: Callable[[Tensor], Tensor], temperature: float, earlier: Tensor | None = None
) -> Tensor:
    """Balanced assignments (B, K) of vectors by `sinkhorn`.

    Args:
        vectors: (B, E) of this process.
        prototypes: Makes scores (..., K) of vectors (..., E).
        temperature: Divides the scores.
        earlier: (Q, E) vectors of all processes that take part in balancing and are left out of the result; each
            process balances a part of them.
    """
    own = vectors.detach()
    if earlier is not None:
        own = torch.cat([earlier[rank() :: world_size()], own])
    return sinkhorn(prototypes(own), temperature)[-len(vectors) :]


def soft_cross_entropy(target: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """`-sum target log softmax(logits / temperature)`: (..., K) twice, to (...); the target gets no gradient."""
    return -(full(target.detach()) * (full(logits) / temperature).log_softmax(-1)).sum(-1)


def across_views(targets: Sequence[Tensor], students: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean of `soft_cross_entropy` over each target and each student view but its own.

    Args:
        targets: (B, K) distributions of the first views.
        students: (B, K) logits of these views in the same order, and of any further ones.
        temperature: Divides the logits.
    """
    terms = []
    for number, student in enumerate(students):
        others = [target for view, target in enumerate(targets) if view != number]
        if others:  # the loss is linear in the target: one softmax a student view serves all of them
            terms.append(soft_cross_entropy(torch.stack(others).sum(0), student, temperature).mean())
    return torch.stack(terms).sum() / (len(targets) * (len(students) - 1))


def over_hidden_tokens(target: Tensor, logits: Tensor, temperature: float, sample: Tensor, samples: int) -> Tensor:
    """`soft_cross_entropy` of hidden tokens: the mean over each sample's own, then over all samples.

    iBOT, Zhou et al., ICLR 2022, https://arxiv.org/abs/2111.07832. A sample that hides nothing counts as 0.

    Args:
        target: (M, K) distributions.
        logits: (M, K).
        temperature: Divides the logits.
        sample: (M,) which sample each token is of.
        samples: How many samples there are.
    """
    terms = soft_cross_entropy(target, logits, temperature)
    count = terms.new_zeros(samples).index_add_(0, sample, torch.ones_like(terms))
    return (terms / count[sample]).sum() / samples


def entropy(distribution: Tensor) -> Tensor:
    """Mean entropy of distributions (..., K): 0 where each is one-hot, log K where they are uniform; no gradient.

    0 where there are none: a part of a batch may hide no patch, and a number that is none would end the run.
    """
    known = distribution.detach().float()
    each = -(known * known.clamp(min=1e-12).log()).sum(-1)
    return each.mean() if each.numel() else each.new_zeros(())


def entropy_of_mean(distribution: Tensor) -> Tensor:
    """Entropy of the mean of distributions (N, K): 0 where all say the same one prototype, high where they differ."""
    return entropy(distribution.detach().float().mean(0))


@torch.no_grad()
def centred_softmax(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """DINO's target: `softmax((logits - centre) / temperature)`, (..., K).

    Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294: the centre keeps one prototype from winning everywhere,
    the low temperature keeps the target from being uniform.
    """
    return ((full(logits) - centre) / temperature).softmax(-1)


@torch.no_grad()
def moved_centre(centre: Tensor, total: Tensor, count: int, momentum: float) -> Tensor:
    """The centre (K,) after taking in the mean of the logits of all processes; without any it stays.

    Args:
        centre: (K,).
        total: (K,) sum of this process's logits.
        count: How many they are.
        momentum: Weight of the old centre.
    """
    counts = sum_over_processes(torch.tensor(float(count), device=centre.device))
    mean = sum_over_processes(total) / counts.clamp(min=1)
    return torch.where(counts > 0, torch.lerp(mean, centre, momentum), centre)
