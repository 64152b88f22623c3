"""Losses between hidden patches and their reconstruction."""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

from medssl.losses.gather import sum_over_processes, world_size
from medssl.losses.precision import full


def normalise_patches(patches: Tensor, variance_floor: float = 1e-6) -> Tensor:
    """Each token to mean 0 and variance 1 (unbiased), as MAE and SparK target it.

    Args:
        patches: (B, N, P).
        variance_floor: Added to the variance; raises it for constant patches, whose noise would otherwise be amplified.
    """
    centred = patches - patches.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)  # on a CPU 4 x as fast as var()
    return centred * torch.rsqrt(variance + variance_floor)


def denormalise_patches(normalised: Tensor, own: Tensor, variance_floor: float) -> Tensor:
    """Inverse of `normalise_patches`: tokens (B, N, P) with the mean and variance of `own` (B, N, P)."""
    return normalised * (own.var(-1, keepdim=True) + variance_floor).sqrt() + own.mean(-1, keepdim=True)


def local_statistics(image: Tensor, window: int, variance_floor: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean and deviation about each voxel, channel by channel: what SimMIM of Swin V2 normalises its target with.

    Args:
        image: (B, C, *S).
        window: Side of the box about a voxel, odd; what lies outside the image does not count.
        variance_floor: Added to the variance (unbiased).

    Returns:
        Two (B, C, *S) float32.
    """
    centre = image.float().mean(tuple(range(2, image.ndim)), keepdim=True)  # squares of small numbers lose less
    centred = image.float() - centre
    mean = _box_mean(centred, window)
    count = torch.ones((), device=image.device)
    for axis, length in enumerate(image.shape[2:], start=2):
        place = torch.arange(length, device=image.device)
        inside = (place + window // 2).clamp(max=length - 1) - (place - window // 2).clamp(min=0) + 1
        count = count * inside.view(*[length if other == axis else 1 for other in range(image.ndim)])
    variance = (_box_mean(centred.square(), window) - mean.square()).clamp(min=0) * count / (count - 1)
    return mean + centre, (variance + variance_floor).sqrt()


def token_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error: over each token, then over all tokens given. (B, n, P) twice, to ()."""
    return (full(prediction) - full(target)).square().mean(-1).mean()


def masked_token_mse(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden tokens of the batch of all processes; 0 where none is hidden.

    Each process has its own count, and their gradients, averaged as DDP does, are those of that mean.

    Args:
        prediction: (B, N, P).
        target: (B, N, P).
        hidden: (B, N) bool, True = hidden = counts.
    """
    weight = hidden.to(torch.float32)
    error = (full(prediction) - full(target)).square().mean(-1)
    return (error * weight).sum() / _counted(weight)


def masked_l1(prediction: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Mean absolute error over the numbers that count, of the batch of all processes; 0 where none does.

    Args:
        prediction: (B, N, P).
        target: (B, N, P).
        counted: (B, N, P) bool.
    """
    weight = counted.to(torch.float32)
    return ((full(prediction) - full(target)).abs() * weight).sum() / _counted(weight)


def _counted(weight: Tensor) -> Tensor:
    """How much counts, of all processes, for each of these."""
    return sum_over_processes(weight.sum()).clamp(min=1) / world_size()


def _box_mean(image: Tensor, window: int) -> Tensor:
    """Mean over a box about each voxel of (B, C, *S), axis after axis: so it costs little in 3D."""
    pool = F.avg_pool3d if image.ndim == 5 else F.avg_pool2d
    for axis in range(image.ndim - 2):
        kernel = [window if other == axis else 1 for other in range(image.ndim - 2)]
        image = pool(image, kernel, stride=1, padding=[n // 2 for n in kernel], count_include_pad=False)
    return image


def latent_regression(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1 between predicted features and those that are wanted, each normalised over its channels; mean ().

    I-JEPA, Assran et al., CVPR 2023, https://arxiv.org/abs/2301.08243.

    Args:
        predicted: (..., E).
        wanted: (..., E); no gradient goes there.
    """
    target = F.layer_norm(full(wanted.detach()), wanted.shape[-1:])
    return F.smooth_l1_loss(full(predicted), target)
