"""Models Genesis: what is restored, what is kept, and that it learns."""

from typing import Any

import pytest
import torch
from fixed_batch import learn
from small_networks import small_encoder
from torch import Tensor

from medssl.data.masking import step_generator
from medssl.data.spoiling import draw_corruption, spoil
from medssl.imaging.errors import ConfigError
from medssl.methods.models_genesis import ModelsGenesis
from medssl.models.decoders import decoder_for
from medssl.models.networks import Network


def _method(dims: int = 2, channels: int = 1, encoder: str = "unet", **given: Any) -> ModelsGenesis:
    torch.manual_seed(0)
    return ModelsGenesis(small_encoder(encoder, dims, channels), **{"windows": 60, **given})


def _batch(dims: int = 2, channels: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(3, channels, *[16] * dims, generator=generator), "step": torch.tensor(7)}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoder", ["vit", "swin", "resnet", "unet"])
def test_encoder_and_decoder_load_into_a_network_of_segmentation(encoder: str, channels: int, dims: int) -> None:
    method, batch = _method(dims, channels, encoder), _batch(dims, channels)
    method(batch)["loss"].backward()
    assert not [name for name, p in method.named_parameters() if p.grad is None]
    plain = small_encoder(encoder, dims, channels)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    image = batch["image"]
    assert torch.equal(plain.eval()(image)[-1], method.encoder.eval()(image)[-1])
    decoder = decoder_for(plain, 5)
    result = decoder.load_state_dict(method.decoder_state_dict(), strict=False)
    assert set(result.missing_keys) == {"head.weight", "head.bias"}
    assert result.unexpected_keys == []
    assert Network(plain, decoder)(image).shape == (3, 5, *image.shape[2:])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_is_the_error_over_all_voxels_of_what_was_drawn(dims: int) -> None:
    method, batch = _method(dims, 2).eval(), _batch(dims, 2)
    drawn = draw_corruption(method.options, 3, batch["image"].shape[2:], step_generator(0, 7))
    spoilt = spoil(drawn, batch["image"])
    assert not torch.equal(spoilt, batch["image"])
    restored = method.network(spoilt)
    expected = (restored - batch["image"]).double().square().sum() / batch["image"].numel()
    assert method(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_nothing_spoilt_and_a_perfect_network_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = _method(shuffle=0, bend=0, paint=0), _batch()
    monkeypatch.setattr(method.network, "forward", lambda image: image)
    assert method(batch)["loss"].item() == 0
    spoiling = _method(shuffle=1, bend=0, paint=0)
    monkeypatch.setattr(spoiling.network, "forward", lambda image: image)
    assert spoiling(batch)["loss"].item() > 0


def test_the_panel_shows_input_spoilt_and_restored() -> None:
    method, batch = _method(2, 2), _batch(2, 2)
    found = method.eval().reconstruction(batch)
    assert torch.equal(found["input"], batch["image"])
    assert torch.equal(found["reconstructed"], method.network(found["masked"]))
    error = (found["reconstructed"] - found["input"]).square().mean()
    torch.testing.assert_close(error, method(batch)["loss"])


def test_seed_and_step_decide_everything() -> None:
    batch = _batch()
    loss = _method(seed=1)(batch)["loss"]
    torch.manual_seed(55)
    second = _method(seed=1)
    torch.manual_seed(56)
    assert torch.equal(second(batch)["loss"], loss)
    assert not torch.equal(second({**batch, "step": torch.tensor(8)})["loss"], loss)
    assert not torch.equal(_method(seed=2)(batch)["loss"], loss)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["vit", "swin", "resnet", "unet"])
def test_it_learns_a_fixed_batch(encoder: str, dims: int) -> None:
    losses = learn(_method(dims, encoder=encoder), _batch(dims), 1e-2, steps=30)
    assert losses[-1] < 0.8 * losses[0]


def test_bf16_gives_a_finite_loss_and_gradient() -> None:
    method, batch = _method(3, 2), _batch(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(_method(3, 2)(batch)["loss"].item(), rel=0.05)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_wrong_numbers_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        _method(shuffle=2, windows=-1, bend=-0.1, paint=1.1, outside=3)
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "shuffle", "bend", "paint", "outside", "windows",
    ]  # fmt: skip
