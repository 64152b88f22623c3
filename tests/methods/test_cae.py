"""CAE: who sees what, the loss, and that it learns."""

from typing import Any

import pytest
import torch
from fixed_batch import learn
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.methods.cae import CAE
from medssl.models.positions import patchify, unpatchify
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT


def _method(dims: int = 2, channels: int = 1, **given: Any) -> CAE:
    torch.manual_seed(0)
    return CAE(ViT(dims, channels, patch_size=4, width=24, depth=2, heads=2), **{"depths": (2, 1), **given})


def _batch(dims: int = 2, channels: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(3, channels, *[16] * dims, generator=generator), "step": torch.tensor(2)}


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 3), (3, 2)])
def test_the_latents_are_predicted_from_visible_patches_alone(dims: int, channels: int):
    method, batch = _method(dims, channels).eval(), _batch(dims, channels)
    visible, hidden = method._draw(batch["image"], 2)
    assert hidden.shape[1] == 4**dims // 2
    before = method._latents(batch["image"], visible, hidden)
    patches = patchify(batch["image"], (4,) * dims)
    index = hidden[..., None].expand(-1, -1, patches.shape[-1])
    other = unpatchify(patches.scatter(1, index, 50.0), [4] * dims, (4,) * dims)
    torch.testing.assert_close(method._latents(other, visible, hidden), before)


def test_the_decoder_sees_predicted_latents_alone():
    method, batch = _method().eval(), _batch()
    visible, hidden = method._draw(batch["image"], 2)
    latents = method._latents(batch["image"], visible, hidden)
    before = method._decode(batch["image"], latents, hidden)
    torch.testing.assert_close(method._decode(torch.zeros_like(batch["image"]), latents, hidden), before)


def test_the_loss_is_reconstruction_and_alignment():
    method, batch = _method(alignment=1.5).eval(), _batch()
    image = batch["image"]
    visible, hidden = method._draw(image, 2)
    latents = method._latents(image, visible, hidden)
    predicted = method._decode(image, latents, hidden)
    wanted = method._vit.encode(image, hidden)[:, 1:]
    total = torch.zeros(())
    for sample in range(3):
        patches = patchify(image, (4, 4))[sample, hidden[sample]]
        for n, patch in enumerate(patches):
            normal = (patch - patch.mean()) / (patch.var() + 1e-3).sqrt()
            total = total + (predicted[sample, n] - normal).square().mean()
            total = total + 1.5 * (latents[sample, n] - wanted[sample, n]).square().mean()
    torch.testing.assert_close(method(batch)["loss"], total / hidden.numel())


def test_the_alignment_teaches_the_regressor_and_not_its_target():
    method, batch = _method(), _batch()
    visible, hidden = method._draw(batch["image"], 2)
    other = {**batch, "image": batch["image"].clone().requires_grad_()}
    method(other)["loss"].backward()
    gradient = patchify(other["image"].grad, (4, 4))
    assert all(p.grad is not None for p in method.parameters())
    seen = torch.zeros(gradient.shape[:2], dtype=torch.bool).scatter(1, visible, True)
    alignment = method(other := {**batch, "image": batch["image"].clone().requires_grad_()})
    assert not alignment["alignment"].requires_grad
    latents = method._latents(other["image"], visible, hidden)
    with torch.no_grad():
        wanted = method._tokens(other["image"], hidden)
    (only,) = torch.autograd.grad((latents - wanted).square().mean(), other["image"])
    assert (patchify(only, (4, 4))[~seen] == 0).all()
    assert (patchify(only, (4, 4))[seen] != 0).any()


def test_each_latent_belongs_to_its_place():
    method, batch = _method().eval(), _batch()
    visible, hidden = method._draw(batch["image"], 2)
    turned = method._latents(batch["image"], visible, hidden.flip(1)).flip(1)
    torch.testing.assert_close(turned, method._latents(batch["image"], visible, hidden), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_it_learns_a_fixed_batch_and_its_encoder_loads(dims: int):
    method, batch = _method(dims), _batch(dims)
    losses = learn(method, batch, 3e-3)
    assert losses[-1] < 0.9 * losses[0]
    plain = ViT(dims, 1, patch_size=4, width=24, depth=2, heads=2)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    other = _method(dims)
    other.load_state_dict(method.state_dict(), strict=True)
    torch.testing.assert_close(other.eval()(batch)["loss"], method.eval()(batch)["loss"], rtol=0, atol=0)


def test_bf16_is_finite_and_the_panel_keeps_what_was_visible():
    method, batch = _method(), _batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    panels = method.reconstruction(batch)
    visible, hidden = method._draw(batch["image"], 2)
    own, masked, filled = (patchify(panels[n], (4, 4)) for n in ("input", "masked", "reconstructed"))
    for sample in range(3):
        assert torch.equal(filled[sample, visible[sample]], own[sample, visible[sample]])
        assert (masked[sample, hidden[sample]] == 0).all()


def test_wrong_numbers_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        _method(mask_ratio=1.0, alignment=-1.0, depths=(0, 1))
    for part in ("mask_ratio must lie between", "alignment must be 0 or more", "regressor_blocks must be positive"):
        assert part in caught.value.message
    with pytest.raises(ConfigError, match="cae needs a ViT"):
        CAE(ResidualUNetEncoder(2, 1))
