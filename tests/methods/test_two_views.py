"""What holds for every method that compares two views."""

import copy
import math
from typing import Any

import pytest
import torch
from fixed_batch import learn
from small_view_methods import SMALL
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.losses.agreement import barlow_twins, cosine_distance, negative_cosine, vicreg_terms
from medssl.losses.contrastive import batch_info_nce, nt_xent, queue_info_nce
from medssl.losses.distillation import sinkhorn
from medssl.methods.barlow_twins import BarlowTwins
from medssl.methods.base import Method
from medssl.methods.byol import BYOL
from medssl.methods.dino import DINO
from medssl.methods.moco_v2 import MoCoV2
from medssl.methods.moco_v3 import MoCoV3
from medssl.methods.simclr import SimCLR
from medssl.methods.simsiam import SimSiam
from medssl.methods.swav import SwAV
from medssl.methods.vicreg import VICReg
from medssl.models.encoder import Encoder
from medssl.models.projectors import DINOHead
from medssl.models.resnet import ResNet
from medssl.models.swin import SwinV2
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT

_METHODS = list(SMALL)
_TAUGHT = [MoCoV2, MoCoV3, BYOL, DINO]


def _encoder(kind: str, dims: int, channels: int) -> Encoder:
    if kind == "vit":
        return ViT(dims, channels, patch_size=4, width=12, depth=2, heads=2)
    if kind == "swin":
        return SwinV2(dims, channels, patch_size=2, width=8, stages=[[2, 2], [1, 2]], window=3)
    if kind == "resnet":
        return ResNet(dims, channels, depth=10, width=4, small=True)
    return ResidualUNetEncoder(dims, channels, features=(4, 8), blocks=(0, 1))


def _method(kind: type[Method], dims: int = 2, channels: int = 1, encoder: str = "cnn", **given: Any) -> Method:
    torch.manual_seed(0)
    return kind(_encoder(encoder, dims, channels), **{**SMALL[kind], **given})


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
@pytest.mark.parametrize(("channels", "encoder"), [(1, "vit"), (2, "cnn"), (4, "resnet"), (1, "swin")])
def test_every_method_runs_on_both_families_and_its_encoder_loads(
    kind: type[Method], dims: int, channels: int, encoder: str
) -> None:
    method = _method(kind, dims, channels, encoder)
    outputs = method(_batch(dims, channels))
    outputs["loss"].backward()
    assert outputs["loss"].shape == ()
    trained = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not trained
    plain = _encoder(encoder, dims, channels)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    image = _batch(dims, channels)["image"]
    assert torch.isfinite(plain.eval()(image)[-1]).all()


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
    method, batch = _method(kind, **({"queue": 0} if kind is SwAV else {})).eval(), _batch()
    swapped = {**batch, "views": batch["views"].flip(0)}
    torch.testing.assert_close(method(batch)["loss"], method(swapped)["loss"])


@pytest.mark.parametrize("kind", _METHODS)
def test_bounded_weights_take_one_pass_a_view(kind: type[Method]) -> None:
    torch.manual_seed(0)
    method = kind(ViT(2, 1, patch_size=4, width=12, depth=1, heads=2, attention="sigma"), **SMALL[kind])
    batch = _batch()
    if method.local_views:
        batch["local_views"] = batch["views"][..., :4, :4]
    outputs = method.train()(batch)
    outputs["loss"].backward()
    assert torch.isfinite(outputs["loss"])


@pytest.mark.parametrize("kind", _METHODS)
def test_a_loss_that_compares_samples_says_so(kind: type[Method]) -> None:
    method, batch = _method(kind, **({"queue": 0} if kind is SwAV else {})).eval(), _batch()
    apart = 0.0
    for rows in (slice(0, 4), slice(4, 8)):
        half = {"views": batch["views"][:, rows], "patient": batch["patient"][rows], "step": batch["step"]}
        apart += float(method(half)["loss"].detach()) / 2
    assert (float(method(batch)["loss"].detach()) == pytest.approx(apart, rel=1e-5)) != method.over_batch


@pytest.mark.parametrize("kind", _METHODS)
def test_it_learns_a_fixed_batch(kind: type[Method]) -> None:
    method, batch = _method(kind), _batch()
    # a queue of this very batch holds its partners; a moving centre moves the goal
    losses = learn(method, batch, 1e-2, follow=kind not in (MoCoV2, DINO))
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


@pytest.mark.parametrize(("step", "left"), [(1, 1.0), (51, 0.5), (101, 0.0)])
@pytest.mark.parametrize("kind", _TAUGHT)
def test_the_teacher_follows_exactly_and_gets_no_gradient(kind: type[Method], step: int, left: float) -> None:
    """Of 100 steps; `left` is the share of the way to a momentum of 1 that is not yet gone, half a cosine."""
    method: Any = _method(kind)
    momentum = method.momentum if kind is MoCoV2 else 1 - left * (1 - method.momentum)
    start = [p.clone() for p in method.teacher.parameters()]
    method(_batch())["loss"].backward()
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.5)
    method.after_step(step)
    for own, old, live in zip(method.teacher.parameters(), start, method.student.parameters(), strict=True):
        torch.testing.assert_close(own, momentum * old + (1 - momentum) * live)
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


def _views(method: Any, batch: dict[str, Tensor], name: str) -> list[Tensor]:
    return [method.student(view) for view in batch[name]]


def _with_local(batch: dict[str, Tensor], count: int = 3) -> dict[str, Tensor]:
    return {**batch, "local_views": torch.randn(count, 8, 1, 4, 4, generator=torch.Generator().manual_seed(2))}


