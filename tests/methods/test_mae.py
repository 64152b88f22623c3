"""MAE: what the encoder sees, what the loss counts, and a training step that learns."""

import pytest
import torch
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.losses.reconstruction import masked_token_mse, normalise_patches
from medssl.methods.mae import MAE
from medssl.models.positions import patchify, pick, sincos_positions, unpatchify
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT


def _mae(dims: int = 2, channels: int = 1, **extra) -> MAE:
    torch.manual_seed(0)
    vit = ViT(dims, channels, patch_size=4, width=24, depth=2, heads=2)
    return MAE(vit, **{"decoder": (20, 2, 2), **extra})


def _batch(dims: int = 2, channels: int = 1, step: int = 7, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(batch, channels, *[16] * dims, generator=generator), "step": torch.tensor(step)}


def _mask(method: MAE, batch: dict[str, Tensor]) -> Tensor:
    """(B, N) bool, True = hidden."""
    visible, hidden = method._draw(batch["image"], int(batch["step"]))
    mask = torch.zeros(len(hidden), visible.shape[1] + hidden.shape[1], dtype=torch.bool)
    return mask.scatter_(1, hidden, True)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("ratio", [0.75, 0.6, 0.9])
def test_visible_and_hidden_part_the_patches(dims: int, ratio: float):
    method, image = _mae(dims, mask_ratio=ratio), _batch(dims)["image"]
    visible, hidden = method._draw(image, 3)
    count = 4**dims
    assert hidden.shape == (2, count - int(count * (1 - ratio)))
    both = torch.cat([visible, hidden], 1).sort(1).values
    assert torch.equal(both, torch.arange(count).expand(2, -1))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_hidden_voxels_matter_through_the_target_alone(dims: int, channels: int):
    method, batch = _mae(dims, channels).eval(), _batch(dims, channels)
    visible, hidden = method._draw(batch["image"], int(batch["step"]))
    image = batch["image"].requires_grad_()
    latent = method._vit.encode(image, visible)
    prediction = method._predict(image, visible, hidden)
    voxels = patchify(image, (4,) * dims)
    other = voxels.detach().scatter(1, hidden[..., None].expand(-1, -1, voxels.shape[-1]), 1e3)
    changed = unpatchify(other, [4] * dims, (4,) * dims)
    assert torch.equal(method._vit.encode(changed, visible), latent)
    assert torch.equal(method._predict(changed, visible, hidden), prediction)
    (gradient,) = torch.autograd.grad(prediction.square().sum(), image)
    assert (pick(patchify(gradient, (4,) * dims), hidden) == 0).all()
    assert (pick(patchify(gradient, (4,) * dims), visible) != 0).any()


def test_visible_content_is_no_target():
    method, batch = _mae(), _batch()
    visible, hidden = method._draw(batch["image"], 7)
    voxels = patchify(batch["image"], (4, 4))
    target = method._target(pick(voxels, hidden))
    changed = unpatchify(voxels.scatter(1, visible[..., None].expand(-1, -1, 16), -5.0), [4, 4], (4, 4))
    assert torch.equal(method._target(pick(patchify(changed, (4, 4)), hidden)), target)


