"""VoCo: crops and their labels, the loss, the teacher, and that it learns."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from fixed_batch import learn
from small_networks import small_encoder
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.methods.voco import VoCo
from medssl.models.momentum import Teacher
from medssl.models.projectors import PyramidBranch


def _method(dims: int = 2, channels: int = 1, encoder: str = "unet", **given: Any) -> VoCo:
    torch.manual_seed(0)
    grid = (2, 2, 1)[:dims]
    return VoCo(small_encoder(encoder, dims, channels), **{"grid": grid, "head": (16, 8), **given})


def _batch(dims: int = 2, channels: int = 1, size: int = 3) -> dict[str, Tensor]:
    shape = (16, 16, 8)[:dims]
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(size, channels, *shape, generator=generator), "step": torch.tensor(4)}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoder", ["vit", "swin", "resnet", "unet"])
def test_it_runs_on_both_families_and_its_encoder_loads(encoder: str, channels: int, dims: int) -> None:
    method, batch = _method(dims, channels, encoder), _batch(dims, channels)
    method(batch)["loss"].backward()
    assert not [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    plain = small_encoder(encoder, dims, channels)
    plain.load_state_dict(method.encoder_state_dict(), strict=True)
    mine, theirs = (network.eval()(batch["image"])[-1] for network in (method.encoder, plain))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dims", [2, 3])
def test_base_crops_tile_the_image_and_labels_count_voxels(dims: int) -> None:
    """Each voxel of the image holds the number of its cell, so that a crop can be counted."""
    shape, size = (16, 16, 8)[:dims], (8, 8, 8)[:dims]
    numbers = torch.zeros(1, 1, *shape)
    for number, cell in enumerate(itertools.product(*[range(0, n, s) for n, s in zip(shape, size, strict=True)])):
        numbers[(0, 0, *(slice(c, c + s) for c, s in zip(cell, size, strict=True)))] = number
    views, shares = _method(dims, crops=40)._cut(numbers, 4)
    assert views.shape == (1, 44, 1, *size)
    for number in range(4):
        assert (views[0, number] == number).all()
    counted = torch.stack([(views[0, 4:] == number).flatten(1).float().mean(1) for number in range(4)], dim=1)
    torch.testing.assert_close(shares[0], counted)
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 40))


def test_crops_are_mirrored_one_by_one_along_the_axes_asked_for() -> None:
    image = torch.arange(256.0).view(1, 1, 16, 16).expand(200, -1, -1, -1)
    views, _ = _method(flip_axes=(1,))._cut(image, 0)
    base = views[:, 0]
    plain, mirrored = image[0, :, :8, :8], image[0, :, :8, :8].flip(2)
    kinds = torch.stack([(base == kind).flatten(1).all(1) for kind in (plain, mirrored)])
    assert kinds.any(0).all()
    assert kinds[1].float().mean().item() == pytest.approx(0.2, abs=0.08)
    assert torch.equal(_method()._cut(image, 0)[0][:, 0], plain.expand(200, -1, -1, -1))


def test_the_loss_is_that_of_the_code_and_of_the_paper() -> None:
    for kind in ("code", "paper"):
        method, batch = _method(loss=kind).eval(), _batch()
        with torch.no_grad():
            for p in method.teacher.parameters():
                p.add_(0.1)
        views, shares = method._cut(batch["image"], 4)
        total = 0.0
        for sample in range(3):
            student, teacher = (
                F.normalize(network(views[sample]), dim=1) for network in (method.student, method.teacher)
            )
            for crops, bases in ((student[4:], teacher[:4]), (teacher[4:], student[:4])):
                near, far, entropy = [], [], []
                for crop, cell in itertools.product(range(2), range(4)):
                    y, guess = shares[sample, crop, cell].item(), max((crops[crop] @ bases[cell]).item(), 0.0)
                    term = -math.log(1 - abs(y - guess) + 1e-6)
                    near.append(y * term)
                    entropy.append(term)
                    far += [guess**2] if y == 0 else []
                terms = (sum(near) / 2 + sum(far) / max(len(far), 1)) if kind == "code" else sum(entropy) / 8
                total += terms / 2 / 3
            pairs = [(student[a] @ student[b]).item() for a, b in itertools.combinations(range(4), 2)]
            alike = [max(c, 0.0) ** 2 if kind == "code" else abs(c) for c in pairs]
            total += sum(alike) / 6 / 3
        assert method(batch)["loss"].item() == pytest.approx(total, rel=1e-4)


def test_a_batch_in_two_parts_has_the_loss_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = _method(crops=3).eval(), _batch(size=4)
    views, shares = method._cut(batch["image"], 4)
    losses = []
    for rows in (slice(0, 4), slice(0, 2), slice(2, 4)):
        monkeypatch.setattr(method, "_cut", lambda image, step, rows=rows: (views[rows], shares[rows]))
        losses.append(method(batch)["loss"])
    torch.testing.assert_close(losses[0], (losses[1] + losses[2]) / 2)


def test_the_teacher_starts_as_a_copy_and_follows_exactly() -> None:
    method = _method()
    start = [p.clone() for p in method.teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(start, method.student.parameters(), strict=True))
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.5)
    method.after_step(1)
    for own, old, live in zip(method.teacher.parameters(), start, method.student.parameters(), strict=True):
        torch.testing.assert_close(own, 0.9 * old + 0.1 * live)


def test_crops_depend_on_seed_and_step_alone() -> None:
    image = _batch()["image"]
    first = _method(seed=3)._cut(image, 5)
    torch.manual_seed(77)
    assert all(torch.equal(a, b) for a, b in zip(first, _method(seed=3)._cut(image, 5), strict=True))
    assert not torch.equal(first[1], _method(seed=3)._cut(image, 6)[1])
    assert not torch.equal(first[1], _method(seed=4)._cut(image, 5)[1])


def test_all_levels_of_the_pyramid_are_compared() -> None:
    torch.manual_seed(0)
    branch = PyramidBranch(small_encoder("unet", 2), (16, 8)).eval()
    image = _batch()["image"]
    means = torch.cat([level.mean((2, 3)) for level in branch.encoder(image)], dim=1)
    assert means.shape == (3, 12)
    torch.testing.assert_close(branch(image), branch.projector(means))
    assert Teacher(branch)(image).shape == (3, branch.width)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["vit", "swin", "unet"])
def test_it_learns_a_fixed_batch(encoder: str, dims: int) -> None:
    losses = learn(_method(dims, encoder=encoder), _batch(dims), 1e-2)
    assert losses[-1] < 0.7 * losses[0]


def test_bf16_gives_a_finite_loss_and_gradient() -> None:
    method, batch = _method(), _batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(_method()(batch)["loss"].item(), rel=0.1)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_the_whole_state_is_saved() -> None:
    method, batch = _method(), _batch()
    learn(method, batch, 1e-2, steps=2)
    other = _method()
    other.load_state_dict(copy.deepcopy(method.state_dict()), strict=True)
    assert torch.equal(other.eval()(batch)["loss"], method.eval()(batch)["loss"])


def test_the_grid_of_the_paper_is_the_default() -> None:
    assert [VoCo(small_encoder("unet", dims), head=(8, 8)).grid for dims in (2, 3)] == [(4, 4), (4, 4, 1)]


def test_wrong_numbers_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        _method(grid=(1, 1), crops=0, flip_axes=(2,), momentum=1.5, loss="both")
    told = "\n".join(caught.value.problems)
    for part in ("grid needs 2 numbers", "crops must be", "spatial axes below 2", "momentum must lie", "code or paper"):
        assert part in told


def test_a_crop_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not divide into \(2, 2\) base crops"):
        _method()({"image": torch.zeros(2, 1, 15, 16), "step": torch.tensor(0)})
