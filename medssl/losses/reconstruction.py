"""Losses between hidden patches and their reconstruction."""

import torch
from torch import Tensor


def normalise_patches(patches: Tensor, variance_floor: float = 1e-6) -> Tensor:
    """Each token to mean 0 and variance 1 (unbiased), as MAE and SparK target it.

    Args:
        patches: (B, N, P).
        variance_floor: Added to the variance; raises it for constant patches, whose noise would otherwise be amplified.
    """
    centred = patches - patches.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)  # on a CPU 4 x as fast as var()
    return centred * torch.rsqrt(variance + variance_floor)


def token_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error: over each token, then over all tokens given. (B, n, P) twice, to ()."""
    return (prediction.float() - target.float()).square().mean(-1).mean()


def masked_token_mse(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden tokens of the whole batch; 0 where none is hidden.

    Args:
        prediction: (B, N, P).
        target: (B, N, P).
        hidden: (B, N) bool, True = hidden = counts.
    """
    weight = hidden.to(torch.float32)
    error = (prediction.float() - target.float()).square().mean(-1)
    return (error * weight).sum() / weight.sum().clamp(min=1)


def masked_l1(prediction: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Mean absolute error over the numbers that count, of the whole batch; 0 where none does.

    Args:
        prediction: (B, N, P).
        target: (B, N, P).
        counted: (B, N, P) bool.
    """
    weight = counted.to(torch.float32)
    return ((prediction.float() - target.float()).abs() * weight).sum() / weight.sum().clamp(min=1)
