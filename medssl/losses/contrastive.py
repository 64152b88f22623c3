"""Losses in which each embedding must find its partner among others.

All are computed in float32, or in float64 where that is what comes in. Rows are normalised here, so embeddings may have
any length.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

from medssl.losses.gather import gather, gather_with_gradient, rank
from medssl.losses.precision import full, without_autocast


@without_autocast
def nt_xent(first: Tensor, second: Tensor, temperature: float, patients: Tensor | None = None) -> Tensor:
    """Normalised-temperature cross-entropy: the other view against all other views of the batch of all processes.

    SimCLR, Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709. Equals log(2B - 1) where all embeddings agree.

    Args:
        first: (B, E) embeddings of the first views.
        second: (B, E) of the second views, in the same order.
        temperature: Divides the cosines.
        patients: (B,) numbers of the patients; views of one's own patient other than the partner then are no negatives.

    Returns:
        () mean over the 2B anchors of this process.
    """
    first, second = _unit(first), _unit(second)
    all_first, all_second = gather_with_gradient(first), gather_with_gradient(second)
    own = torch.arange(len(first), device=first.device) + rank() * len(first)
    excluded = torch.zeros(len(first), len(all_first), dtype=torch.bool, device=first.device)
    if patients is not None:
        excluded = patients[:, None] == gather(patients)[None]
    itself = F.one_hot(own, len(all_first)).bool()
    losses = []
    for anchor, same_view, other_view in ((first, all_first, all_second), (second, all_second, all_first)):
        to_other = (anchor @ other_view.T / temperature).masked_fill(excluded & ~itself, -torch.inf)
        to_same = (anchor @ same_view.T / temperature).masked_fill(excluded | itself, -torch.inf)
        losses.append(F.cross_entropy(torch.cat([to_other, to_same], dim=1), own))
    return (losses[0] + losses[1]) / 2


@without_autocast
def queue_info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the own key against a queue of older keys; equals log(K + 1) where all similarities agree.

    MoCo, He et al., CVPR 2020, https://arxiv.org/abs/1911.05722.

    Args:
        query: (B, E).
        key: (B, E); gets no gradient.
        queue: (K, E) rows of unit length.
        temperature: Divides the cosines.
    """
    query, key = _unit(query), _unit(key.detach())
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ queue.to(query).T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


@without_autocast
def batch_info_nce(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the own key against the keys of the batch of all processes, times 2 x temperature.

    MoCo v3, Chen et al., ICCV 2021, https://arxiv.org/abs/2104.02057. The factor is the authors': it keeps the gradient
    alike for all temperatures.

    Args:
        query: (B, E).
        key: (B, E); gets no gradient.
        temperature: Divides the cosines.
    """
    query, keys = _unit(query), gather(_unit(key))
    own = torch.arange(len(query), device=query.device) + rank() * len(query)
    return 2 * temperature * F.cross_entropy(query @ keys.T / temperature, own)


def _unit(embedding: Tensor) -> Tensor:
    return F.normalize(full(embedding), dim=1)
