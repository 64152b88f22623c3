"""What holds for iBOT and DINOv2 alike."""

import copy
from typing import Any

import pytest
import torch
from token_views import small_vit, view_batch

from medssl.methods.dinov2 import DINOv2
from medssl.methods.ibot import IBOT
from medssl.models.projectors import TokenBranch

_KINDS: list[Any] = [IBOT, DINOv2]
_CENTRED = {IBOT: {}, DINOv2: {"spread": (0.9, 0.1)}}


def _method(kind: Any, dims: int = 2, channels: int = 1, registers: int = 0, **given: Any) -> Any:
    torch.manual_seed(0)
    return kind(small_vit(dims, channels, registers), **{"steps": 100, "head": (16, 8, 12, 10), **given})


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(("dims", "channels", "patches"), [(2, 1, 0), (2, 4, 10), (3, 1, 10), (3, 2, 0)])
def test_every_weight_learns_and_the_encoder_loads(kind: Any, dims: int, channels: int, patches: int) -> None:
    method, batch = _method(kind, dims, channels, registers=1, head=(16, 8, 12, patches)), view_batch(dims, channels)
    outputs = method(batch)
    outputs["loss"].backward()
    assert outputs["loss"].shape == ()
    assert not [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert method.mask_token.grad.any()
    assert all(p.grad is None for p in method.teacher.parameters())
    plain = small_vit(dims, channels, registers=1)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    kept = method.teacher.network.encoder
    torch.testing.assert_close(plain.embed(batch["image"]), kept.embed(batch["image"]))


@pytest.mark.parametrize("kind", _KINDS)
def test_local_views_are_optional_and_count(kind: Any) -> None:
    method, batch = _method(kind).eval(), view_batch()
    without = {name: value for name, value in batch.items() if name != "local_views"}
    assert method(without)["class_loss"] != method(batch)["class_loss"]
    torch.testing.assert_close(method(without)["patch_loss"], method(batch)["patch_loss"])


@pytest.mark.parametrize("kind", _KINDS)
def test_the_teacher_sees_no_mask_token_and_the_student_no_hidden_patch(kind: Any) -> None:
    method, batch = _method(kind).eval(), view_batch()
    before = method(batch)
    method.mask_token.data.copy_(torch.linspace(-3, 3, method.mask_token.shape[-1]))  # one number layer norm removes
    after = method(batch)
    for name in ("teacher_entropy", "patch_entropy"):
        assert torch.equal(before[name], after[name])
    assert before["patch_loss"] != after["patch_loss"]
    images = batch["views"].flatten(0, 1)
    hidden = method.draw(images, 3)
    voxels = hidden.mask.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    for branch, fill in ((method.student, (hidden.mask, method.mask_token)), (method.teacher.network, None)):
        seen, changed = (branch.both(x, hidden.rows, fill)[1] for x in (images, images.masked_fill(voxels, 9.0)))
        assert torch.equal(seen, changed) == (fill is not None)


@pytest.mark.parametrize("kind", _KINDS)
def test_the_loss_of_patches_reaches_hidden_tokens_alone(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = _method(kind), view_batch(local=0)
    mask = method.draw(batch["views"].flatten(0, 1), 3).mask
    tokens = torch.randn(8, 17, 12, requires_grad=True)
    monkeypatch.setattr(method.encoder, "encode_packed", lambda images, fills: [tokens])
    method(batch)["loss"].backward()
    assert torch.equal(tokens.grad[:, 1:].any(-1), mask)
    assert tokens.grad[:, 0].any(-1).all()


def test_tokens_are_picked_by_their_number_over_the_batch() -> None:
    vit = small_vit(registers=2)
    branch = TokenBranch(vit, torch.nn.Identity())
    image = torch.randn(3, 1, 8, 12)  # 6 patches each
    tokens, classes, patches = branch.both(image, torch.tensor([1, 6, 17]))
    all_tokens = vit.encode(image)
    assert torch.equal(tokens, all_tokens[:, 0])
    assert torch.equal(classes, tokens)
    expected = torch.stack([all_tokens[0, 3 + 1], all_tokens[1, 3 + 0], all_tokens[2, 3 + 5]])
    assert torch.equal(patches, expected)


@pytest.mark.parametrize("kind", _KINDS)
def test_the_teacher_follows_exactly(kind: Any) -> None:
    method = _method(kind, schedule=(0.9, 0.1, 0.0))
    start = [p.clone() for p in method.teacher.parameters()]
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.5)
    method.after_step(51)  # half way: 0.95
    for own, old, live in zip(method.teacher.parameters(), start, method.student.parameters(), strict=True):
        torch.testing.assert_close(own, 0.95 * old + 0.05 * live)


@pytest.mark.parametrize("kind", _KINDS)
def test_prototypes_of_both_heads_are_held_still_at_first(kind: Any) -> None:
    method = _method(kind, schedule=(0.9, 0.1, 0.2))
    method(view_batch())["loss"].backward()
    heads = (method.student.projector, method.student.patch_projector)
    for step, held in ((20, False), (19, True)):
        method.before_step(step)
        assert all((head.prototypes.weight.grad is None) == held for head in heads)
    assert all(p.grad is not None for head in heads for p in head.mlp.parameters())


@pytest.mark.parametrize("kind", _KINDS)
def test_the_whole_state_is_saved(kind: Any) -> None:
    method, batch = _method(kind, **_CENTRED[kind]), view_batch()
    for step in (1, 2):
        method(batch)["loss"].backward()
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        method.after_step(step)
    other = _method(kind, **_CENTRED[kind])
    other.load_state_dict(copy.deepcopy(method.state_dict()), strict=True)
    assert torch.equal(other.eval()(batch)["loss"], method.eval()(batch)["loss"])


@pytest.mark.parametrize("kind", _KINDS)
def test_bf16_gives_a_finite_loss_and_gradient(kind: Any) -> None:
    method = _method(kind)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(view_batch())["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
