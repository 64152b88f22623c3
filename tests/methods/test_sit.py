"""SiT: what is corrupted, what the loss counts, who sees what, and that it learns."""

import copy
from typing import Any

import pytest
import torch
from fixed_batch import learn
from token_views import small_vit, tokens_of, view_batch
from torch import Tensor

from medssl.data.corruption import corrupt
from medssl.data.spatial import quarter_turned
from medssl.imaging.errors import ConfigError
from medssl.losses.contrastive import batch_info_nce
from medssl.losses.reconstruction import masked_l1
from medssl.methods.sit import SiT
from medssl.models.positions import unpatchify
from medssl.models.resnet import ResNet


def _method(dims: int = 2, channels: int = 1, registers: int = 0, **given: Any) -> Any:
    torch.manual_seed(0)
    return SiT(small_vit(dims, channels, registers), **{"steps": 100, "head": (16, 8), **given})


def _batch(dims: int = 2, channels: int = 1) -> dict[str, Tensor]:
    return view_batch(dims, channels, local=0)


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 4), (3, 2)])
@pytest.mark.parametrize("turning", [0.0, 0.5])
def test_the_loss_is_that_of_the_paper(dims: int, channels: int, turning: float) -> None:
    method = _method(dims, channels, registers=1, weights=(2.0, turning), corruption=("zeros", 0.5, 0.3, 1)).eval()
    batch = _batch(dims, channels)
    clean, drawn, turns = method._draw(batch["views"], 3)
    token, embeddings, wrong, seen, said = torch.zeros(1, 1, 12), [], 0.0, 0, []
    for view, part in zip(clean, drawn, strict=True):
        spoilt, vectors = corrupt(view, part, "zeros"), []
        for number in range(4):
            tokens = tokens_of(method.encoder, spoilt[number], None, token)
            vectors.append(tokens[0])
            said.append(tokens[1])
            painted = unpatchify(method.painter(tokens[2:])[None], method.encoder.grid(view.shape[2:]), (4,) * dims)[0]
            mask = part.mask[number].expand_as(painted)
            wrong, seen = wrong + (painted - view[number])[mask].abs().sum(), seen + int(mask.sum())
        embeddings.append(torch.stack(vectors))
    first, second = method.student.projector(torch.cat(embeddings)).chunk(2)
    keys = [method.teacher(view) for view in batch["views"]]  # clean, and as they lie
    expected = batch_info_nce(first, keys[1], 0.2) + batch_info_nce(second, keys[0], 0.2) + 2 * wrong / seen
    if turning:
        logits = method.compass(torch.stack(said)).log_softmax(1)
        expected = expected - turning * logits[torch.arange(8), turns].mean()
    torch.testing.assert_close(method(batch)["loss"], expected)


def test_views_are_turned_only_where_that_is_asked_for() -> None:
    batch = _batch()
    still, _, _ = _method()._draw(batch["views"], 3)
    assert torch.equal(torch.stack(still), batch["views"])
    turned, _, turns = _method(registers=1, weights=(1.0, 1.0))._draw(batch["views"], 3)
    assert turns.any()
    assert torch.equal(torch.cat(turned), quarter_turned(batch["views"].flatten(0, 1), turns, (1, 2)))
    assert _method().compass is None


def test_corruption_is_another_in_each_step_and_view_and_repeats_itself() -> None:
    method, batch = _method(), _batch()
    masks = [torch.stack([part.mask for part in method._draw(batch["views"], step)[1]]) for step in (3, 3, 4)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0][0], masks[0][1])


def test_only_corrupted_voxels_count() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 4, 5, generator=generator).unbind()
    counted = torch.rand(3, 4, 5, generator=generator) < 0.5
    loss = masked_l1(prediction, target, counted)
    torch.testing.assert_close(loss, (prediction - target)[counted].abs().mean())
    assert torch.equal(masked_l1(prediction, target + 9 * ~counted, counted), loss)
    assert masked_l1(prediction, target, torch.zeros_like(counted)) == 0


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (3, 2)])
def test_every_weight_learns_and_the_encoder_loads(dims: int, channels: int) -> None:
    method = _method(dims, channels, registers=1, weights=(1.0, 1.0))
    outputs = method(_batch(dims, channels))
    outputs["loss"].backward()
    assert outputs.keys() == {"loss", "contrast", "reconstruction", "quarter_turns"}
    assert not [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert all(p.grad is None for p in method.teacher.parameters())
    plain = small_vit(dims, channels, registers=1)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    assert torch.equal(plain.tokens, method.encoder.tokens)


def test_the_teacher_follows_exactly() -> None:
    method = _method(momentum=0.9)
    start = [p.clone() for p in method.teacher.parameters()]
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.5)
    method.after_step(51)  # half way: 0.95
    for own, old, live in zip(method.teacher.parameters(), start, method.student.parameters(), strict=True):
        torch.testing.assert_close(own, 0.95 * old + 0.05 * live)


def test_the_whole_state_is_saved() -> None:
    method, batch = _method(), _batch()
    for step in (1, 2):
        method(batch)["loss"].backward()
        method.after_step(step)
    other = _method()
    other.load_state_dict(copy.deepcopy(method.state_dict()), strict=True)
    assert torch.equal(other.eval()(batch)["loss"], method.eval()(batch)["loss"])


@pytest.mark.parametrize("dims", [2, 3])
def test_it_learns_a_fixed_batch(dims: int) -> None:
    losses = learn(_method(dims), _batch(dims), 1e-2)
    assert losses[-1] < 0.9 * losses[0]


def test_bf16_gives_a_finite_loss_and_gradient() -> None:
    method = _method()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(_batch())["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"momentum": 1.5}, "momentum must lie in"),
        ({"weights": (0.0, 0.0)}, "reconstruction must be positive"),
        ({"weights": (1.0, -1.0)}, "turning must be 0 or more"),
        ({"weights": (1.0, 1.0)}, "needs a ViT with a register"),
        ({"corruption": ("zeros", 1.0, 0.3, 1)}, "covered must lie between 0 and 1"),
        ({"corruption": ("zeros", 0.5, 1.0, 1)}, "another image covers must lie in"),
        ({"corruption": ("zeros", 0.5, 0.3, 0)}, "align must be positive"),
    ],
)
def test_wrong_numbers_are_told(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        _method(**given)


def test_views_that_cannot_be_turned_and_cnns_are_refused() -> None:
    method = _method(registers=1, weights=(1.0, 1.0))
    with pytest.raises(ConfigError, match="as long along axis 0 as along axis 1"):
        method({**_batch(), "views": torch.zeros(2, 4, 1, 16, 8)})
    with pytest.raises(ConfigError, match=r"sit needs a ViT encoder, got ResNet; .* use spark"):
        SiT(ResNet(2, 1, depth=10, width=4), steps=10)
