"""Timings of single layers behind `docs/decisions.md`: `python tests/benchmarks/layers.py`, one thread, milliseconds.

The alternatives of a decision take turns, so that a busy machine slows all of them alike.
"""

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.commands.benchmarks.comparison import median_seconds
from medssl.models.attention import attention
from medssl.models.component import Component
from medssl.models.masked import HiddenBlocks
from medssl.models.networks import NetworkSpec, build_network

_ROUNDS = 9


def _trained(
    function: Callable[..., Tensor], *inputs: Tensor, dtype: torch.dtype = torch.bfloat16
) -> Callable[[], None]:
    """Forward and backward of a function of tensors."""

    def step() -> None:
        leaves = [t.detach().requires_grad_() for t in inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = function(*leaves)
        out.float().sum().backward()

    return step


def attention_kernels() -> None:
    """The plain products of `medssl.models.vit.attention` beside torch's fused kernel."""
    for tokens in (129, 513):
        parts = [torch.randn(4, 6, tokens, 64, dtype=torch.bfloat16) for _ in range(3)]
        ways = {"as in medssl": _trained(attention, *parts), "fused": _trained(F.scaled_dot_product_attention, *parts)}
        _tell(f"attention, {tokens} tokens, bf16", ways)


def convolution_channels() -> None:
    """Channel counts that oneDNN pads beside those that it does not."""
    ways = {}
    for inputs, outputs in ((48, 24), (48, 32), (32, 16)):
        layer = nn.Conv3d(inputs, outputs, 3, padding=1)
        ways[f"{inputs} to {outputs} channels"] = _trained(layer, torch.randn(2, inputs, 40, 56, 40))
    _tell("convolution 3x3x3 of two 40x56x40 maps, bf16", ways)


def networks() -> None:
    """Steps of the residual U-Net: channel counts, memory order, precision."""
    image = torch.randn(2, 1, 40, 56, 40)
    ways = {}
    for features in ([24, 48, 96, 192], [16, 48, 96, 192], [16, 32, 64, 128]):
        network = _unet(features)
        ways["-".join(map(str, features))] = _trained(network, image)
    _tell("U-Net, two crops of 40x56x40, bf16", ways)
    for dtype in (torch.bfloat16, torch.float32):
        plain, last = _unet([24, 48, 96, 192]), _unet([24, 48, 96, 192])
        last = last.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        ordered = image.contiguous(memory_format=torch.channels_last_3d)
        ways = {"plain": _trained(plain, image, dtype=dtype), "channels last": _trained(last, ordered, dtype=dtype)}
        _tell(f"U-Net 24-48-96-192, two crops of 40x56x40, {dtype}", ways)


def precisions() -> None:
    """Layers in bf16 and in float32, which a processor without AVX-512 computes in place of it."""
    for name, layer, given in (
        ("convolution 3x3 of 16 maps of 96x96, 16 to 32 channels", nn.Conv2d(16, 32, 3, padding=1), (16, 16, 96, 96)),
        ("linear layer of 64 x 200 tokens, 384 to 1536", nn.Linear(384, 1536), (64, 200, 384)),
    ):
        ways = {
            str(dtype): _trained(layer, torch.randn(given), dtype=dtype) for dtype in (torch.bfloat16, torch.float32)
        }
        _tell(name, ways)


def masked_statistics() -> None:
    """The encoder on visible voxels beside the dense one."""
    network, image = _unet([24, 48, 96, 192]).encoder, torch.randn(4, 1, 32, 32, 32)
    blocks = HiddenBlocks(torch.rand(4, 4, 4, 4) < 0.6, (8, 8, 8))
    ways = {
        "dense": _trained(lambda x: network(x)[-1], image),
        "masked": _trained(lambda x: network(x, blocks)[-1], image),
    }
    _tell("encoder 24-48-96-192, four crops of 32^3, bf16", ways)


def _unet(features: list[int]) -> nn.Module:
    encoder = Component("medssl.models.unet.ResidualUNetEncoder", {"features": features, "blocks": [0, 1, 1, 1]})
    decoder = Component("medssl.models.decoders.UNetDecoder")
    return build_network(NetworkSpec("segmentation", 3, 1, 3, encoder, decoder))


def _tell(title: str, ways: dict[str, Callable[[], None]]) -> None:
    found = median_seconds(ways, _ROUNDS)
    numbers = ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in found.items())
    sys.stdout.write(f"{title}: {numbers}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    attention_kernels()
    convolution_channels()
    networks()
    masked_statistics()
    precisions()
