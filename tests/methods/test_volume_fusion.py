"""Volume Fusion: what is fused with what, the loss, what is kept, and that it learns."""

import math
from typing import Any

import pytest
import torch
from fixed_batch import learn
from small_networks import small_encoder
from torch import Tensor

from medssl.data.fusion import class_map, draw_classes
from medssl.data.masking import step_generator
from medssl.imaging.errors import ConfigError
from medssl.methods.volume_fusion import VolumeFusion
from medssl.models.decoders import decoder_for


def _method(dims: int = 2, channels: int = 1, encoder: str = "unet", **given: Any) -> VolumeFusion:
    torch.manual_seed(0)
    return VolumeFusion(small_encoder(encoder, dims, channels), **given)


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
    result = decoder_for(plain, 2).load_state_dict(method.decoder_state_dict(), strict=False)
    assert set(result.missing_keys) == {"head.weight", "head.bias"}
    assert result.unexpected_keys == []


@pytest.mark.parametrize("dims", [2, 3])
def test_each_crop_is_fused_with_the_one_before_it(dims: int) -> None:
    method, batch = _method(dims, 2), _batch(dims, 2)
    fused, classes = method._fused(batch["image"], 7)
    drawn = draw_classes(method.options, 3, batch["image"].shape[2:], step_generator(0, 7))
    assert torch.equal(classes, class_map(drawn, batch["image"].shape[2:], torch.device("cpu")))
    for sample in range(3):
        front, back = batch["image"][sample], batch["image"][sample - 1]
        expected = front * classes[sample] / 4 + back * (1 - classes[sample] / 4)
        torch.testing.assert_close(fused[sample], expected)
        assert torch.equal(fused[sample][:, classes[sample] == 0], back[:, classes[sample] == 0])


def test_the_loss_is_cross_entropy_and_dice_of_the_classes() -> None:
    method, batch = _method().eval(), _batch()
    fused, classes = method._fused(batch["image"], 7)
    probability = method.network(fused).double().softmax(1)
    entropy = -probability.gather(1, classes[:, None]).log().mean()
    dice = []
    for number in range(1, 5):
        own = classes == number
        both = probability[:, number].sum() + own.sum()
        dice.append((2 * probability[:, number][own].sum() + 1) / (both + 1))
    found = method(batch)
    assert found["loss"].item() == pytest.approx((entropy + 1 - torch.stack(dice).mean()).item(), rel=1e-4)
    right = (probability.argmax(1) == classes).double().mean()
    assert found["accuracy"].item() == pytest.approx(right.item())


def test_parts_of_a_batch_are_not_the_batch() -> None:
    """Dice is over the part, and a part's crops are fused with one another."""
    method, batch = _method().eval(), _batch()
    image = torch.cat([batch["image"], batch["image"][:1] + 1])
    parts = [method({**batch, "image": part})["loss"] for part in image.chunk(2)]
    assert not torch.isclose(torch.stack(parts).mean(), method({**batch, "image": image})["loss"])
    assert method.over_batch


@pytest.mark.parametrize("levels", [2, 4])
def test_a_network_without_opinion_costs_the_logarithm_of_the_classes(levels: int) -> None:
    method, batch = _method(levels=levels), _batch()
    head: Any = method.network.decoder
    torch.nn.init.zeros_(head.head.weight)
    torch.nn.init.zeros_(head.head.bias)
    classes = method._fused(batch["image"], 7)[1]
    share, count = 1 / (levels + 1), torch.bincount(classes.flatten(), minlength=levels + 1)[1:]
    dice = (2 * share * count + 1) / (share * classes.numel() + count + 1)
    expected = math.log(levels + 1) + 1 - dice.mean().item()
    assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_seed_and_step_decide_everything() -> None:
    batch, method = _batch(), _method(seed=1)
    torch.manual_seed(55)
    classes = method._fused(batch["image"], 7)[1]
    torch.manual_seed(56)
    assert torch.equal(_method(seed=1)._fused(batch["image"], 7)[1], classes)
    assert not torch.equal(method._fused(batch["image"], 8)[1], classes)
    assert not torch.equal(_method(seed=2)._fused(batch["image"], 7)[1], classes)


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
        _method(levels=0, boxes=(5, 2), sides=(0.0, 1.2))
    assert [problem.split()[0] for problem in caught.value.problems] == ["levels", "boxes", "sides"]
