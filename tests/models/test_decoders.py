"""Decoders give a map of the image's size and use every level."""

import pytest
import torch

from medssl.imaging.errors import ConfigError
from medssl.models.decoders import (
    ClassificationHead,
    LightDecoder,
    UNetDecoder,
    UNETRDecoder,
    decoder_for,
    without_head,
)
from medssl.models.encoder import Encoder
from medssl.models.resnet import ResNet
from medssl.models.swin import SwinV2
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", [UNetDecoder, LightDecoder])
@pytest.mark.parametrize("strides", [None, [1, 2, (2, 2, 1)], [1, (1, 2, 4), 3]])
def test_convolutional_decoders(kind, dims: int, strides):
    torch.manual_seed(0)
    steps = None if strides is None else [s if isinstance(s, int) else s[:dims] for s in strides]
    encoder = ResidualUNetEncoder(dims, 2, (4, 8, 16), (0, 1, 1), steps)
    image = torch.randn(2, 2, *(24, 12, 24)[:dims])
    pyramid = [level.detach().requires_grad_() for level in encoder(image)]
    decoder = kind(encoder, 5)
    logits = decoder(image, pyramid)
    assert logits.shape == (2, 5, *image.shape[2:])
    logits.square().sum().backward()
    used = [level.grad is not None for level in pyramid]
    assert used == [kind is UNetDecoder, True, True], "the light decoder leaves out the finest skip"
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("patch", [2, 4, 8, (8, 4, 2)])
def test_transformer_decoder(patch, dims: int):
    torch.manual_seed(0)
    encoder = ViT(dims, 2, patch if isinstance(patch, int) else patch[:dims], 24, 4, 2)
    image = torch.randn(2, 2, *[16] * dims)
    pyramid = [level.detach().requires_grad_() for level in encoder(image)]
    decoder = UNETRDecoder(encoder, 3, features=4)
    logits = decoder(image, pyramid)
    assert logits.shape == (2, 3, *image.shape[2:])
    logits.square().sum().backward()
    assert pyramid[-1].grad is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("small", [True, False])
def test_a_u_net_on_a_resnet_gives_a_map_of_the_image_size(small: bool, dims: int):
    torch.manual_seed(0)
    encoder = ResNet(dims, 2, depth=10, width=4, small=small)
    image = torch.randn(2, 2, *[32] * dims)
    pyramid = [level.detach().requires_grad_() for level in encoder(image)]
    decoder = UNetDecoder(encoder, 3)
    logits = decoder(image, pyramid)
    assert logits.shape == (2, 3, *image.shape[2:])
    logits.square().sum().backward()
    assert all(level.grad is not None for level in pyramid)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())
    assert any(name.startswith("whole.") for name in decoder.state_dict()) != small


@pytest.mark.parametrize(
    ("encoder", "kind"),
    [
        (ViT(2, 1, 4, 24, 4, 2), UNETRDecoder),
        (ViT(2, 1, 4, 24, 1, 2), UNETRDecoder),
        (ResNet(2, 1, depth=10, width=4), UNetDecoder),
        (ResidualUNetEncoder(2, 1, (4, 8), (0, 1)), UNetDecoder),
    ],
)
def test_each_encoder_gets_the_decoder_that_suits_it(encoder: Encoder, kind: type):
    decoder = decoder_for(encoder, 3)
    assert type(decoder) is kind
    other, kept = decoder_for(encoder, 5), without_head(decoder)
    result = other.load_state_dict(kept, strict=False)
    assert set(result.missing_keys) == {"head.weight", "head.bias"}
    assert not result.unexpected_keys


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="a level of the image's size, ResNet has none"):
        LightDecoder(ResNet(2, 1, depth=10, width=4), 3)
    with pytest.raises(ConfigError, match="UNETRDecoder"):
        UNetDecoder(ViT(2, 1, 4, 24, 2, 2), 3)
    with pytest.raises(ConfigError, match="power of two"):
        UNETRDecoder(ViT(2, 1, 6, 24, 2, 2), 3)
    with pytest.raises(ConfigError, match="patches"):
        UNETRDecoder(ResidualUNetEncoder(2, 1, (4, 8), (0, 1)), 3)
    with pytest.raises(ConfigError, match="maps of one size, SwinV2 has several: use UNetDecoder"):
        UNETRDecoder(SwinV2(2, 1, patch_size=4, width=12, stages=((1, 2), (1, 2)), window=4), 3)


@pytest.mark.parametrize("dims", [2, 3])
def test_classification_head_reads_the_mean_of_the_coarsest_map(dims: int):
    encoder = ResidualUNetEncoder(dims, 1, (4, 8), (0, 1))
    head, pyramid = ClassificationHead(encoder, 3, dropout=0.5).eval(), encoder(torch.randn(2, 1, *[8] * dims))
    mean = pyramid[-1].flatten(2).mean(-1)
    expected = head.linear(torch.nn.functional.layer_norm(mean, (8,)))
    torch.testing.assert_close(head(torch.empty(0), pyramid), expected)
    head.train()
    torch.manual_seed(0)
    assert not torch.equal(head(torch.empty(0), pyramid), head(torch.empty(0), pyramid)), "dropout while training"
