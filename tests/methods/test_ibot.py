"""iBOT: what is hidden from whom, what is compared with what, and its two centres."""

from typing import Any

import pytest
import torch
from fixed_batch import learn
from token_views import class_loss, outputs_of, part_of, patch_loss, small_vit, view_batch

from medssl.data.mask_ratios import HiddenTokens
from medssl.imaging.errors import ConfigError
from medssl.methods.ibot import IBOT
from medssl.models.resnet import ResNet


def _method(dims: int = 2, channels: int = 1, registers: int = 0, **given: Any) -> Any:
    torch.manual_seed(0)
    return IBOT(small_vit(dims, channels, registers), **{"steps": 100, "head": (16, 8, 12, 0), **given})


@pytest.mark.parametrize("own_head", [0, 10])
def test_the_loss_is_that_of_the_paper(own_head: int) -> None:
    method, batch = _method(head=(16, 8, 12, own_head), registers=1).eval(), view_batch()
    batch["progress"] = torch.tensor(0.05)  # half way through the warm-up
    method.mask_token.data.normal_()
    method.centre.copy_(torch.linspace(-0.2, 0.2, 12))
    method.patch_centre.copy_(torch.linspace(0.3, -0.3, own_head or 12))
    found, outputs = outputs_of(method, batch), method(batch)
    targets = ((found["teacher"] - method.centre) / 0.04).softmax(-1)
    patches = ((found["teacher_patches"] - method.patch_centre) / 0.055).softmax(-1)
    assert 0 < int(found["masks"].any(1).sum()) < len(found["masks"])  # some hide nothing: they count as 0
    torch.testing.assert_close(outputs["class_loss"], class_loss(targets, found))
    torch.testing.assert_close(outputs["patch_loss"], patch_loss(patches, found))
    torch.testing.assert_close(outputs["loss"], outputs["class_loss"] + outputs["patch_loss"])
    entropy = -(targets * targets.log()).sum(-1).mean()
    torch.testing.assert_close(outputs["teacher_entropy"], entropy)


def test_both_kinds_of_tokens_share_a_head_unless_told_otherwise() -> None:
    assert _method().student.patch_projector is None
    assert _method(head=(16, 8, 12, 10)).student.patch_projector.prototypes.weight.shape == (10, 8)


def test_where_nothing_is_hidden_there_is_no_loss_of_patches() -> None:
    method, batch = _method(masks=("block", 0.0, 0.1, 0.5)), view_batch()
    outputs = method(batch)
    assert outputs["patch_loss"] == 0
    assert outputs["patch_entropy"] == 0  # a number that is none would end the run
    outputs["loss"].backward()
    assert not method.mask_token.grad.any()
    method.after_step(1)
    assert not method.patch_centre.any()
    assert method.centre.any()


def test_centres_take_in_what_the_teacher_said_however_the_step_is_cut() -> None:
    whole, parts, batch = _method(), _method(), view_batch()
    whole.eval()(batch)
    whole.after_step(1)
    assert not whole.centre.any()  # what is only looked at moves nothing
    whole.train()
    masks = torch.zeros(8, 4, 4, dtype=torch.bool)
    for number, hidden in enumerate((3, 5, 0, 2, 1, 0, 7, 4)):  # views of four samples: parts differ in hidden tokens
        masks[number].view(-1)[:hidden] = True
    outputs = []
    for method, rows in ((whole, [slice(4)]), (parts, [slice(1), slice(1, 4)])):
        for part in rows:
            _fix(method, masks.unflatten(0, (2, 4))[:, part].flatten(0, 1))
            outputs.append(outputs_of(method, part_of(batch, part)))
            method(part_of(batch, part))
        method.after_step(1)
    logits, hidden = outputs[0]["teacher_patches"], masks.flatten(1)
    torch.testing.assert_close(whole.centre, 0.1 * outputs[0]["teacher"].mean(0))
    torch.testing.assert_close(whole.patch_centre, 0.1 * logits[hidden].mean(0))
    torch.testing.assert_close(parts.centre, whole.centre)
    torch.testing.assert_close(parts.patch_centre, whole.patch_centre)


def _fix(method: Any, masks: torch.Tensor) -> None:
    """Give a method its masks (V * B, *grid)."""
    method.draw = lambda images, step: HiddenTokens.of(masks, images.device)


def test_class_tokens_and_patches_warm_up_to_their_own_temperatures() -> None:
    method = _method(temperatures=(0.1, 0.04, 0.05, 0.08), schedule=(0.996, 0.5, 0.0)).eval()
    batch = view_batch()
    batch["progress"] = torch.tensor(0.25)
    found = outputs_of(method, batch)
    wanted = method.targets(found["teacher"], found["teacher_patches"].flatten(0, 1), batch)
    torch.testing.assert_close(wanted[0], (found["teacher"] / 0.045).softmax(-1))
    torch.testing.assert_close(wanted[1], (found["teacher_patches"].flatten(0, 1) / 0.06).softmax(-1))


@pytest.mark.parametrize("dims", [2, 3])
def test_it_learns_a_fixed_batch(dims: int) -> None:
    losses = learn(_method(dims), view_batch(dims), 1e-2, follow=False)  # a moving centre moves the goal
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"temperatures": (0.1, 0.04, 0.0, 0.07)}, "temperatures must be positive"),
        ({"schedule": (1.2, 0.1, 0.0)}, "momentum must lie in"),
        ({"centre_momentum": -1.0}, "centre_momentum must lie in"),
        ({"masks": ("block", 0.5, 0.5, 0.1)}, "ratios must rise"),
        ({"masks": ("block", 1.5, 0.1, 0.5)}, "masked must lie in"),
        ({"head": (16, 8, 0, 0)}, "head needs positive numbers"),
    ],
)
def test_wrong_numbers_are_told(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        _method(**given)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        _method(schedule=(1.2, 0.1, -0.1), masks=("block", 0.5, 0.5, 0.1))
    assert len(caught.value.problems) == 3


def test_a_cnn_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ibot needs a ViT encoder, got ResNet; .* use dino"):
        IBOT(ResNet(2, 1, depth=10, width=4), steps=10)
