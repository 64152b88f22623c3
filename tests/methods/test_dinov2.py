"""DINOv2: balanced targets, masks of half of the views, features kept apart."""

from typing import Any

import pytest
import torch
from fixed_batch import learn
from token_views import class_loss, outputs_of, patch_loss, small_vit, view_batch
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.methods.dinov2 import DINOv2
from medssl.models.unet import ResidualUNetEncoder


def _method(dims: int = 2, channels: int = 1, **given: Any) -> Any:
    torch.manual_seed(0)
    return DINOv2(small_vit(dims, channels), **{"steps": 100, "head": (16, 8, 12, 10), **given})


def _balanced(logits: Tensor, temperature: float) -> Tensor:
    """Sinkhorn-Knopp in three rounds, in double precision: prototypes first, then samples."""
    shares = (logits.double() / temperature).exp().T
    shares /= shares.sum()
    for _ in range(3):
        for row in range(len(shares)):
            shares[row] /= shares[row].sum() * len(shares)
        for column in range(shares.shape[1]):
            shares[:, column] /= shares[:, column].sum() * shares.shape[1]
    return (shares.T * shares.shape[1]).float()


def _spread(features: Tensor) -> Tensor:
    """KoLeo, point by point."""
    unit = (features / features.norm(dim=1, keepdim=True)).detach()
    nearest = [min(float((a - b).norm()) for m, b in enumerate(unit) if m != n) for n, a in enumerate(unit)]
    return -torch.tensor(nearest).log().mean()


@pytest.mark.parametrize("balance", ["sinkhorn", 0.9])
def test_the_loss_is_that_of_the_paper(balance: Any) -> None:
    method, batch = _method(spread=(balance, 0.1)).eval(), view_batch()
    batch["progress"] = torch.tensor(0.15)  # half way through the warm-up
    found, outputs = outputs_of(method, batch), method(batch)
    hidden, patches = found["masks"], torch.zeros_like(found["teacher_patches"])
    if balance == "sinkhorn":
        targets = _balanced(found["teacher"], 0.055)
        patches[hidden] = _balanced(found["teacher_patches"][hidden], 0.055)
    else:
        method.centre.copy_(torch.linspace(-0.2, 0.2, 12))
        method.patch_centre.copy_(torch.linspace(0.2, -0.2, 10))
        outputs = method(batch)
        targets = ((found["teacher"] - method.centre) / 0.055).softmax(-1)
        patches = ((found["teacher_patches"] - method.patch_centre) / 0.055).softmax(-1)
    spread = sum(_spread(view) for view in found["student_tokens"].chunk(2))
    torch.testing.assert_close(outputs["class_loss"], class_loss(targets, found))
    torch.testing.assert_close(outputs["patch_loss"], patch_loss(patches, found))
    torch.testing.assert_close(outputs["koleo"], 0.1 * spread, atol=1e-5, rtol=1e-4)
    terms = outputs["class_loss"] + outputs["patch_loss"] + outputs["koleo"]
    torch.testing.assert_close(outputs["loss"], terms)


def test_sinkhorn_needs_no_centre_and_no_weight_no_koleo() -> None:
    buffers = {name for name, _ in _method().named_buffers()}
    assert not buffers
    assert {name for name, _ in _method(spread=(0.9, 0.0)).named_buffers()} == {"centre", "patch_centre"}
    assert "koleo" not in _method(spread=("sinkhorn", 0.0))(view_batch())


def test_half_of_the_views_hide_something_each_a_part_of_the_range() -> None:
    method = _method(masks=("random", 0.5, 0.1, 0.5))
    images = torch.zeros(20, 1, 40, 40)  # 100 patches
    counts = method.draw(images, 5).mask.sum(1)
    shares = counts[counts > 0].sort().values / 100
    assert len(shares) == 10
    for number, share in enumerate(shares.tolist()):
        assert 0.1 + 0.04 * number <= share <= 0.1 + 0.04 * (number + 1) + 0.01
    again = method.draw(images, 5).mask.sum(1)
    assert torch.equal(counts, again)
    assert not torch.equal(counts, method.draw(images, 6).mask.sum(1))
    assert not torch.equal(counts, counts.sort().values)  # which views, is shuffled


@pytest.mark.parametrize("dims", [2, 3])
def test_it_learns_a_fixed_batch(dims: int) -> None:
    losses = learn(_method(dims), view_batch(dims), 1e-2)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"spread": ("sinkhorn", -0.1)}, "koleo must be 0 or more"),
        ({"spread": (1.5, 0.1)}, "centre_momentum must lie in"),
        ({"masks": ("random", 0.5, 0.0, 0.5)}, "ratios must rise"),
        ({"head": (16, 8, 12, -1)}, "head needs positive numbers"),
    ],
)
def test_wrong_numbers_are_told(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        _method(**given)


def test_a_cnn_is_refused() -> None:
    with pytest.raises(ConfigError, match="dinov2 needs a ViT"):
        DINOv2(ResidualUNetEncoder(2, 1), steps=10)
