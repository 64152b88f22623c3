"""Decoders give a map of the image's size and use every level."""

import pytest
import torch

from medssl.imaging.errors import ConfigError
from medssl.models.decoders import ClassificationHead, LightDecoder, UNetDecoder, UNETRDecoder
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


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="UNETRDecoder"):
        UNetDecoder(ViT(2, 1, 4, 24, 2, 2), 3)
    with pytest.raises(ConfigError, match="power of two"):
        UNETRDecoder(ViT(2, 1, 6, 24, 2, 2), 3)
    with pytest.raises(ConfigError, match="patches"):
        UNETRDecoder(ResidualUNetEncoder(2, 1, (4, 8), (0, 1)), 3)


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
