"""I-JEPA: what the encoder sees, what is predicted, and that it learns."""

from typing import Any

import pytest
import torch
from fixed_batch import learn
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.methods.ijepa import IJEPA
from medssl.models.positions import patchify, sincos_positions, unpatchify
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT


def _method(dims: int = 2, channels: int = 1, **given: Any) -> IJEPA:
    torch.manual_seed(0)
    vit = ViT(dims, channels, patch_size=4, width=24, depth=2, heads=2)
    return IJEPA(vit, **{"steps": 100, "predictor": (18, 2, 2), **given})


def _batch(dims: int = 2, channels: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(3, channels, *[24] * dims, generator=generator), "step": torch.tensor(2)}


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 4), (3, 2)])
def test_the_encoder_sees_the_context_alone(dims: int, channels: int) -> None:
    method, batch = _method(dims, channels).eval(), _batch(dims, channels)
    context, blocks = method._draw(batch["image"], 2)
    before = method._predict(batch["image"], context, blocks)
    patches = patchify(batch["image"], (4,) * dims)
    hidden = torch.ones(patches.shape[:2], dtype=torch.bool).scatter(1, context, False)
    other = unpatchify(patches.masked_fill(hidden[..., None], 50.0), [6] * dims, (4,) * dims)
    torch.testing.assert_close(method._predict(other, context, blocks), before)
    assert before.shape == (*blocks.shape, 24)


def test_the_loss_is_smooth_l1_of_normalised_features() -> None:
    method, batch = _method().eval(), _batch()
    context, blocks = method._draw(batch["image"], 2)
    features = method.teacher.network.encode(batch["image"], None)[:, 1:]
    normal = (features - features.mean(-1, keepdim=True)) / (features.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    total = torch.zeros(())
    for sample in range(3):
        for number in range(4):
            predicted = method._predict(batch["image"], context, blocks)[sample, number]
            error = (predicted - normal[sample, blocks[sample, number]]).abs()
            total = total + torch.where(error < 1, error.square() / 2, error - 0.5).mean()
    torch.testing.assert_close(method(batch)["loss"], total / 12)


def test_each_token_is_predicted_for_its_own_place() -> None:
    """With the blocks' order turned round, predictions turn round with it."""
    method, batch = _method().eval(), _batch()
    context, blocks = method._draw(batch["image"], 2)
    turned = method._predict(batch["image"], context, blocks.flip(2))
    torch.testing.assert_close(turned.flip(2), method._predict(batch["image"], context, blocks), atol=1e-5, rtol=1e-4)
    assert not torch.equal(sincos_positions([6, 6], 18)[0], sincos_positions([6, 6], 18)[1])


def test_the_teacher_follows_along_a_line_and_is_what_is_kept() -> None:
    method = _method(momentum=0.9)
    method(_batch())["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    start = [p.clone() for p in method.teacher.parameters()]
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1.0)
    method.after_step(51)  # half way: 0.95
    for own, old, live in zip(method.teacher.parameters(), start, method.encoder.parameters(), strict=True):
        torch.testing.assert_close(own, 0.95 * old + 0.05 * live)
    plain = ViT(2, 1, patch_size=4, width=24, depth=2, heads=2)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    torch.testing.assert_close(plain.tokens, method.teacher.network.tokens)


@pytest.mark.parametrize("dims", [2, 3])
def test_it_learns_a_fixed_batch(dims: int) -> None:
    method, batch = _method(dims), _batch(dims)
    losses = learn(method, batch, 3e-3)
    assert losses[-1] < 0.9 * losses[0]


def test_bf16_is_finite() -> None:
    method = _method()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(_batch())["loss"]
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"predictor": (18, 2, 4)}, "width 18 must be divisible by heads 4"),
        ({"target_scale": (0.4, 0.2)}, "target_scale must rise"),
        ({"targets": 0}, "targets must be positive"),
    ],
)
def test_wrong_numbers_are_told(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        _method(**given)


def test_a_cnn_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a ViT"):
        IJEPA(ResidualUNetEncoder(2, 1), steps=10)
