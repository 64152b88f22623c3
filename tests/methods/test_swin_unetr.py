"""Swin UNETR's three tasks: views, losses, weights, and that they are learned."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from fixed_batch import learn
from small_networks import small_encoder
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.losses.contrastive import nt_xent
from medssl.methods.swin_unetr import SwinUNETRPretraining
from medssl.models.bottleneck_decoders import BottleneckDecoder
from medssl.models.swin import SwinV2
from medssl.models.vit import ViT

_KINDS = ["swin", "vit", "resnet", "unet"]


def _method(kind: str = "swin", dims: int = 2, channels: int = 1, **given: Any) -> SwinUNETRPretraining:
    torch.manual_seed(0)
    return SwinUNETRPretraining(small_encoder(kind, dims, channels), **{"width": 8, **given})


def _batch(dims: int = 2, channels: int = 1, count: int = 4, step: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(count, channels, *[16] * dims, generator=generator)
    return {"image": image, "step": torch.tensor(step), "patient": torch.arange(count)}


@pytest.mark.parametrize("dims", [2, 3])
def test_turning_back_restores_the_crop_and_most_voxels_are_kept(dims: int) -> None:
    method, batch = _method(dims=dims, channels=2), _batch(dims, 2, count=16)
    clean, spoilt, turns = method._draw(batch["image"], 3)
    assert set(turns.tolist()) == {0, 1, 2, 3}
    for sample, turn in enumerate(turns.tolist()):
        back = torch.rot90(clean[sample], -turn, (-2, -1))
        assert torch.equal(back, batch["image"][sample % 16])
    kept = (clean == spoilt).all(1).flatten(1).float().mean(1)
    assert 0.6 < kept.mean() < 0.85  # half of 0.3, twice, with overlap and crops that draw themselves
    assert not torch.equal(clean[:16], clean[16:])


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("descriptor", ["corner", "mean"])
def test_the_losses_are_those_of_the_paper(kind: str, descriptor: Any) -> None:
    method, batch = _method(kind, descriptor=descriptor).eval(), _batch()
    clean, spoilt, turns = method._draw(batch["image"], 3)
    last = method.encoder(spoilt)[-1]
    rows = last.flatten(2).mean(2), last.flatten(2).mean(2)
    if descriptor == "corner":
        rows = last[:, :, 0, 0], last[:, :, 0, 1]
    guess, vectors = method.compass(rows[0]), F.normalize(method.projector(rows[1]), dim=1)
    rotation = torch.stack([-guess[n].log_softmax(0)[turns[n]] for n in range(8)]).mean()
    terms = []
    for n in range(8):
        others = torch.stack([vectors[n] @ vectors[m] / 0.5 for m in range(8) if m != n])
        terms.append(others.logsumexp(0) - vectors[n] @ vectors[(n + 4) % 8] / 0.5)
    painted = method.painter(spoilt, [last])
    found = method(batch)
    torch.testing.assert_close(found["rotation"], rotation)
    torch.testing.assert_close(found["contrast"], torch.stack(terms).mean())
    torch.testing.assert_close(found["reconstruction"], (painted - clean).abs().mean())
    torch.testing.assert_close(found["loss"], found["rotation"] + found["contrast"] + found["reconstruction"])
    assert found["rotation_accuracy"] == (guess.argmax(1) == turns).float().mean()


def test_nothing_known_costs_ln_4_and_collapse_ln_of_the_others() -> None:
    method, batch = _method().eval(), _batch()
    for layer in (method.compass, method.projector):
        layer.weight.data.zero_()
    method.compass.bias.data.zero_()
    found = method(batch)
    assert found["rotation"].item() == pytest.approx(math.log(4), abs=1e-5)
    assert found["contrast"].item() == pytest.approx(math.log(2 * 4 - 1), abs=1e-5)


def test_samples_of_one_patient_are_negatives_only_where_asked_for() -> None:
    batch = {**_batch(), "patient": torch.tensor([0, 0, 1, 1])}
    found = {given: _method("unet", same_patient=given).eval()(batch)["contrast"] for given in (False, True)}
    assert found[False] < found[True]
    method = _method("unet").eval()
    _, spoilt, _ = method._draw(batch["image"], 3)
    first, second = method._read(method.encoder(spoilt)[-1])[1].chunk(2)
    torch.testing.assert_close(found[False], nt_xent(first, second, 0.5, batch["patient"]))


def test_automatic_weights_are_learned_and_forget_no_task() -> None:
    method, equal, batch = _method(weighting="automatic"), _method(), _batch()
    found, plain = method(batch), equal(batch)
    torch.testing.assert_close(found["loss"], plain["loss"] / 2 + 3 * math.log(2))
    learn(method, batch, 1e-2)
    losses = [method(batch)[name].item() for name in ("rotation", "contrast", "reconstruction")]
    assert method.sigma is not None
    assert (method.sigma != 1).all()
    order = sorted(range(3), key=lambda task: losses[task])
    assert method.sigma[order[0]] < method.sigma[order[2]], "the larger loss has the larger uncertainty"
    assert equal.sigma is None


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 4), (3, 2)])
def test_every_weight_is_trained_and_the_encoder_loads(kind: str, dims: int, channels: int) -> None:
    method = _method(kind, dims, channels, weighting="automatic")
    method(_batch(dims, channels))["loss"].backward()
    assert not [name for name, p in method.named_parameters() if p.grad is None]
    plain = small_encoder(kind, dims, channels)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    image = _batch(dims, channels)["image"]
    assert torch.equal(plain.eval()(image)[-1], method.encoder.eval()(image)[-1])


def test_the_whole_state_is_saved_and_seed_and_step_decide_the_views() -> None:
    method, other = _method("resnet", weighting="automatic", seed=1), _method("resnet", weighting="automatic", seed=1)
    learn(method, _batch(), 1e-2, steps=2)
    other.load_state_dict(method.state_dict(), strict=True)
    torch.manual_seed(77)
    assert torch.equal(other.eval()(_batch())["loss"], method.eval()(_batch())["loss"])
    assert not torch.equal(method(_batch(step=4))["loss"], method(_batch())["loss"])


@pytest.mark.parametrize("kind", _KINDS)
def test_it_learns_a_fixed_batch(kind: str) -> None:
    method, batch = _method(kind), _batch()
    before = method.eval()(batch)
    losses = learn(method.train(), batch, 1e-2)
    after = method.eval()(batch)
    assert losses[-1] < 0.8 * losses[0]
    assert all(after[name] < before[name] for name in ("rotation", "reconstruction"))


@pytest.mark.parametrize("dims", [2, 3])
def test_bf16_is_finite_and_near_float32(dims: int) -> None:
    method, batch = _method(dims=dims), _batch(dims)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(method(batch)["loss"].item(), rel=0.05)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_panel_shows_the_first_copy() -> None:
    method, batch = _method(channels=2), _batch(2, 2)
    clean, spoilt, _ = method._draw(batch["image"], 3)
    columns = method.reconstruction(batch)
    assert torch.equal(columns["input"], clean[:4])
    assert torch.equal(columns["masked"], spoilt[:4])
    assert columns["reconstructed"].shape == batch["image"].shape


@pytest.mark.parametrize(("patch", "steps"), [(8, 3), ((16, 4), 4), ((6, 2), 2), (1, 0)])
def test_the_painter_reaches_the_size_of_the_image(patch: Any, steps: int) -> None:
    encoder = ViT(2, 3, patch_size=patch, width=32, depth=1, heads=2)
    painter, image = BottleneckDecoder(encoder, 3), torch.randn(2, 3, 48, 48)
    assert len(painter.blocks) == steps
    assert painter(image, encoder(image)).shape == image.shape


@pytest.mark.parametrize("dims", [2, 3])
def test_the_painter_gives_the_numbers_of_the_paper_s_order(dims: int) -> None:
    encoder = small_encoder("swin", dims, 2)
    painter, last = BottleneckDecoder(encoder, 2), torch.randn(2, 16, *[4] * dims)
    out = last
    for block in painter.blocks:
        out = F.interpolate(block(out), scale_factor=2.0, mode="trilinear" if dims == 3 else "bilinear")
    torch.testing.assert_close(painter(torch.empty(0), [last]), painter.head(out))


def test_the_painter_of_the_paper() -> None:
    """768 to 384, 192, 96, 48, 48 in five steps, on an encoder with strides 2 to 32."""
    stages = [[1, 1], [1, 1], [1, 1], [1, 1], [0, 1]]
    encoder = SwinV2(3, 1, patch_size=2, width=48, stages=stages)
    painter = BottleneckDecoder(encoder, 1)
    assert encoder.feature_channels == (48, 96, 192, 384, 768)
    assert encoder.strides[-1] == (32, 32, 32)
    assert [block.conv.out_channels for block in painter.blocks] == [384, 192, 96, 48, 48]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"width": 0}, "width must be positive"),
        ({"cutouts": (1.5, 0.05, 0.25)}, "cutouts must lie in"),
        ({"cutouts": (0.3, 0.4, 0.2)}, "sides of cutouts must rise"),
        ({"weighting": "learned"}, "weighting must be equal or automatic"),
        ({"descriptor": "token"}, "descriptor must be corner or mean"),
    ],
)
def test_wrong_numbers_are_told(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        _method(**given)


def test_crops_that_do_not_fit_are_told() -> None:
    with pytest.raises(ConfigError, match="last two axes, which must be alike"):
        _method()({**_batch(), "image": torch.zeros(2, 1, 16, 8)})
    with pytest.raises(ConfigError, match="one position"):
        _method()({**_batch(), "image": torch.zeros(2, 1, 4, 4)})
