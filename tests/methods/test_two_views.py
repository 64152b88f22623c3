"""What holds for every method that compares two views."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.losses.agreement import barlow_twins, cosine_distance, negative_cosine, vicreg_terms
from medssl.losses.contrastive import batch_info_nce, nt_xent, queue_info_nce
from medssl.methods.barlow_twins import BarlowTwins
from medssl.methods.base import Method
from medssl.methods.byol import BYOL
from medssl.methods.moco_v2 import MoCoV2
from medssl.methods.moco_v3 import MoCoV3
from medssl.methods.simclr import SimCLR
from medssl.methods.simsiam import SimSiam
from medssl.methods.vicreg import VICReg
from medssl.models.encoder import Encoder
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT

_SMALL: dict[type[Method], dict[str, Any]] = {
    SimCLR: {"hidden": 16, "width": 8},
    MoCoV2: {"batch_size": 8, "queue": 16, "hidden": 16, "width": 8},
    MoCoV3: {"steps": 100, "hidden": 16, "width": 8},
    BYOL: {"steps": 100, "hidden": 16, "width": 8},
    SimSiam: {"hidden": 16, "bottleneck": 8},
    BarlowTwins: {"width": 16},
    VICReg: {"width": 16},
}
_METHODS = list(_SMALL)
_TAUGHT = [MoCoV2, MoCoV3, BYOL]


def _encoder(kind: str, dims: int, channels: int) -> Encoder:
    if kind == "vit":
        return ViT(dims, channels, patch_size=4, width=12, depth=2, heads=2)
    return ResidualUNetEncoder(dims, channels, features=(4, 8), blocks=(0, 1))


def _method(kind: type[Method], dims: int = 2, channels: int = 1, encoder: str = "cnn", **given: Any) -> Method:
    torch.manual_seed(0)
    return kind(_encoder(encoder, dims, channels), **{**_SMALL[kind], **given})


def _batch(dims: int = 2, channels: int = 1, size: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(size, channels, *[8] * dims, generator=generator)
    views = image + 0.3 * torch.randn(2, *image.shape, generator=generator)
    numbers = torch.arange(size)
    return {"image": image, "views": views, "step": torch.tensor(0), "index": numbers, "patient": numbers}


def _embeddings(method: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    first, second = batch["views"]
    found = {"first": method.student(first), "second": method.student(second)}
    if hasattr(method, "teacher"):
        found |= {"key_first": method.teacher(first), "key_second": method.teacher(second)}
    if hasattr(method, "predictor"):
        found |= {f"predicted_{name}": method.predictor(found[name]) for name in ("first", "second")}
    return found


@pytest.mark.parametrize("kind", _METHODS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("channels", "encoder"), [(1, "vit"), (2, "cnn"), (4, "vit")])
def test_every_method_runs_on_both_families_and_its_encoder_loads(
    kind: type[Method], dims: int, channels: int, encoder: str
) -> None:
    method = _method(kind, dims, channels, encoder)
    outputs = method(_batch(dims, channels))
    outputs["loss"].backward()
    assert outputs["loss"].shape == ()
    trained = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert all(name.startswith(("student.encoder.tokens", "student.encoder.norm")) for name in trained), trained
    plain = _encoder(encoder, dims, channels)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    image = _batch(dims, channels)["image"]
    torch.testing.assert_close(plain.eval()(image)[-1], method.eval().encoder(image)[-1])


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        (SimCLR, lambda m, e: nt_xent(e["first"], e["second"], m.temperature)),
        (MoCoV2, lambda m, e: queue_info_nce(e["first"], e["key_second"], m.queue.keys, m.temperature)),
        (
            MoCoV3,
            lambda m, e: (
                batch_info_nce(e["predicted_first"], e["key_second"], m.temperature)
                + batch_info_nce(e["predicted_second"], e["key_first"], m.temperature)
            ),
        ),
        (
            BYOL,
            lambda _, e: (
                cosine_distance(e["predicted_first"], e["key_second"])
                + cosine_distance(e["predicted_second"], e["key_first"])
            ),
        ),
        (
            SimSiam,
            lambda _, e: (
                negative_cosine(e["predicted_first"], e["second"]) / 2
                + negative_cosine(e["predicted_second"], e["first"]) / 2
            ),
        ),
        (BarlowTwins, lambda m, e: barlow_twins(e["first"], e["second"], m.off_diagonal)[0]),
        (
            VICReg,
            lambda m, e: sum(
                w * t for w, t in zip(m.weights.values(), vicreg_terms(e["first"], e["second"]), strict=True)
            ),
        ),
    ],
)
def test_the_loss_is_that_of_the_paper(kind: type[Method], oracle) -> None:
    method, batch = _method(kind).eval(), _batch()
    torch.testing.assert_close(method(batch)["loss"], oracle(method, _embeddings(method, batch)))


@pytest.mark.parametrize("kind", [m for m in _METHODS if m is not MoCoV2])
def test_the_order_of_the_views_does_not_matter(kind: type[Method]) -> None:
    method, batch = _method(kind).eval(), _batch()
    swapped = {**batch, "views": batch["views"].flip(0)}
    torch.testing.assert_close(method(batch)["loss"], method(swapped)["loss"])


@pytest.mark.parametrize("kind", _METHODS)
def test_it_learns_a_fixed_batch(kind: type[Method]) -> None:
    method, batch = _method(kind), _batch()
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 1e-2)
    losses = []
    for step in range(1, 41):
        loss = method(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if kind is not MoCoV2:  # a queue of this very batch would turn its partners into negatives
            method.after_step(step)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02 * abs(losses[0])
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("kind", _METHODS)
def test_bf16_gives_a_finite_loss_and_gradient(kind: type[Method]) -> None:
    method = _method(kind)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(_batch())["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", _TAUGHT)
def test_the_teacher_follows_exactly_and_gets_no_gradient(kind: type[Method]) -> None:
    method: Any = _method(kind)
    start = [p.clone() for p in method.teacher.parameters()]
    method(_batch())["loss"].backward()
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.5)
    method.after_step(1)
    for own, old, live in zip(method.teacher.parameters(), start, method.student.parameters(), strict=True):
        torch.testing.assert_close(own, method.momentum * old + (1 - method.momentum) * live)
        assert own.grad is None
    names = [name for name, _ in method.teacher.named_parameters()]
    assert not any("predictor" in name for name in names)


@pytest.mark.parametrize("kind", _METHODS)
def test_the_whole_state_is_saved(kind: type[Method]) -> None:
    method, batch = _method(kind), _batch()
    for step in (1, 2):
        method(batch)["loss"].backward()
        method.after_step(step)
    other = _method(kind)
    other.load_state_dict(copy.deepcopy(method.state_dict()), strict=True)
    torch.testing.assert_close(other.eval()(batch)["loss"], method.eval()(batch)["loss"], rtol=0, atol=0)


def test_samples_of_one_patient_are_negatives_only_where_asked_for() -> None:
    batch = {**_batch(), "patient": torch.arange(8) // 2}
    without, with_them = (_method(SimCLR, same_patient=given).eval()(batch)["loss"] for given in (False, True))
    assert without < with_them
    apart = _method(SimCLR).eval()(_batch())["loss"]
    torch.testing.assert_close(apart, with_them)


def test_the_queue_gets_the_keys_after_the_step_and_none_in_eval_mode() -> None:
    method: Any = _method(MoCoV2)
    before = method.queue.keys.clone()
    method.eval()(_batch())
    method.train()(_batch())
    assert torch.equal(method.queue.keys, before)
    keys = torch.nn.functional.normalize(method.teacher(_batch()["views"][1]), dim=1)
    method.after_step(1)
    torch.testing.assert_close(method.queue.keys[:8], keys, atol=1e-2, rtol=1e-2)
    assert torch.equal(method.queue.keys[8:], before[8:])
    assert method.queue.pointer == 8


def test_a_batch_in_two_parts_fills_the_queue_as_a_whole_one() -> None:
    whole: Any = _method(MoCoV2)
    parts: Any = _method(MoCoV2)
    batch = _batch()
    loss = whole(batch)["loss"]
    halves = [parts({**batch, "views": batch["views"][:, rows]})["loss"] for rows in (slice(4), slice(4, 8))]
    torch.testing.assert_close(sum(halves) / 2, loss)
    for method in (whole, parts):
        method.after_step(1)
    torch.testing.assert_close(parts.queue.keys, whole.queue.keys)


def test_a_frozen_patch_embedding_stays() -> None:
    method: Any = _method(MoCoV3, encoder="vit", freeze_patch_embedding=True)
    method(_batch())["loss"].backward()
    assert all(p.grad is None for p in method.encoder.patch_embed.parameters())


@pytest.mark.parametrize(
    ("kind", "given", "part"),
    [
        (SimCLR, {"temperature": 0.0}, "temperature must be positive"),
        (MoCoV2, {"queue": 12}, "whole number of batches of 8"),
        (MoCoV2, {"momentum": 1.5}, "momentum must lie in"),
        (MoCoV3, {"freeze_patch_embedding": True}, "needs a ViT"),
        (BYOL, {"momentum": -0.1}, "momentum must lie in"),
        (SimSiam, {"bottleneck": 0}, "bottleneck must lie between"),
        (BarlowTwins, {"off_diagonal": -1.0}, "off_diagonal must be 0 or more"),
        (VICReg, {"variance": -1.0}, "variance must be 0 or more"),
    ],
)
def test_wrong_numbers_are_told(kind: type[Method], given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        _method(kind, **given)
