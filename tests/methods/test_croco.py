"""CroCo: who sees what, the loss, that the second image helps, and that it learns."""

from typing import Any

import pytest
import torch
from fixed_batch import learn
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.methods.croco import CroCo
from medssl.models.positions import patchify, unpatchify
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT
from medssl.training.pretrain_checks import unused_views
from medssl.training.pretrain_options import ViewOptions


def _method(dims: int = 2, channels: int = 1, **given: Any) -> CroCo:
    torch.manual_seed(0)
    vit = ViT(dims, channels, patch_size=4, width=24, depth=2, heads=2)
    return CroCo(vit, **{"decoder": (24, 2, 2), "mask_ratio": 0.75, **given})


def _batch(dims: int = 2, channels: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(2, 3, channels, *[16] * dims, generator=generator)
    return {"image": views[0], "views": views, "step": torch.tensor(2)}


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 3), (3, 2)])
def test_hidden_patches_of_the_first_image_are_not_seen_and_the_second_image_is(dims: int, channels: int):
    method, batch = _method(dims, channels).eval(), _batch(dims, channels)
    first, second = batch["views"]
    visible, hidden = method._draw(first, 2)
    before = method._predict(first, second, visible, hidden)
    patches = patchify(first, (4,) * dims)
    index = hidden[..., None].expand(-1, -1, patches.shape[-1])
    other = unpatchify(patches.scatter(1, index, 50.0), [4] * dims, (4,) * dims)
    torch.testing.assert_close(method._predict(other, second, visible, hidden), before)
    assert not torch.allclose(method._predict(first, second + 1, visible, hidden), before, atol=1e-4)
    for block in method.decoder.blocks:
        torch.nn.init.zeros_(block.cross.proj.weight)
    alone = method._predict(first, second, visible, hidden)
    torch.testing.assert_close(method._predict(first, second + 1, visible, hidden), alone)


def test_the_loss_is_that_of_normalised_hidden_patches():
    method, batch = _method().eval(), _batch()
    first, second = batch["views"]
    visible, hidden = method._draw(first, 2)
    predicted = method._predict(first, second, visible, hidden)
    total = torch.zeros(())
    for sample in range(3):
        for n, patch in enumerate(patchify(first, (4, 4))[sample, hidden[sample]]):
            normal = (patch - patch.mean()) / (patch.var() + 1e-3).sqrt()
            total = total + (predicted[sample, n] - normal).square().mean()
    torch.testing.assert_close(method(batch)["loss"], total / hidden.numel())


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_are_completed_from_the_other_channels(dims: int):
    method, batch = _method(dims, 3, pair="channels").eval(), _batch(dims, 3)
    view = batch["image"]
    first, second, own = method._images(batch, 2)
    torch.testing.assert_close(first + second, view)
    for sample, channel in enumerate(own.tolist()):
        assert torch.equal(first[sample, channel], view[sample, channel])
        assert (second[sample, channel] == 0).all()
    visible, hidden = method._draw(first, 2)
    predicted = method._predict(first, second, visible, hidden)
    total, size = torch.zeros(()), (4,) * dims
    for sample, channel in enumerate(own.tolist()):
        patches = patchify(view[sample : sample + 1, channel : channel + 1], size)[0, hidden[sample]]
        answer = predicted[sample].view(len(patches), -1, 3)[..., channel]
        for n, patch in enumerate(patches):
            normal = (patch - patch.mean()) / (patch.var() + 1e-3).sqrt()
            total = total + (answer[n] - normal).square().mean()
    torch.testing.assert_close(method(batch)["loss"], total / hidden.numel())


def test_channels_have_one_view_and_options_of_a_second_are_refused():
    views = ViewOptions((16, 16), source=(24, 24), partner="patient")
    assert unused_views(CroCo, views) == [] == unused_views(_method(channels=2), views)
    told = unused_views(_method(channels=2, pair="channels"), views, "also.")
    assert [text.split(":")[0] for text in told] == ["also.views.source", "also.views.partner patient"]


def test_the_right_second_image_is_better_than_another_one():
    method, batch = _method(mask_ratio=0.9), _batch()
    batch["views"][1] = batch["views"][0] + 0.1 * torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    losses = learn(method, batch, 3e-3, steps=150)
    shuffled = {**batch, "views": torch.stack([batch["views"][0], batch["views"][1].roll(1, 0)])}
    with torch.no_grad():
        assert method.eval()(batch)["loss"] < 0.8 * method(shuffled)["loss"]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("dims", [2, 3])
def test_every_weight_learns_and_the_encoder_loads(dims: int):
    method, batch = _method(dims), _batch(dims)
    method(batch)["loss"].backward()
    assert all(p.grad is not None for p in method.parameters())
    plain = ViT(dims, 1, patch_size=4, width=24, depth=2, heads=2)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    other = _method(dims)
    other.load_state_dict(method.state_dict(), strict=True)
    torch.testing.assert_close(other.eval()(batch)["loss"], method.eval()(batch)["loss"], rtol=0, atol=0)


def test_bf16_is_finite():
    method = _method()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(_batch())["loss"]
    loss.backward()
    assert torch.isfinite(loss)


def test_wrong_numbers_are_told():
    with pytest.raises(ConfigError, match="images of two channels or more"):
        _method(pair="channels")
    with pytest.raises(ConfigError, match="mask_ratio must lie between"):
        _method(mask_ratio=0.0)
    with pytest.raises(ConfigError, match="width 24 must be divisible by heads 5"):
        _method(decoder=(24, 2, 5))
    with pytest.raises(ConfigError, match="croco needs a ViT"):
        CroCo(ResidualUNetEncoder(2, 1))
