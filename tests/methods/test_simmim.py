"""SimMIM: what is hidden, what the encoder sees, what the loss counts, and that it learns."""

import math
from typing import Any

import pytest
import torch
from fixed_batch import learn
from torch import Tensor

from medssl.data.masking import hidden_count
from medssl.imaging.errors import ConfigError
from medssl.methods.simmim import SimMIM
from medssl.models.decoders import UNetDecoder, UNETRDecoder
from medssl.models.encoder import PatchEncoder
from medssl.models.positions import patchify, unpatchify
from medssl.models.swin import SwinV2
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT

_RECIPES: list[dict[str, Any]] = [
    {},
    {"local_norm": (5, 1e-3)},
    {"foreground": 0.2, "decoder": "unet", "mask_ratio": 0.75},
]


def _encoder(kind: str, dims: int, channels: int) -> PatchEncoder:
    if kind == "vit":
        return ViT(dims, channels, patch_size=4, width=12, depth=2, heads=2)
    return SwinV2(dims, channels, patch_size=2, width=12, stages=[[2, 2], [1, 2]], window=3)


def _method(kind: str = "swin", dims: int = 2, channels: int = 1, **given: Any) -> SimMIM:
    torch.manual_seed(0)
    return SimMIM(_encoder(kind, dims, channels), **{"block": 4, **given})


def _batch(dims: int = 2, channels: int = 1, step: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(2, channels, *[16] * dims, generator=generator), "step": torch.tensor(step)}


def _lively(method: SimMIM) -> SimMIM:
    """As after some training: blocks of a new Swin V2 are the identity."""
    for parameter in method.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return method.eval()


def _hidden(method: SimMIM, batch: dict[str, Tensor]) -> Tensor:
    """(B, 1, *S) bool, written independently: block by block."""
    blocks, image = method._draw(batch["image"], int(batch["step"])), batch["image"]
    hidden = torch.zeros(len(image), 1, *image.shape[2:], dtype=torch.bool)
    for sample, *place in blocks.nonzero().tolist():
        box = tuple(slice(p * b, (p + 1) * b) for p, b in zip(place, method.block, strict=True))
        hidden[(sample, 0, *box)] = True
    return hidden


@pytest.mark.parametrize(("cells", "ratio"), [(36, 0.6), (64, 0.6), (216, 0.75), (27, 0.7), (16, 0.5)])
def test_the_number_of_hidden_blocks_is_rounded_up(cells: int, ratio: float) -> None:
    assert hidden_count(cells, ratio) == math.ceil(round(cells * ratio, 9))


@pytest.mark.parametrize(("dims", "block"), [(2, 8), (3, 8), (2, (4, 8))])
def test_blocks_larger_than_a_patch_are_hidden_as_a_whole(dims: int, block: Any) -> None:
    method, batch = _method(dims=dims, block=block, mask_ratio=0.6), _batch(dims)
    hidden = _hidden(method, batch)
    assert (hidden.flatten(1).float().mean(1) >= 0.6).all()
    cells = patchify(hidden.float(), method.block).mean(-1)
    assert ((cells == 0) | (cells == 1)).all()


@pytest.mark.parametrize("kind", ["swin", "vit"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("given", _RECIPES)
def test_hidden_voxels_matter_through_the_target_alone(kind: str, dims: int, given: dict[str, Any]) -> None:
    method, batch = _lively(_method(kind, dims, 2, **given)), _batch(dims, 2)
    blocks, hidden = method._draw(batch["image"], 3), _hidden(method, batch)
    prediction = method._predict(batch["image"], blocks)
    assert prediction.shape == (2, 2 + ("foreground" in given), *[16] * dims)
    other = torch.where(hidden, 50.0, batch["image"])
    assert torch.equal(method._predict(other, blocks), prediction)
    changed = torch.where(hidden, batch["image"], batch["image"] + 1)
    assert not torch.equal(method._predict(changed, blocks), prediction)


@pytest.mark.parametrize("kind", ["swin", "vit"])
@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 4), (3, 2)])
def test_the_loss_is_the_mean_error_of_hidden_voxels(kind: str, dims: int, channels: int) -> None:
    method, batch = _lively(_method(kind, dims, channels)), _batch(dims, channels)
    prediction = method._predict(batch["image"], method._draw(batch["image"], 3))
    hidden = _hidden(method, batch)
    error, count = torch.zeros(()), 0
    for sample in range(2):
        for channel in range(channels):
            where = hidden[sample, 0]
            error = error + (prediction[sample, channel][where] - batch["image"][sample, channel][where]).abs().sum()
            count += int(where.sum())
    torch.testing.assert_close(method(batch)["loss"], error / count)


