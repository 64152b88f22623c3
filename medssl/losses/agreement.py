"""Losses that pull two views together without negatives, and those that keep dimensions from collapsing.

All are computed in float32, or in float64 where that is what comes in.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

from medssl.losses.gather import gather_with_gradient, rank
from medssl.losses.precision import full, without_autocast


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """`2 - 2 cos`, the mean over the batch, between 0 and 4; the target (B, E) gets no gradient.

    BYOL, Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733.
    """
    return (2 - 2 * F.cosine_similarity(full(prediction), full(target.detach()), dim=1)).mean()


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """`-cos`, the mean over the batch; the target (B, E) gets no gradient.

    SimSiam, Chen and He, CVPR 2021, https://arxiv.org/abs/2011.10566.
    """
    return -F.cosine_similarity(full(prediction), full(target.detach()), dim=1).mean()


@without_autocast
def barlow_twins(first: Tensor, second: Tensor, off_diagonal: float, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The cross-correlation of two views' embeddings, over the batch of all processes, against the identity.

    Barlow Twins, Zbontar et al., ICML 2021, https://arxiv.org/abs/2103.03230. Standardising each dimension over the
    batch (biased variance) is what the authors' batch norm without affine does.

    Args:
        first: (B, E).
        second: (B, E).
        off_diagonal: Weight of the entries off the diagonal.
        eps: Added to the variance.

    Returns:
        () sum of both terms, and () the mean of the diagonal, detached, for the log.
    """
    views = [_standardised(gather_with_gradient(full(view)), eps) for view in (first, second)]
    correlation = views[0].T @ views[1] / len(views[0])
    diagonal = correlation.diagonal()
    on = (1 - diagonal).square().sum()
    off = correlation.square().sum() - diagonal.square().sum()
    return on + off_diagonal * off, diagonal.mean().detach()


@without_autocast
def vicreg_terms(first: Tensor, second: Tensor, eps: float = 1e-4) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance terms, not weighted.

    VICReg, Bardes et al., ICLR 2022, https://arxiv.org/abs/2105.04906. Variance and covariance are those of the
    batch of all processes, unbiased; the variance term is the mean of both views, the covariance term their sum.

    Args:
        first: (B, E), B at least 2.
        second: (B, E).
        eps: Added to the variance before the root, so that its gradient is finite.
    """
    first, second = full(first), full(second)
    invariance = F.mse_loss(first, second)
    variance = covariance = first.new_zeros(())
    for view in (gather_with_gradient(first), gather_with_gradient(second)):
        centred = view - view.mean(0)
        matrix = centred.T @ centred / (len(view) - 1)
        deviation = (matrix.diagonal() + eps).sqrt()
        variance = variance + F.relu(1 - deviation).mean() / 2
        covariance = covariance + (matrix.square().sum() - matrix.diagonal().square().sum()) / view.shape[1]
    return invariance, variance, covariance


def koleo(features: Tensor, eps: float = 1e-8) -> Tensor:
    """Minus the mean logarithm of the distance to the nearest neighbour on the unit sphere: features spread out.

    Kozachenko-Leonenko estimator, Sablayrolles et al., ICLR 2019, https://arxiv.org/abs/1806.03198, as in DINOv2.
    Deviation: neighbours are looked for in the batch of all processes, so that they do not depend on their number.

    Args:
        features: (B, E), B at least 2.
        eps: Added to each coordinate's difference and to the distance.
    """
    unit = F.normalize(full(features), dim=1)
    others = gather_with_gradient(unit)
    with torch.no_grad(), torch.autocast(unit.device.type, enabled=False):  # bf16 confuses near neighbours
        itself = torch.arange(len(unit), device=unit.device)[:, None] + rank() * len(unit)
        nearest = (unit @ others.T).scatter(1, itself, -torch.inf).argmax(1)
    distance = F.pairwise_distance(unit, others[nearest], eps=eps)
    return -(distance + eps).log().mean()


def _standardised(values: Tensor, eps: float) -> Tensor:
    centred = values - values.mean(0)
    return centred / (centred.square().mean(0) + eps).sqrt()
