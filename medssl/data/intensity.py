"""Changing intensities of a batch: pure functions of images (n, C, *S) float32 and one number a sample."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_POINTS = 513  # of a curve's table; between them it is a line


def add_noise(image: Tensor, std: Tensor, seeds: Sequence[int]) -> Tensor:
    """Add Gaussian noise of `std` (n,) times the image's own deviation, drawn from one generator a sample."""
    noise = torch.empty_like(image)
    for sample, seed in zip(noise, seeds, strict=True):
        sample.normal_(generator=torch.Generator(device=image.device).manual_seed(seed))
    return torch.addcmul(image, noise, _deviation(image) * _per_sample(std, image))


def blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian smoothing with standard deviation `sigma` (n,) voxels; at the border the kernel is renormalised."""
    return _along_axes(image, [_gaussian(n, sigma) for n in image.shape[2:]])


def coarsen(image: Tensor, factor: Tensor) -> Tensor:
    """Average over `factor` (n,) voxels along each axis and interpolate back linearly."""
    return _along_axes(image, [_coarse(n, factor) for n in image.shape[2:]])


def add_brightness(image: Tensor, amount: Tensor) -> Tensor:
    """Add `amount` (n,) times the image's own deviation."""
    return image + _deviation(image) * _per_sample(amount, image)


def scale_contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Stretch by `factor` (n,) about each channel's mean; the range of values is kept."""
    mean = image.mean(_spatial(image), keepdim=True)
    low, high = _range(image)
    stretched = torch.lerp(mean.expand_as(image), image, _per_sample(factor, image))
    return torch.minimum(torch.maximum(stretched, low), high)


def apply_gamma(image: Tensor, gamma: Tensor, inverted: Tensor) -> Tensor:
    """Raise intensities, scaled to 0 to 1, to the power `gamma` (n,); mean and deviation of each channel are kept.

    Args:
        image: (n, C, *S).
        gamma: (n,).
        inverted: (n,) 0 or 1: work on the negative image, which bends the bright end instead of the dark one.
    """
    low, high = _range(image)
    sign = _per_sample(1 - 2 * inverted, image)
    start = torch.where(sign > 0, low, high)
    unit = (image - start).mul_(sign / (high - low).clamp_min(1e-7)).clamp_(0, 1)
    curved = unit.pow_(_per_sample(gamma, image)).mul_(sign)
    mean, deviation = image.mean(_spatial(image), keepdim=True), _deviation(image)
    centred = curved - curved.mean(_spatial(image), keepdim=True)
    return torch.addcmul(mean, centred, deviation / _deviation(curved).clamp_min(1e-7))


def add_bias_field(image: Tensor, controls: Tensor) -> Tensor:
    """Multiply intensities above each channel's lowest value by the exponential of a smooth field.

    Args:
        image: (n, C, *S).
        controls: (n, 3, ..., 3) logarithm of the field at 3 points an axis, interpolated linearly.
    """
    mode = "trilinear" if image.ndim == 5 else "bilinear"
    field = functional.interpolate(controls[:, None], size=image.shape[2:], mode=mode, align_corners=True).exp()
    low, _ = _range(image)
    return torch.addcmul(low, image - low, field)


def bend(image: Tensor, curve: Tensor, inverted: Tensor) -> Tensor:
    """Pass intensities, scaled to 0 to 1 in each channel, through a cubic Bezier curve from (0, 0) to (1, 1).

    With control points in the unit square both coordinates rise along the curve, so that it is a function.

    Args:
        image: (n, C, *S).
        curve: (n, 2, 2) x, then y, of the two inner control points.
        inverted: (n,) bool: the curve is run through backwards in y, from (0, 1) to (1, 0).
    """
    low, high = _range(image)
    unit = ((image - low) / (high - low).clamp_min(1e-7)).clamp_(0, 1).flatten(1)
    t = torch.linspace(0, 1, _POINTS, device=image.device)
    weights = torch.stack([3 * (1 - t).square() * t, 3 * (1 - t) * t.square()])
    x, y = ((curve[..., None] * weights).sum(2) + t**3).unbind(1)  # (n, points); a product of matrices may be in bf16
    y = torch.where(inverted[:, None], y.flip(1), y)
    right = torch.searchsorted(x.contiguous(), unit, right=True).clamp_(1, _POINTS - 1)
    x0, x1, y0, y1 = (values.gather(1, place) for values in (x, y) for place in (right - 1, right))
    share = ((unit - x0) / (x1 - x0).clamp_min(1e-12)).clamp_(0, 1)
    return low + (high - low) * torch.lerp(y0, y1, share).view_as(image)


def _along_axes(image: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix (n, S, S) a sample along each spatial axis; a small product is faster than a convolution."""
    for axis, matrix in enumerate(matrices, start=2):
        moved = image.movedim(axis, 1).flatten(2)  # (n, S, rest)
        image = torch.bmm(matrix, moved).view(image.movedim(axis, 1).shape).movedim(1, axis)
    return image


def _gaussian(size: int, sigma: Tensor) -> Tensor:
    line = torch.arange(size, device=sigma.device, dtype=torch.float32)
    distance = (line[:, None] - line) / sigma.view(-1, 1, 1)
    weight = torch.exp(-0.5 * distance.square())
    return weight / weight.sum(2, keepdim=True)


def _coarse(size: int, factor: Tensor) -> Tensor:
    """(n, size, size): mean over cells of a coarser grid, then linear interpolation between the cells' centres."""
    centres = torch.arange(size, device=factor.device, dtype=torch.float32) + 0.5
    matrices = []
    for step in factor:
        cells = (size / step).round().clamp(1, size)
        width = size / cells  # a scalar on the device: nothing waits for it
        left = torch.arange(size, device=factor.device, dtype=torch.float32) * width
        overlap = torch.minimum(left[:, None] + width, centres + 0.5) - torch.maximum(left[:, None], centres - 0.5)
        mean = overlap.clamp_min(0) / width  # (cell, voxel)
        position = (centres / width - 0.5).clamp_min(0).minimum(cells - 1)
        cell = torch.arange(size, device=factor.device, dtype=torch.float32)
        weight = (1 - (position[:, None] - cell).abs()).clamp_min(0)  # (voxel, cell)
        matrices.append(weight @ mean)
    return torch.stack(matrices)


def _spatial(image: Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.ndim))


def _deviation(image: Tensor) -> Tensor:
    centred = image - image.mean(_spatial(image), keepdim=True)
    return centred.square_().mean(_spatial(image), keepdim=True).sqrt_()  # torch.std is ten times slower on the CPU


def _range(image: Tensor) -> tuple[Tensor, Tensor]:
    return image.amin(_spatial(image), keepdim=True), image.amax(_spatial(image), keepdim=True)


def _per_sample(values: Tensor, image: Tensor) -> Tensor:
    return values.to(image.dtype).view(-1, *[1] * (image.ndim - 1))
