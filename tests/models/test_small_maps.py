"""Convolutions of maps smaller than their kernel, trained in bf16: gradients that float32 confirms."""

import pytest
import torch

from medssl.models.layers import conv


def _fill_memory() -> None:
    """Leave numbers behind in freed memory, for kernels that read what they did not write."""
    for size in (64, 256, 1024, 4096, 16384, 65536, 262144) * 3:
        torch.full((size,), 3.0)


@pytest.mark.parametrize(
    ("dims", "shape", "kernel", "stride"),
    [(3, (2, 2, 2), 3, 1), (3, (2, 4, 4), 3, 1), (3, (4, 4, 1), 3, 2), (3, (3, 4, 4), 5, 1), (2, (4, 1), 3, 2)],
)
def test_the_gradient_is_that_of_float32(dims: int, shape: tuple[int, ...], kernel: int, stride: int):
    torch.manual_seed(0)
    layer = conv(dims)(16, 32, kernel, stride=stride, padding=kernel // 2)
    weight = layer.get_parameter("weight")
    for _ in range(4):
        image = torch.randn(4, 16, *shape).bfloat16()
        weight.data = weight.data.bfloat16().float()
        gradients = []
        for bf16 in (True, False):
            layer.zero_grad()
            _fill_memory()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                out = layer(image if bf16 else image.float())
            _fill_memory()
            out.float().mul(0.5).sum().backward()
            gradients.append(weight.grad)
        torch.testing.assert_close(gradients[0], gradients[1], atol=0.05, rtol=0.05)


def test_larger_maps_stay_in_bf16():
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(3)(4, 4, 3, padding=1)(torch.randn(1, 4, 4, 4, 4)).dtype == torch.bfloat16
