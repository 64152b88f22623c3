"""Losses of dense prediction against closed forms and loops over voxels."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.losses.segmentation import binary_cross_entropy, cross_entropy, dice_bce, dice_ce, soft_dice

_SHAPES = [(6, 5), (4, 3, 2)]


def _draw(shape: tuple[int, ...], classes: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(batch, classes, *shape, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (batch, *shape), generator=generator)


def _oracle(logits: Tensor, target: Tensor, ignore: int | None, batch: bool) -> float:
    """Dice and cross-entropy with loops in float64 numpy."""
    scores, labels = logits.double().numpy(), target.numpy()
    classes = scores.shape[1]
    entropy, voxels = 0.0, 0
    sums = np.zeros((scores.shape[0], classes, 3))
    for place in np.ndindex(*labels.shape):
        if labels[place] == ignore:
            continue
        column = scores[(place[0], slice(None), *place[1:])]
        probability = np.exp(column) / np.exp(column).sum()
        entropy -= math.log(probability[labels[place]])
        voxels += 1
        for k in range(classes):
            sums[place[0], k] += (probability[k] * (labels[place] == k), probability[k], labels[place] == k)
    if batch:
        sums = sums.sum(0, keepdims=True)
    dice = (2 * sums[..., 0] + 1) / (sums[..., 1] + sums[..., 2] + 1)
    return entropy / max(voxels, 1) + 1 - float(dice[:, 1:].mean())


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("ignore", [None, 2, 255])
@pytest.mark.parametrize("batch", [True, False])
def test_dice_ce_equals_loops(shape: tuple[int, ...], ignore: int | None, batch: bool):
    logits, target = _draw(shape)
    if ignore == 255:
        target[:, 0] = 255
    assert dice_ce(logits, target, ignore, batch).item() == pytest.approx(
        _oracle(logits, target, ignore, batch), rel=1e-5
    )


@pytest.mark.parametrize("shape", _SHAPES)
def test_dice_ce_closed_forms(shape: tuple[int, ...]):
    _, target = _draw(shape)
    sure = 60.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert dice_ce(sure, target).item() == pytest.approx(0, abs=1e-5)
    one = torch.ones_like(target)
    voxels = one.numel()
    even = (2 * voxels / 3 + 1) / (voxels / 3 + voxels + 1), 1 / (voxels / 3 + 1)  # classes 1 and 2 at probability 1/3
    expected = math.log(3) + 1 - sum(even) / 2
    assert dice_ce(torch.zeros(2, 3, *shape), one).item() == pytest.approx(expected, rel=1e-5)


def test_ignored_voxels_have_no_gradient():
    logits, target = _draw((6, 5))
    target[0, 2:4] = 255
    logits.requires_grad_()
    dice_ce(logits, target, 255).backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, 2:4] == 0).all()
    assert (logits.grad[0, :, :2] != 0).all()


@pytest.mark.parametrize("loss", [dice_ce, cross_entropy])
def test_nothing_counts(loss):
    logits, target = torch.randn(2, 3, 4, 4, requires_grad=True), torch.full((2, 4, 4), 255)
    value = loss(logits, target, 255)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert (logits.grad == 0).all()


def test_batch_dice_differs_from_the_mean_of_samples():
    probability = torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]]])
    target = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]])
    counted = torch.ones(2, 1, 2)
    assert soft_dice(probability, target, counted).tolist() == pytest.approx([3 / 5])
    assert soft_dice(probability, target, counted, batch=False).tolist() == [
        pytest.approx([1.0]),
        pytest.approx([1 / 3]),
    ]


@pytest.mark.parametrize("shape", _SHAPES)
def test_dice_bce_equals_loops(shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, *shape, generator=generator)
    target = (torch.rand(2, 2, *shape, generator=generator) < 0.3).float()
    counted = torch.rand(2, *shape, generator=generator) < 0.7
    probability = (1 / (1 + np.exp(-logits.double().numpy()))).astype(np.float64)
    entropy, sums, voxels = 0.0, np.zeros((2, 3)), 0
    for place in np.ndindex(*counted.shape):
        if not counted[place]:
            continue
        voxels += 1
        for k in range(2):
            p, t = probability[(place[0], k, *place[1:])], target[(place[0], k, *place[1:])].item()
            entropy -= t * math.log(p) + (1 - t) * math.log(1 - p)
            sums[k] += (p * t, p, t)
    dice = (2 * sums[:, 0] + 1) / (sums[:, 1] + sums[:, 2] + 1)
    expected = entropy / voxels / 2 + 1 - dice.mean()
    assert dice_bce(logits, target, counted).item() == pytest.approx(expected, rel=1e-5)
    assert binary_cross_entropy(logits, target, counted).item() == pytest.approx(entropy / voxels / 2, rel=1e-5)


def test_binary_cross_entropy_of_no_opinion_is_log_two():
    assert binary_cross_entropy(torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("classes", [2, 5])
def test_losses_are_finite_in_bf16(classes: int):
    logits, target = _draw((8, 8), classes)
    for value in (
        dice_ce(logits.bfloat16() * 100, target),
        cross_entropy(logits.bfloat16() * 100, target),
        dice_bce(logits.bfloat16() * 100, torch.ones_like(logits)),
    ):
        assert torch.isfinite(value)
        assert value.dtype == torch.float32
