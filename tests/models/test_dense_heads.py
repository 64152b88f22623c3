"""Light heads: the image's size on any pyramid, linear where they say so, every parameter used."""

import pytest
import torch
from small_networks import small_encoder

from medssl.models.decoders import without_head
from medssl.models.dense_heads import FPNDecoder, LinearDecoder


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["vit", "swin", "resnet", "unet"])
@pytest.mark.parametrize("decoder", [LinearDecoder, FPNDecoder])
def test_a_map_of_the_image_s_size(decoder: type, kind: str, dims: int):
    torch.manual_seed(0)
    encoder = small_encoder(kind, dims, 2)
    image = torch.randn(2, 2, *[16] * dims)
    pyramid = [level.detach().requires_grad_() for level in encoder(image)]
    head = decoder(encoder, 3)
    logits = head(image, pyramid)
    assert logits.shape == (2, 3, *image.shape[2:])
    logits.square().sum().backward()
    assert all(level.grad is not None for level in pyramid)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    assert all(not name.startswith("head.") for name in without_head(head))


def test_the_linear_head_is_linear_in_the_features():
    torch.manual_seed(0)
    encoder = small_encoder("unet", 2)
    image = torch.randn(1, 1, 16, 16)
    head, pyramid = LinearDecoder(encoder, 3), encoder(image)
    zero = head(image, [0 * level for level in pyramid])
    doubled = head(image, [2 * level for level in pyramid])
    torch.testing.assert_close(doubled - zero, 2 * (head(image, pyramid) - zero))
    assert zero.flatten(2).std(-1).max() < 1e-6  # its biases are all that is left


def test_only_the_coarsest_levels_are_read():
    encoder = small_encoder("unet", 2)
    image = torch.randn(1, 1, 16, 16)
    head, pyramid = LinearDecoder(encoder, 3, levels=1), encoder(image)
    assert len(head.head) == 1
    same = head(image, [torch.zeros_like(pyramid[0]), *pyramid[1:]])
    torch.testing.assert_close(same, head(image, pyramid))