def test_dino_compares_each_teacher_view_with_every_other_view() -> None:
    method: Any = _method(DINO).eval()
    batch = _with_local(_batch())
    batch["progress"] = torch.tensor(0.05)
    method.centre.copy_(torch.linspace(-0.2, 0.2, 12))
    students = _views(method, batch, "views") + _views(method, batch, "local_views")
    total, terms = torch.zeros(()), 0
    for number, view in enumerate(batch["views"]):
        target = ((method.teacher(view) - method.centre) / 0.055).softmax(-1)  # half way through the warm-up
        for other, student in enumerate(students):
            if other != number:
                total, terms = total - (target * (student / 0.1).log_softmax(-1)).sum(-1).mean(), terms + 1
    assert terms == 2 * (5 - 1)
    torch.testing.assert_close(method(batch)["loss"], total / terms)


def test_a_teacher_without_an_opinion_is_told() -> None:
    method, batch = _method(DINO, head=(8, 8, 12)).eval(), _batch()
    assert method.trouble({name: float(value.detach()) for name, value in method(batch).items()}) == ""
    for parameter in method.teacher.network.encoder.parameters():
        parameter.data.zero_()
    method.centre.copy_(method.teacher(batch["views"][0])[0])
    logs = {name: float(value.detach()) for name, value in method(batch).items()}
    assert logs["teacher_entropy"] == pytest.approx(math.log(12))
    assert "a lower temperature of the teacher" in method.trouble(logs)


def test_a_teacher_with_one_opinion_of_all_images_is_told() -> None:
    method, batch = _method(DINO, head=(8, 8, 12)).eval(), _batch()
    method.centre[3] = -100.0
    logs = {name: float(value.detach()) for name, value in method(batch).items()}
    assert logs["teacher_usage"] == pytest.approx(0, abs=1e-6)
    assert "one prototype" in method.trouble(logs)
    sure = {"teacher_entropy": 0.0, "teacher_usage": math.log(8)}  # of each image, but not the same
    assert method.trouble(sure) == ""


def test_the_centre_takes_in_what_the_teacher_said_in_the_step() -> None:
    method: Any = _method(DINO)
    batch = _batch()
    method.eval()(batch)
    method.train()(batch)
    logits = method.teacher(batch["views"].flatten(0, 1))
    method.after_step(1)
    torch.testing.assert_close(method.centre, 0.1 * logits.mean(0), atol=1e-5, rtol=1e-4)


def test_batch_norm_in_the_head_tells_samples_apart_that_were_nearly_alike() -> None:
    """Without it the teacher of a fresh network names one distribution for all: nothing to learn."""
    nearly = torch.randn(1, 8) + 0.01 * torch.randn(32, 8)
    spread = {}
    for norm in (False, True):
        torch.manual_seed(0)
        head = DINOHead(8, 16, 8, 12, norm=norm)
        assert sum(isinstance(layer, torch.nn.BatchNorm1d) for layer in head.modules()) == 2 * norm
        assert isinstance(head.mlp[-1], torch.nn.Linear)
        spread[norm] = float(head(nearly).detach().std(0).mean())
    assert spread[True] > 10 * spread[False]
    assert any(isinstance(part, torch.nn.BatchNorm1d) for part in _method(DINO, head_norm=True).teacher.modules())


def test_prototypes_are_held_still_at_first() -> None:
    dino: Any = _method(DINO, schedule=(0.9, 0.1, 0.5))
    dino(_batch())["loss"].backward()
    weight = dino.student.projector.prototypes.weight
    dino.before_step(50)
    assert weight.grad is not None
    dino.before_step(49)
    assert weight.grad is None
    swav: Any = _method(SwAV, shares=(0.5, 1.0))
    swav(_batch())["loss"].backward()
    for step, held in ((50, False), (49, True)):
        swav.before_step(step)
        assert (swav.prototypes.weight.grad is None) == held


def test_swav_predicts_the_balanced_assignment_of_each_other_view() -> None:
    method: Any = _method(SwAV, queue=0).eval()
    batch = _with_local(_batch())
    scores = [method.prototypes(z) for z in _views(method, batch, "views") + _views(method, batch, "local_views")]
    total = torch.zeros(())
    for number in range(2):
        target = sinkhorn(scores[number].detach(), 0.05)
        for other in range(5):
            if other != number:
                total = total - (target * (scores[other] / 0.1).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(method(batch)["loss"], total / 8)


def test_the_queue_of_swav_takes_part_once_it_is_due() -> None:
    method: Any = _method(SwAV, shares=(0.0, 0.5))
    without = _method(SwAV, queue=0, shares=(0.0, 0.5))
    without.load_state_dict({n: t for n, t in method.state_dict().items() if not n.startswith("queues")})
    early, late = ({**_batch(), "progress": torch.tensor(p)} for p in (0.4, 0.6))
    torch.testing.assert_close(method.eval()(early)["loss"], without.eval()(early)["loss"])
    assert method(late)["loss"] != without(late)["loss"]


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
        (SwAV, {"queue": 12}, "whole number of batches of 8"),
        (DINO, {"schedule": (0.9, 2.0, 0.0)}, "warmup must lie in"),
        (DINO, {"temperatures": (0.1, 0.0, 0.07)}, "temperatures must be positive"),
    ],
)
def test_wrong_numbers_are_told(kind: type[Method], given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        _method(kind, **given)