def test_what_is_predicted_for_visible_voxels_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = _lively(_method()), _batch()
    before, hidden, predict = method(batch)["loss"], _hidden(method, batch), method._predict
    monkeypatch.setattr(method, "_predict", lambda *given: torch.where(hidden, predict(*given), 1e4))
    assert torch.equal(method(batch)["loss"], before)
    monkeypatch.setattr(method, "_predict", lambda *_: batch["image"])
    assert method(batch)["loss"] == 0


def test_the_local_target_is_that_of_loops() -> None:
    method, batch = _lively(_method(local_norm=(5, 1e-3))), _batch()
    prediction, image = method._predict(batch["image"], method._draw(batch["image"], 3)), batch["image"]
    errors = []
    for sample, _, row, column in _hidden(method, batch).nonzero().tolist():
        near = image[sample, 0, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        target = (image[sample, 0, row, column] - near.mean()) / (near.var() + 1e-3).sqrt()
        errors.append((prediction[sample, 0, row, column] - target).abs())
    torch.testing.assert_close(method(batch)["loss"], torch.stack(errors).mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_with_a_foreground_intensities_count_in_the_body_alone(dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = _lively(_method(dims=dims, channels=2, foreground=0.2)), _batch(dims, 2)
    prediction, hidden = method._predict(batch["image"], method._draw(batch["image"], 3)), _hidden(method, batch)
    body = batch["image"].amax(1, keepdim=True) > 0.2
    both = body.expand(-1, 2, *[-1] * dims)
    intensity = (prediction[:, :2] - batch["image"])[both].square().mean()
    outline = (torch.sigmoid(prediction[:, 2:]) - body.float())[hidden].square().mean()
    found = method(batch)
    torch.testing.assert_close(found["loss"], intensity + outline)
    torch.testing.assert_close(found["intensity"], intensity)
    other = torch.cat([torch.where(both, prediction[:, :2], 99.0), torch.where(hidden, prediction[:, 2:], 99.0)], 1)
    monkeypatch.setattr(method, "_predict", lambda *_: other)
    torch.testing.assert_close(method(batch)["loss"], found["loss"])


def test_a_crop_without_body_is_finite() -> None:
    method = _method(foreground=0.5)
    found = method({"image": torch.full((2, 1, 16, 16), -1.0), "step": torch.tensor(0)})
    found["loss"].backward()
    assert found["intensity"] == 0
    assert found["loss"] == found["outline"] > 0


@pytest.mark.parametrize("kind", ["swin", "vit"])
@pytest.mark.parametrize("given", _RECIPES)
def test_every_weight_is_trained_and_the_encoder_loads(kind: str, given: dict[str, Any]) -> None:
    method, batch = _method(kind, 3, 2, **given), _batch(3, 2)
    method(batch)["loss"].backward()
    assert not [name for name, p in method.named_parameters() if p.grad is None]
    plain = _encoder(kind, 3, 2)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    assert torch.equal(plain(batch["image"])[-1], method.encoder(batch["image"])[-1])


@pytest.mark.parametrize(("kind", "decoder"), [("swin", UNetDecoder), ("vit", UNETRDecoder)])
def test_the_decoder_of_segmentation_can_be_taken_over(kind: str, decoder: type[UNetDecoder | UNETRDecoder]) -> None:
    method = _method(kind, decoder="unet")
    fresh = decoder(_encoder(kind, 2, 1), 5)
    result = fresh.load_state_dict(method.decoder_state_dict(), strict=False)
    assert set(result.missing_keys) == {"head.weight", "head.bias"}
    assert not result.unexpected_keys
    assert _method(kind).decoder_state_dict() == {}


def test_the_whole_state_is_saved_and_seed_and_step_decide_the_mask() -> None:
    method, other = _lively(_method(seed=1)), _method(seed=1)
    other.load_state_dict(method.state_dict(), strict=True)
    torch.manual_seed(77)
    assert torch.equal(other.eval()(_batch())["loss"], method(_batch())["loss"])
    assert not torch.equal(method(_batch(step=4))["loss"], method(_batch())["loss"])


@pytest.mark.parametrize("kind", ["swin", "vit"])
@pytest.mark.parametrize("dims", [2, 3])
def test_it_learns_a_fixed_batch(kind: str, dims: int) -> None:
    method, batch = _method(kind, dims), _batch(dims)
    losses = learn(method, batch, 1e-2)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("given", _RECIPES)
def test_bf16_is_finite_and_near_float32(given: dict[str, Any]) -> None:
    method, batch = _lively(_method(**given)), _batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(method(batch)["loss"].item(), rel=0.05)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("given", _RECIPES)
def test_panel_shows_visible_voxels_unchanged(given: dict[str, Any]) -> None:
    method, batch = _lively(_method(channels=2, **given)), _batch(2, 2)
    hidden, columns = _hidden(method, batch).expand(-1, 2, -1, -1), method.reconstruction(batch)
    assert {name: c.shape for name, c in columns.items()} == dict.fromkeys(columns, batch["image"].shape)
    assert torch.equal(columns["reconstructed"][~hidden], batch["image"][~hidden])
    assert (columns["masked"][hidden] == 0).all()


def test_a_right_prediction_is_painted_in_the_intensities_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = _method(local_norm=(5, 1e-3)), _batch()
    mean, deviation = method._statistics(batch["image"])
    monkeypatch.setattr(method, "_predict", lambda *_: (batch["image"] - mean) / deviation)
    torch.testing.assert_close(method.reconstruction(batch)["reconstructed"], batch["image"])
    assert method(batch)["loss"] < 1e-6


@pytest.mark.parametrize("dims", [2, 3])
def test_the_linear_decoder_puts_each_output_at_its_voxel(dims: int) -> None:
    method = _method(dims=dims, channels=2)
    last = torch.randn(1, 24, *(3, 2, 2)[:dims])
    out = method.decoder(torch.empty(0), [last])
    assert out.shape == (1, 2, *(12, 8, 8)[:dims])
    linear = method.decoder.head(last[(0, slice(None), 1, *[0] * (dims - 1))]).view(*[4] * dims, 2)
    torch.testing.assert_close(out[(0, slice(None), slice(4, 8), *[slice(4)] * (dims - 1))], linear.movedim(-1, 0))
    tokens = patchify(out, (4,) * dims)
    assert torch.equal(unpatchify(tokens, last.shape[2:], (4,) * dims), out)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio must lie between"),
        ({"block": 3}, r"multiple of the patch \(2, 2\), got \(3, 3\)"),
        ({"block": (4, 4, 4)}, "multiple of the patch"),
        ({"local_norm": (4, 1e-6)}, "must be odd and 3 or more, got 4"),
        ({"local_norm": (5, -1.0)}, "variance_floor must be 0 or more"),
        ({"decoder": "light"}, "decoder must be linear or unet"),
    ],
)
def test_wrong_numbers_are_told(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        _method(**given)


def test_crops_that_do_not_fit_are_told() -> None:
    with pytest.raises(ConfigError, match="does not divide into blocks"):
        _method(block=6)(_batch())
    with pytest.raises(ConfigError, match="hides all 1 patches or blocks"):
        _method(block=16)(_batch())


def test_a_cnn_is_refused() -> None:
    with pytest.raises(ConfigError, match="for CNNs use spark"):
        SimMIM(ResidualUNetEncoder(2, 1))
