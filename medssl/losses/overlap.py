"""Losses of volume contrast: similarities of crops against how much the crops overlap, and base crops kept apart.

VoCo, Wu et al., CVPR 2024, https://arxiv.org/abs/2402.17300. All are computed in float32, and are means over samples of
the mean in a sample, so that a batch in parts has the loss of the whole. The paper and the authors' code differ; both
are here.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

_EPS = 1e-6  # the authors': the logarithm of a similarity that is wrong by 1 stays finite


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Cosines: (B, N, E) and (B, K, E) to (B, N, K)."""
    with torch.autocast(first.device.type, enabled=False):  # which would multiply in bf16
        return F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).transpose(-1, -2)


def overlap_terms(cosine: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of the authors' code: of base crops that a random crop overlaps, and of those that it does not.

    Where all embeddings agree they are `-sum(y ln y) / sum(y)` and 1.

    Args:
        cosine: (B, N, K) of random crops with base crops; below 0 counts as 0.
        share: (B, N, K) share `y` of each random crop in each base crop.

    Returns:
        () `sum(-y ln(1 - |y - cosine|)) / sum(y)`, and () the mean of the squares where nothing overlaps.
    """
    guess, apart = cosine.clamp(0, 1), (share == 0).float()
    near = (share * -(1 - (share - guess).abs() + _EPS).log()).flatten(1).sum(1) / share.flatten(1).sum(1)
    far = (apart * guess.square()).flatten(1).sum(1) / apart.flatten(1).sum(1).clamp(min=1)
    return near.mean(), far.mean()


def overlap_entropy(cosine: Tensor, share: Tensor) -> Tensor:
    """The one term of the paper, `-ln(1 - |y - cosine|)` over all base crops; arguments as `overlap_terms`."""
    return -(1 - (share - cosine.clamp(0, 1)).abs() + _EPS).log().mean()


def likeness(base: Tensor, *, squared: bool) -> Tensor:
    """How alike the base crops of a sample are to one another: 0 where all are orthogonal, 1 where all agree.

    Args:
        base: (B, K, E), K at least 2; of each pair only one gets a gradient, and each pair is met in both orders.
        squared: The authors' code: squares of the cosines above 0. False: the paper, their absolute values.
    """
    cosine = similarity(base, base.detach())
    value = cosine.clamp(min=0).square() if squared else cosine.abs()
    count = base.shape[1]
    own = value.diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((value.flatten(1).sum(1) - own) / (count * (count - 1))).mean()
