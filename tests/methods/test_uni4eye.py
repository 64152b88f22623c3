"""Uni4Eye: what the loss counts, and which weights learn from which dimension."""

import pytest
import torch
from fixed_batch import learn
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.losses.gradients import sobel_magnitude
from medssl.methods.uni4eye import Uni4Eye
from medssl.models.positions import patchify, unpatchify
from medssl.models.unified_vit import UnifiedViT
from medssl.models.vit import ViT


def _method(channels: int = 1, **extra) -> Uni4Eye:
    torch.manual_seed(0)
    encoder = UnifiedViT(channels, patch_size_2d=4, patch_size_3d=4, width=24, depth=2, heads=2)
    return Uni4Eye(encoder, **{"decoder": (20, 2, 2), **extra})


def _batch(dims: int, channels: int = 1, step: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(dims)
    return {"image": torch.randn(2, channels, *[16] * dims, generator=generator), "step": torch.tensor(step)}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0)])
def test_the_loss_is_the_error_of_the_hidden_patches_of_both_targets(
    dims: int, channels: int, weights: tuple[float, float]
) -> None:
    """Patch by patch and voxel by voxel."""
    method, batch = _method(channels, weights=weights), _batch(dims, channels)
    visible, hidden = method._draw(batch["image"], 7)
    assert hidden.shape[1] == 4**dims - int(4**dims * 0.25)
    tokens = method.encoder.plain(dims).encode(batch["image"], visible)
    expected = {}
    for name, target in (("image", batch["image"]), ("gradient", sobel_magnitude(batch["image"]))):
        decoded = method.decoders[name](tokens, [4] * dims, visible, hidden)
        predicted = method.heads[f"{name}_{dims}d"](decoded)
        whole, errors = patchify(target, [4] * dims), []
        for sample in range(2):
            for place, patch in enumerate(hidden[sample].tolist()):
                difference = (predicted[sample, place] - whole[sample, patch]).tolist()
                errors.append(sum(d**2 for d in difference) / len(difference))
        expected[name] = sum(errors) / len(errors)
    out = method(batch)
    assert out[f"image_{dims}d"].item() == pytest.approx(expected["image"], rel=1e-4)
    assert out[f"gradient_{dims}d"].item() == pytest.approx(expected["gradient"], rel=1e-4)
    whole_loss = weights[0] * expected["image"] + weights[1] * expected["gradient"]
    assert out["loss"].item() == pytest.approx(whole_loss, rel=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_visible_patches_are_no_target_of_the_image(dims: int) -> None:
    method, image = _method(), _batch(dims)["image"]
    visible, hidden = method._draw(image, 7)
    patches = patchify(image, [4] * dims)
    changed = patches.scatter(1, visible[..., None].expand(-1, -1, patches.shape[-1]), -5.0)
    other = unpatchify(changed, [4] * dims, [4] * dims)
    assert torch.equal(method._target(other, hidden), method._target(image, hidden))


@pytest.mark.parametrize("dims", [2, 3])
def test_one_dimension_leaves_the_others_weights_alone(dims: int) -> None:
    method = _method()
    method(_batch(dims))["loss"].backward()
    other = f"{5 - dims}d"
    for name, parameter in method.named_parameters():
        unused = other in name.split(".")[-2] or f"patch_embeds.{other}" in name
        assert (parameter.grad is None) == unused, name


def test_both_dimensions_reach_every_weight_and_common_ones_twice() -> None:
    method = _method()
    gradients = []
    for dims in (2, 3):
        method.zero_grad(set_to_none=True)
        method(_batch(dims))["loss"].backward()
        gradients.append({name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()})
    names = {name for name, _ in method.named_parameters()}
    assert gradients[0] | gradients[1] == names
    assert {name for name in names if "blocks" in name or "norm" in name} <= gradients[0] & gradients[1]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("floor", [None, 1e-3])
def test_learns_a_fixed_batch(dims: int, floor: float | None) -> None:
    losses = learn(_method(variance_floor=floor), _batch(dims), 3e-3)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("dims", [2, 3])
def test_finite_under_bf16_and_near_float32(dims: int) -> None:
    method, batch = _method(), _batch(dims)
    with torch.autocast("cpu", torch.bfloat16):
        low = method(batch)["loss"]
    low.backward()
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(method(batch)["loss"].item(), rel=0.03)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("dims", [2, 3])
def test_kept_encoders_load_into_plain_ones_and_the_method_is_its_own_state(dims: int) -> None:
    method, other = _method(), _method()
    for parameter in other.parameters():
        parameter.data.normal_()
    other.load_state_dict(method.state_dict())
    assert torch.equal(method(_batch(dims))["loss"], other(_batch(dims))["loss"])
    plain = ViT(dims, 1, patch_size=4, width=24, depth=2, heads=2)
    plain.load_state_dict(method.encoder.plain(dims).state_dict(), strict=True)
    image = _batch(dims)["image"]
    assert torch.equal(plain.embed(image), method.encoder.embed(image))


def test_seed_and_step_decide_the_mask() -> None:
    loss = _method(seed=1)(_batch(2))["loss"]
    torch.manual_seed(55)
    assert torch.equal(loss, _method(seed=1)(_batch(2))["loss"])
    assert not torch.equal(loss, _method(seed=1)(_batch(2, step=8))["loss"])
    assert not torch.equal(loss, _method(seed=2)(_batch(2))["loss"])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("floor", [None, 1e-6])
def test_the_panel_shows_a_perfect_prediction_as_the_input(dims: int, floor: float | None, monkeypatch) -> None:
    method, batch = _method(variance_floor=floor), _batch(dims)
    _, hidden = method._draw(batch["image"], 7)
    monkeypatch.setattr(method, "_predict", lambda *given: method._target(batch["image"], hidden))
    columns = method.reconstruction(batch)
    torch.testing.assert_close(columns["reconstructed"], columns["input"], atol=1e-4, rtol=1e-4)
    assert (patchify(columns["masked"], [4] * dims).gather(1, hidden[..., None].expand(-1, -1, 4**dims)) == 0).all()


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"mask": ("red", 0.6, 1.8)}, "mask red has 1 filter"),
        ({"variance_floor": -1e-6}, "variance_floor must be 0 or more"),
        ({"weights": (-1.0, 1.0)}, "image must be 0 or more"),
        ({"weights": (0.0, 0.0)}, "not both be 0"),
        ({"decoder": (20, 2, 3)}, "width 20 must be divisible by heads 3"),
    ],
)
def test_numbers_that_do_not_fit(extra: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        _method(**extra)


def test_a_mask_that_hides_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match="hides all 16 patches"):
        _method(mask_ratio=0.95)(_batch(2))


def test_needs_an_encoder_of_both_dimensions() -> None:
    with pytest.raises(ConfigError, match="UnifiedViT"):
        Uni4Eye(ViT(2, 1, patch_size=4, width=24, depth=1, heads=2))
