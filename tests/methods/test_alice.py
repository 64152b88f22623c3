"""Alice: the pairs, the terms of its loss, who gets gradients, and that it learns."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fixed_batch import learn
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.imaging.preprocess import Preprocess
from medssl.losses.distillation import centred_softmax
from medssl.methods.alice import Alice
from medssl.methods.sam import SAM
from medssl.models.resnet import ResNet
from medssl.models.swin import SwinV2
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT
from medssl.models.weights import save_encoder

_UNET = {"features": [8, 16, 16], "blocks": [0, 1, 1]}


def _method(dims: int = 2, channels: int = 1, kind: str = "unet", **given: Any) -> Alice:
    torch.manual_seed(0)
    if kind == "unet":
        encoder = ResidualUNetEncoder(dims, channels, **_UNET)
    elif kind == "resnet":
        encoder = ResNet(dims, channels, depth=10, width=4, small=True)
    else:
        encoder = SwinV2(dims, channels, patch_size=2, width=8, stages=[[2, 2], [2, 2]], window=2)
    small = {"steps": 100, "crop": (16,) * dims, "mask": ("column", 0.75, 4), "head": (16, 8, 16, False)}
    return Alice(encoder, **{**small, **given})


def _batch(dims: int = 2, channels: int = 1, samples: int = 3) -> dict[str, Tensor]:
    image = torch.randn(samples, channels, *[24] * dims, generator=torch.Generator().manual_seed(1))
    return {"image": image, "step": torch.tensor(2), "patient": torch.arange(samples)}


@pytest.mark.parametrize(
    ("dims", "channels", "kind"), [(2, 1, "unet"), (2, 3, "swin"), (3, 2, "unet"), (3, 1, "resnet"), (3, 1, "swin")]
)
def test_it_trains_all_weights_and_leaves_a_plain_encoder(dims: int, channels: int, kind: str) -> None:
    method = _method(dims, channels, kind)
    method(_batch(dims, channels))["loss"].backward()
    trained = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    assert all(p.grad is not None for _, p in trained), [name for name, p in trained if p.grad is None]
    assert not any(name.startswith("teacher") for name, _ in trained)
    fresh = _method(dims, channels, kind)
    fresh.encoder.load_state_dict(method.encoder_state_dict(), strict=True)
    missing, unexpected = fresh.student.decoder.load_state_dict(method.decoder_state_dict(), strict=False)
    assert unexpected == []
    assert all(name.startswith("head.") for name in missing)


def test_the_loss_is_that_of_summaries_across_and_of_places_within_views_and_of_hidden_voxels() -> None:
    method, batch = _method().eval(), _batch()
    method.place_centre.copy_(torch.linspace(-0.5, 0.5, 16))
    pairs, _ = method._pairs(batch)
    hidden = method._hidden(6, 2, pairs.device)
    seen, known = method.student.describe(pairs * ~hidden), method.teacher.network.describe(pairs)
    summary = place = torch.zeros(())
    own, others = method.alignment(seen.coarse, seen.fine), method.alignment(seen.coarse, known.fine)
    for n in range(6):
        target = centred_softmax(known.summary[n], method.centre, 0.01)
        summary = summary - (target * torch.log_softmax(seen.summary[(n + 3) % 6] / 0.1, -1)).sum() / 6
        for token in range(16):
            target = torch.softmax((others[n, token] - method.place_centre) / 0.01, -1).detach()
            place = place - (target * torch.log_softmax(own[n, token] / 0.1, -1)).sum() / 96
    chosen = hidden.expand_as(pairs)
    error = (seen.image[chosen] - pairs[chosen]).square().mean()
    found = method(batch)
    torch.testing.assert_close(found["summary_loss"], summary)
    torch.testing.assert_close(found["place_loss"], place)
    torch.testing.assert_close(found["reconstruction"], error)
    torch.testing.assert_close(found["loss"], summary + place + 10 * error)


def test_all_voxels_count_where_the_code_of_the_authors_is_asked_for() -> None:
    method, batch = _method(recon_region="all", weights=(1.0, 2.0, 5.0)).eval(), _batch()
    pairs, _ = method._pairs(batch)
    seen = method.student.describe(pairs * ~method._hidden(6, 2, pairs.device))
    found = method(batch)
    torch.testing.assert_close(found["reconstruction"], (seen.image - pairs).square().mean())
    terms = found["summary_loss"] + 2 * found["place_loss"] + 5 * found["reconstruction"]
    torch.testing.assert_close(found["loss"], terms)
    assert not torch.isclose(found["reconstruction"], _method().eval()(batch)["reconstruction"])


def test_without_a_matcher_nothing_is_said_to_be_matched_and_a_note_says_how_pairs_are_made(tmp_path: Path) -> None:
    plain, matched = _method(), _method(matcher=str(_sam_run(tmp_path / "sam")))
    assert "matched" not in plain(_batch())
    assert 0 <= matched(_batch())["matched"] <= 1
    (note,) = plain.notes(10)
    assert "paired by where they lie in the source crops" in note
    assert matched.notes(10) == []


@pytest.mark.parametrize(("weights", "learns"), [((1.0, 0.0, 10.0), False), ((0.0, 1.0, 0.0), True)])
def test_the_alignment_learns_from_places_alone(weights: tuple[float, ...], learns: bool) -> None:
    method = _method(weights=weights)
    method(_batch())["loss"].backward()
    assert any(bool(p.grad.any()) for p in method.alignment.parameters()) == learns
    assert all(p.grad is None for p in method.teacher.parameters())


def test_without_a_mask_student_and_teacher_say_the_same_of_places() -> None:
    method = _method().eval()
    pairs, _ = method._pairs(_batch())
    seen, known = method.student.describe(pairs), method.teacher.network.describe(pairs)
    assert torch.equal(method.alignment(seen.coarse, seen.fine), method.alignment(seen.coarse, known.fine))


@pytest.mark.parametrize(("kind", "dims"), [("column", 2), ("column", 3), ("block", 3)])
def test_the_mask_hides_its_share_in_whole_blocks(kind: str, dims: int) -> None:
    method = _method(dims, mask=(kind, 0.75, 4))
    hidden = method._hidden(5, 1, torch.device("cpu"))
    assert hidden.shape == (5, 1, *[16] * dims)
    assert (hidden.flatten(1).float().mean(1) == 0.75).all()
    cells = torch.nn.functional.avg_pool2d(hidden[:, 0].float() if dims == 2 else hidden[:, 0, ..., 0].float(), 4)
    assert ((cells == 0) | (cells == 1)).all()
    same = dims == 2 or bool((hidden == hidden[..., :1]).all())
    assert same == (kind == "column")
    assert not torch.equal(hidden[0], hidden[1])


def test_uniform_summaries_cost_the_logarithm_of_the_prototypes() -> None:
    method = _method(head=(16, 8, 512, False)).eval()
    for network in (method.student, method.teacher.network):
        network.projector.prototypes.weight.data.fill_(1.0)
    assert float(method(_batch())["summary_loss"].detach()) == pytest.approx(math.log(512), abs=1e-4)


def _sam_run(folder: Path, dims: int = 2, channels: int = 1) -> Path:
    """A run of SAM with random weights: they tell places of white noise apart."""
    torch.manual_seed(1)
    method = SAM(ResidualUNetEncoder(dims, channels, **_UNET), width=16)
    meta = {
        "encoder": {"class_path": "medssl.models.unet.ResidualUNetEncoder", "init_args": _UNET},
        "method": {"class_path": "medssl.methods.sam.SAM", "init_args": {}},
        "preprocess": Preprocess(spatial_dims=dims).to_json(),
        "channels": ["a"] * channels,
    }
    folder.mkdir()
    save_encoder(folder / "encoder.safetensors", method.encoder_state_dict(), method.decoder_state_dict(), meta)
    return folder


@pytest.mark.parametrize("dims", [2, 3])
def test_the_matcher_finds_the_same_place_in_a_moved_patient(tmp_path: Path, dims: int) -> None:
    body = torch.randn(1, 1, *[40] * dims, generator=torch.Generator().manual_seed(0))
    first = (..., *[slice(0, 32)] * dims)
    moved = (..., *[slice(4, 36)] * dims)
    image = torch.cat([body[first], body[moved]])
    method, plain = _method(dims, matcher=str(_sam_run(tmp_path / "sam", dims))), _method(dims)
    inner, axes = (..., *[slice(1, 15)] * dims), tuple(range(-dims, 0))

    def alike(method: Alice) -> float:
        """Share of pairs that show the same place, to a voxel: places are found on a grid of 2."""
        found = []
        for step in range(5):
            pairs, sure = method._pairs({"image": image, "step": torch.tensor(step), "patient": torch.arange(2)})
            assert (sure is None) == (method is plain)
            assert sure is None or sure.all()
            for own, other in zip(pairs[:2], pairs[2:], strict=True):
                shifts = itertools.product((-1, 0, 1), repeat=dims)
                found.append(any(torch.equal(own.roll(shift, axes)[inner], other[inner]) for shift in shifts))
        return sum(found) / len(found)

    assert alike(method) > 0.4
    assert alike(plain) == 0
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert not any(name.startswith("matcher") for name in trained)
    assert not method.train().matcher.training


def test_it_learns_a_fixed_batch_and_its_state_is_whole() -> None:
    method, batch = _method(), _batch()
    losses = learn(method, batch, 3e-3)
    assert sum(losses[-10:]) < sum(losses[:10])
    fresh = _method()
    fresh.load_state_dict(method.state_dict())
    torch.testing.assert_close(fresh.eval()(batch)["loss"], method.eval()(batch)["loss"])


def test_bf16_is_finite() -> None:
    method = _method()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(_batch())["loss"]
    loss.backward()
    assert loss.isfinite()


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _method(crop=(16,), mask=("column", 1.5, 0), head=(16, 8, 20, False))
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match=r"place_loss must be 0 or more.*\n?.*recon_region must be masked or all"):
        _method(weights=(1.0, -1.0, 10.0), recon_region="hidden")
    with pytest.raises(ConfigError, match="does not divide into blocks of 5"):
        _method(mask=("block", 0.75, 5))
    with pytest.raises(ConfigError, match="2D images of 2 channel"):
        _method(matcher=str(_sam_run(tmp_path / "sam", 2, 2)))
    with pytest.raises(ConfigError, match="do not fit into"):
        _method(crop=(32, 32))(_batch())
    with pytest.raises(ConfigError):
        Alice(ViT(2, 1, patch_size=4, width=12, depth=1, heads=2), steps=3, crop=(16, 16), mask=("block", 0.5, 4))


def test_batch_norm_in_the_head_is_over_the_places_of_all_crops() -> None:
    method = _method(head=(16, 8, 16, True))
    branch = method.student
    tokens = torch.randn(3, 5, branch.encoder.feature_channels[-1])
    together = branch._of_places(tokens)
    apart = branch.places(branch.projector.mlp(tokens.reshape(15, -1)))
    torch.testing.assert_close(together, apart.view(3, 5, -1))
    loss = method(_batch())["loss"]
    loss.backward()
    norms = [m for m in branch.projector.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert len(norms) == 2
    assert all(norm.weight.grad.abs().sum() > 0 for norm in norms)
