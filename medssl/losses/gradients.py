"""How fast an image changes: the second target of Uni4Eye."""

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

_SMOOTH = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_DERIVE = (-1 / 8, -2 / 8, 0.0, 2 / 8, 1 / 8)


def sobel_magnitude(image: Tensor) -> Tensor:
    """Mean over the axes of the absolute Sobel derivative, channel by channel, in float32.

    Of Uni4Eye, Cai et al., MICCAI 2022, https://arxiv.org/abs/2203.04614: kernels of 5, half the horizontal and half
    the vertical derivative. Deviations: in 3D a third of each axis; kernels are scaled so that a ramp that rises by 1 a
    voxel has a derivative of 1 (OpenCV's has 128); the edge voxel is repeated, so that a constant image has none.

    Args:
        image: (B, C, *S).
    """
    image = image.float()
    axes = range(2, image.ndim)
    found = [_derivative(image, axis).abs() for axis in axes]
    total = found[0]
    for other in found[1:]:
        total = total + other
    return total / len(found)


def _derivative(image: Tensor, along: int) -> Tensor:
    """Differences along one axis, smoothed along the others."""
    for axis in range(2, image.ndim):
        image = _filtered(image, axis, _DERIVE if axis == along else _SMOOTH)
    return image


def _filtered(image: Tensor, axis: int, kernel: Sequence[float]) -> Tensor:
    """Correlation with a kernel along an axis; a separable filter costs 5 products an axis, not 5 to the power."""
    reach, length = len(kernel) // 2, image.shape[axis]
    sides = [0, 0] * (image.ndim - 1 - axis) + [reach, reach] + [0, 0] * (axis - 2)
    padded = F.pad(image, sides, mode="replicate")
    terms = [weight * padded.narrow(axis, place, length) for place, weight in enumerate(kernel) if weight]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
