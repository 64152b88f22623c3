"""SparK: exact masks, blind encoder, loss over hidden blocks alone, weights that transfer."""

import pytest
import torch
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.methods.spark import SparK
from medssl.models.decoders import UNetDecoder
from medssl.models.masked import HiddenBlocks, Norm
from medssl.models.positions import patchify, unpatchify
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT

_VARIANTS = [{}, {"decoder": "light"}, {"sparse": False}, {"normalise_target": True, "decoder": "light"}]


def _encoder(dims: int, channels: int = 1, **extra) -> ResidualUNetEncoder:
    torch.manual_seed(0)
    return ResidualUNetEncoder(dims, channels, (4, 8, 16), (0, 1, 1), **extra)


def _spark(dims: int = 2, channels: int = 1, **extra) -> SparK:
    encoder = _encoder(dims, channels)
    return SparK(encoder, **{"block": 4, **extra})


def _batch(dims: int = 2, channels: int = 1, step: int = 7, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(batch, channels, *[16] * dims, generator=generator), "step": torch.tensor(step)}


def _voxels(method: SparK, batch: dict[str, Tensor]) -> Tensor:
    """1 where visible."""
    cells = method._draw(batch["image"], int(batch["step"]))
    visible = HiddenBlocks(cells, method.block).visible([1] * (cells.dim() - 1))
    assert visible is not None
    return visible


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("ratio", [0.6, 0.75])
def test_visible_count_is_exact(dims: int, ratio: float):
    method = _spark(dims, mask_ratio=ratio)
    cells = method._draw(_batch(dims)["image"], 1)
    count = 4**dims
    assert (~cells).flatten(1).sum(1).tolist() == [int(count * (1 - ratio))] * 2


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("extra", _VARIANTS)
def test_hidden_voxels_do_not_reach_the_prediction(extra: dict, dims: int):
    method, batch = _spark(dims, 2, **extra), _batch(dims, 2)
    visible, cells = _voxels(method, batch), method._draw(batch["image"], int(batch["step"]))
    image = batch["image"].requires_grad_()
    prediction = method._predict(image, cells)
    (gradient,) = torch.autograd.grad(prediction.square().sum(), image)
    hidden = (visible == 0).expand_as(gradient)
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden] != 0).any()
    assert torch.equal(method._predict(image + 1e3 * (1 - visible), cells), prediction)


