"""The Sobel magnitude against full kernels, ramps and mirrors."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medssl.losses.gradients import sobel_magnitude


def _image(dims: int, channels: int = 1) -> Tensor:
    return torch.randn(2, channels, *(9, 7, 8)[:dims], generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _slow(image: Tensor) -> Tensor:
    """Voxel by voxel, with the whole kernel as a table."""
    dims = image.ndim - 2
    smooth, derive = [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], [-1 / 8, -2 / 8, 0, 2 / 8, 1 / 8]
    total = torch.zeros_like(image)
    for along in range(dims):
        found = torch.zeros_like(image)
        for voxel in itertools.product(*map(range, image.shape[2:])):
            for taps in itertools.product(range(5), repeat=dims):
                weight = 1.0
                for axis, tap in enumerate(taps):
                    weight *= derive[tap] if axis == along else smooth[tap]
                place = [min(max(v + t - 2, 0), n - 1) for v, t, n in zip(voxel, taps, image.shape[2:], strict=True)]
                found[(..., *voxel)] += weight * image[(..., *place)]
        total += found.abs() / dims
    return total


def test_equals_the_slow_sum_in_2d() -> None:
    image = _image(2, 2)
    torch.testing.assert_close(sobel_magnitude(image).double(), _slow(image), atol=1e-5, rtol=1e-5)


def test_equals_the_slow_sum_in_3d() -> None:
    image = _image(3)[:1, :, :5, :4, :4]
    torch.testing.assert_close(sobel_magnitude(image).double(), _slow(image), atol=1e-5, rtol=1e-5)


def test_the_kernel_is_that_of_opencv_in_2d() -> None:
    """cv2.Sobel(ksize=5) is the product of (1, 4, 6, 4, 1) and (-1, -2, 0, 2, 1); here it is scaled by 1 / 128."""
    image = _image(2).float()
    table = torch.outer(torch.tensor([1.0, 4, 6, 4, 1]), torch.tensor([-1.0, -2, 0, 2, 1]))
    across = F.conv2d(image, table[None, None]).abs() / 128
    down = F.conv2d(image, table.T[None, None]).abs() / 128
    torch.testing.assert_close(sobel_magnitude(image)[:, :, 2:-2, 2:-2], 0.5 * across + 0.5 * down)


@pytest.mark.parametrize("dims", [2, 3])
def test_constant_is_0_and_a_ramp_is_constant_inside(dims: int) -> None:
    assert (sobel_magnitude(torch.full((1, 2, *[6] * dims), 3.0)) == 0).all()
    ramp = 2.0 * torch.arange(8.0).view(1, 1, 8, *[1] * (dims - 1)).expand(1, 1, *[8] * dims)
    inside = sobel_magnitude(ramp)[(..., *[slice(2, -2)] * dims)]
    torch.testing.assert_close(inside, torch.full_like(inside, 2 / dims))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_mirrored_images_have_mirrored_gradients(dims: int, channels: int) -> None:
    image = _image(dims, channels)
    for axis in range(2, image.ndim):
        torch.testing.assert_close(sobel_magnitude(image.flip(axis)), sobel_magnitude(image).flip(axis))