@pytest.mark.parametrize("dims", [2, 3])
def test_decoder_equals_the_paper_order_of_tokens(dims: int):
    """Un-shuffled as in the paper, all tokens decoded, loss over the mask: the same number as the shortened form."""
    method, batch = _mae(dims).eval(), _batch(dims)
    image, mask = batch["image"], _mask(method, batch)
    visible, _ = method._draw(image, int(batch["step"]))
    decoder = method.decoder
    encoded = decoder.project(method._vit.encode(image, visible))
    count = mask.shape[1]
    tokens = decoder.mask_token.expand(2, count, -1).clone()
    restored = tokens.scatter(1, visible[..., None].expand(-1, -1, 20), encoded[:, 1:])
    tokens = torch.cat([encoded[:, :1], restored + sincos_positions([4] * dims, 20)], 1)
    for block in decoder.blocks:
        tokens = block(tokens)
    prediction = decoder.out(decoder.norm(tokens))[:, 1:]
    target = normalise_patches(patchify(image, (4,) * dims), method.variance_floor)
    expected = masked_token_mse(prediction, target, mask)
    torch.testing.assert_close(method(batch)["loss"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("floor", [1e-3, None])
def test_perfect_prediction_costs_nothing(floor: float | None, monkeypatch):
    method, batch = _mae(variance_floor=floor), _batch()

    def perfect(image: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        return method._target(pick(patchify(image, (4, 4)), hidden))

    monkeypatch.setattr(method, "_predict", perfect)
    assert method(batch)["loss"].item() == 0
    columns = method.reconstruction(batch)
    torch.testing.assert_close(columns["reconstructed"], columns["input"], atol=5e-3, rtol=5e-3)


def test_loss_of_an_untrained_decoder_is_near_one():
    """Targets have variance one and the prediction starts small."""
    method, batch = _mae(), _batch(batch=16)
    method.decoder.out.weight.data *= 0.01
    assert method(batch)["loss"].item() == pytest.approx(15 / 16, abs=0.03)  # (n - 1) / n: the variance is unbiased


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_fifty_steps_lower_the_loss(dims: int, channels: int):
    method, batch = _mae(dims, channels), _batch(dims, channels)
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(50):
        loss = method(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize("dims", [2, 3])
def test_finite_under_bf16_and_near_float32(dims: int):
    method, batch = _mae(dims), _batch(dims)
    with torch.autocast("cpu", torch.bfloat16):
        low = method(batch)["loss"]
    low.backward()
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(method(batch)["loss"].item(), rel=0.03)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_constant_image_is_finite():
    method = _mae()
    loss = method({"image": torch.full((2, 1, 16, 16), -1.0), "step": torch.tensor(0)})["loss"]
    loss.backward()
    assert torch.isfinite(loss)


def test_seed_and_step_decide_everything():
    first, second = _mae(seed=1), _mae(seed=1)
    batch = _batch()
    loss = first(batch)["loss"]
    torch.manual_seed(55)
    assert torch.equal(loss, second(batch)["loss"])
    assert not torch.equal(loss, first(_batch(step=8))["loss"])
    assert not torch.equal(loss, _mae(seed=2)(batch)["loss"])


def test_weights_load_into_the_plain_encoder_and_the_method_is_its_own_state():
    method, other = _mae(), _mae()
    for parameter in other.parameters():
        parameter.data.normal_()
    other.load_state_dict(method.state_dict())
    assert torch.equal(method(_batch())["loss"], other(_batch())["loss"])
    plain = ViT(2, 1, patch_size=4, width=24, depth=2, heads=2)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    image = _batch()["image"]
    assert all(torch.equal(a, b) for a, b in zip(plain(image), method.encoder(image), strict=True))


@pytest.mark.parametrize("dims", [2, 3])
def test_panel_shows_visible_voxels_unchanged(dims: int):
    method, batch = _mae(dims, 2), _batch(dims, 2)
    mask = _mask(method, batch)
    columns = method.reconstruction(batch)
    assert {name: c.shape for name, c in columns.items()} == dict.fromkeys(columns, batch["image"].shape)
    parts = {name: patchify(c, (4,) * dims) for name, c in columns.items()}
    assert torch.equal(parts["reconstructed"][~mask], parts["input"][~mask])
    assert (parts["masked"][mask] == 0).all()
    assert (parts["reconstructed"][mask] != 0).any()


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"mask_ratio": 0.0}, "mask_ratio"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"mask": ("green", 1.8, 0.6)}, "mask green has 2 filter"),
        ({"variance_floor": -1e-3}, "variance_floor must be 0 or more"),
        ({"decoder": (20, 2, 3)}, "width 20 must be divisible by heads 3"),
        ({"decoder": (4, 2, 2)}, "a width of 6 or more"),
        ({"decoder": (12, 2, 0)}, "1 head or more"),
    ],
)
def test_numbers_that_do_not_fit(extra: dict, word: str):
    with pytest.raises(ConfigError, match=word):
        _mae(**extra)


def test_needs_a_transformer():
    with pytest.raises(ConfigError, match="spark"):
        MAE(ResidualUNetEncoder(2, 1, (4, 8), (0, 1)))


@pytest.mark.parametrize("dims", [2, 3])
def test_flat_patches_do_not_count_where_asked(dims: int):
    batch = _batch(dims)
    air = torch.zeros(2, 1, *[16] * dims)
    half = torch.where(torch.arange(16) < 8, batch["image"], air)  # half of the patches are constant
    plain, picky = _mae(dims), _mae(dims, min_patch_std=0.1)
    out = picky({**batch, "image": half})
    visible, hidden = picky._draw(half, 7)
    patches = pick(patchify(half, (4,) * dims), hidden)
    counted = patches.std(-1) > 0.1  # of one channel
    assert 0 < counted.float().mean() < 1
    assert out["counted_patches"] == counted.float().mean()
    error = (picky._predict(half, visible, hidden) - normalise_patches(patches, 1e-3)).square().mean(-1)
    torch.testing.assert_close(out["loss"], error[counted].mean())
    torch.testing.assert_close(picky(batch)["loss"], plain(batch)["loss"])
    empty = picky({**batch, "image": air})
    assert empty["loss"] == 0
    empty["loss"].backward()
    with pytest.raises(ConfigError, match="min_patch_std"):
        _mae(dims, min_patch_std=-1)


def test_the_filters_of_a_coloured_mask_are_an_option():
    usual, batch = _mae(mask="green"), _batch()
    masks = [_mask(_mae(mask=["green", *sigmas]), batch) for sigmas in ((0.6, 1.8), (0.3, 0.9))]
    assert torch.equal(masks[0], _mask(usual, batch))
    assert not torch.equal(masks[1], masks[0])


def test_patches_of_air_are_flat_in_every_channel():
    """Each channel of air has a constant of its own; a patch with contrast in one channel counts."""
    air = torch.tensor([-0.35, -0.45, -0.6, -0.8]).reshape(1, 4, 1, 1).expand(2, 4, 16, 16).contiguous()
    method = _mae(channels=4, min_patch_std=0.1)
    assert method({"image": air, "step": torch.tensor(7)})["counted_patches"] == 0
    air[:, 2] += torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert method({"image": air, "step": torch.tensor(7)})["counted_patches"] == 1