@pytest.mark.parametrize("extra", _VARIANTS)
def test_loss_counts_hidden_blocks_alone(extra: dict, monkeypatch):
    method, batch = _spark(channels=2, **extra), _batch(channels=2)
    hidden = (_voxels(method, batch) == 0).expand_as(batch["image"])
    prediction = torch.where(hidden, 0.0, 1e6)
    monkeypatch.setattr(method, "_predict", lambda image, cells: prediction)
    target = patchify(batch["image"], (4, 4))
    if method.normalise_target:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    cells = method._draw(batch["image"], 7).flatten(1)
    expected = target[cells].square().mean()  # over blocks, voxels and channels
    assert method(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_constant_predictor_does_not_notice_gain_and_offset(monkeypatch):
    method, batch = _spark(normalise_target=True), _batch()
    monkeypatch.setattr(method, "_predict", lambda image, cells: torch.full_like(image, 0.3))
    changed = {**batch, "image": batch["image"] * torch.tensor([2.0, 5.0]).view(2, 1, 1, 1) - 3}
    assert method(changed)["loss"].item() == pytest.approx(method(batch)["loss"].item(), rel=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_loss_at_the_start_is_near_one(dims: int):
    method = _spark(dims, normalise_target=True, decoder="light")
    method.decoder.head.weight.data *= 0.1  # type: ignore[union-attr]
    method.decoder.head.bias.data.zero_()  # type: ignore[union-attr]
    assert 0.9 < method(_batch(dims, batch=4))["loss"].item() < 1.3


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("extra", _VARIANTS)
def test_fifteen_steps_lower_the_loss(extra: dict, channels: int, dims: int):
    if dims == 3 and channels == 2:
        extra = {**extra, "mask_ratio": 0.75}
    method, batch = _spark(dims, channels, **extra), _batch(dims, channels)
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = method(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(p.grad is not None for p in method.parameters()), "distributed training waits for every gradient"


@pytest.mark.parametrize("extra", _VARIANTS)
@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_finite_under_bf16(extra: dict, norm: str):
    torch.manual_seed(0)
    method, batch = SparK(_encoder(3, norm=norm), block=4, **extra), _batch(3)
    with torch.autocast("cpu", torch.bfloat16):
        low = method(batch)["loss"]
    low.backward()
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(method(batch)["loss"].item(), rel=0.05)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_blocks_smaller_than_the_last_stride():
    method, batch = _spark(3, block=2), _batch(3)
    loss = method(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert list(method.densify.fills) == ["0", "1"], "the coarsest level is dense: nothing to fill"
    assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_the_light_decoder_has_the_norm_of_the_encoder(norm: str):
    method = SparK(_encoder(2, norm=norm), block=4, decoder="light")
    kinds = {part.kind for part in method.modules() if isinstance(part, Norm)}
    assert kinds == {norm}


def test_anisotropic_blocks_and_strides():
    torch.manual_seed(0)
    encoder = ResidualUNetEncoder(3, 1, (4, 8, 16), (0, 1, 1), strides=[1, (2, 2, 1), 2])
    method = SparK(encoder, block=(4, 4, 2))
    batch = {"image": torch.randn(2, 1, 16, 16, 8), "step": torch.tensor(0)}
    assert torch.isfinite(method(batch)["loss"])
    assert method.reconstruction(batch)["reconstructed"].shape == (2, 1, 16, 16, 8)


def test_seed_and_step_decide_everything():
    first, second = _spark(seed=1), _spark(seed=1)
    loss = first(_batch())["loss"]
    torch.manual_seed(55)
    assert torch.equal(loss, second(_batch())["loss"])
    assert not torch.equal(loss, first(_batch(step=8))["loss"])
    assert not torch.equal(loss, _spark(seed=2)(_batch())["loss"])


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_load_into_the_plain_encoder_and_the_decoder_of_segmentation(dims: int):
    method = _spark(dims)
    plain, image = _encoder(dims), _batch(dims)["image"]
    for parameter in plain.parameters():
        parameter.data.normal_()
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(plain(image), method.encoder(image), strict=True))
    result = UNetDecoder(plain, 3).load_state_dict(method.decoder_state_dict(), strict=False)
    assert set(result.missing_keys) == {"head.weight", "head.bias"}
    assert result.unexpected_keys == []
    assert _spark(dims, decoder="light").decoder_state_dict() == {}


@pytest.mark.parametrize("extra", _VARIANTS)
def test_panel_shows_visible_voxels_unchanged(extra: dict):
    method, batch = _spark(3, 2, **extra), _batch(3, 2)
    visible = _voxels(method, batch).expand(-1, 2, -1, -1, -1) == 1
    columns = method.reconstruction(batch)
    assert torch.equal(columns["reconstructed"][visible], batch["image"][visible])
    assert torch.equal(columns["masked"][visible], batch["image"][visible])
    assert (columns["masked"][~visible] == 0).all()
    assert (columns["reconstructed"][~visible] != 0).any()


def test_perfect_prediction_is_shown_as_the_image(monkeypatch):
    for extra in ({}, {"normalise_target": True, "variance_floor": 1e-6}):
        method, batch = _spark(**extra), _batch()
        target = method._target(batch["image"])
        perfect = unpatchify(target, [4, 4], (4, 4))
        monkeypatch.setattr(method, "_predict", lambda image, cells, perfect=perfect: perfect)
        assert method(batch)["loss"].item() == 0
        torch.testing.assert_close(method.reconstruction(batch)["reconstructed"], batch["image"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"mask_ratio": 1.5}, "mask_ratio"),
        ({"decoder": "heavy"}, "decoder must be"),
        ({"normalise_target": True, "variance_floor": -1e-6}, "variance_floor must be 0 or more"),
        ({"variance_floor": 1e-6}, "variance_floor 1e-06 does nothing without normalise_target"),
    ],
)
def test_numbers_that_do_not_fit(extra: dict, word: str):
    with pytest.raises(ConfigError, match=word):
        _spark(**extra)


def test_parts_that_do_not_fit():
    with pytest.raises(ConfigError, match="mae"):
        SparK(ViT(2, 1, 4, 24, 2, 2))
    with pytest.raises(ConfigError, match="divide"):
        _spark(block=5)(_batch())


@pytest.mark.parametrize("dims", [2, 3])
def test_the_residual_encoder_recipe_begins_at_the_variance_of_hidden_voxels(dims: int):
    """Wald et al., CVPR 2025: 75 % hidden, zeros for them, a plain error, so 1 on standardised images."""
    method = _spark(dims, 2, sparse=False, mask_ratio=0.75)
    method.decoder.head.weight.data.zero_()  # type: ignore[union-attr]
    method.decoder.head.bias.data.zero_()  # type: ignore[union-attr]
    image = torch.randn(4, 2, *[16] * dims, generator=torch.Generator().manual_seed(0))
    batch = {"image": image, "step": torch.tensor(3)}
    visible = _voxels(method, batch)
    assert (visible == 0).flatten(1).sum(1).tolist() == [int(0.75 * 16**dims)] * 4
    loss = method(batch)["loss"].item()
    assert loss == pytest.approx(image[(visible == 0).expand_as(image)].square().mean().item(), rel=1e-5)
    assert loss == pytest.approx(1, abs=0.1)
    changed = method({**batch, "image": image + 5 * visible})["loss"].item()
    assert changed == pytest.approx(loss, rel=1e-5)
