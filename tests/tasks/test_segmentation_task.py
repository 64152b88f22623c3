import math

import numpy as np
import pytest
import torch
from torch import nn

from medssl.data.cache import OUTSIDE
from medssl.tasks.segmentation import SegmentationTask, dice, one_hot, voxel_counts

_SHAPES = {2: (4, 3), 3: (3, 2, 2)}


class Given(nn.Module):
    """Gives the logits it was made with, whatever the image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits


def _case(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(dims)
    logits = torch.randn((2, 3, *_SHAPES[dims]), generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 3, (2, *_SHAPES[dims]), generator=generator)


def _loss(logits: torch.Tensor, label: torch.Tensor, loss: str, ignore: int | None = None) -> torch.Tensor:
    task = SegmentationTask(Given(logits), loss, ignore)
    return task({"image": torch.zeros(1), "label": label})["loss"].detach()


def _oracle(logits: torch.Tensor, label: torch.Tensor, loss: str, ignore: int | None) -> float:
    """Voxel by voxel, in plain Python."""
    entropy, count = 0.0, 0
    shared, both = [0.0] * 3, [0.0] * 3
    for b, *where in np.ndindex(*label.shape):
        value = int(label[(b, *where)])
        if value == ignore:
            continue
        scores = [float(logits[(b, k, *where)]) for k in range(3)]
        if "bce" in loss:
            chance = [1 / (1 + math.exp(-s)) for s in scores]
            entropy -= sum(math.log(p if k == value else 1 - p) for k, p in enumerate(chance)) / 3
        else:
            total = sum(math.exp(s) for s in scores)
            chance = [math.exp(s) / total for s in scores]
            entropy -= math.log(chance[value])
        count += 1
        for k in range(3):
            shared[k] += chance[k] * (k == value)
            both[k] += chance[k] + (k == value)
    overlap = [(2 * s + 1) / (t + 1) for s, t in zip(shared, both, strict=True)]
    if loss == "dice_ce":
        return entropy / count + 1 - sum(overlap[1:]) / 2
    return entropy / count + (1 - sum(overlap) / 3 if loss == "dice_bce" else 0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("loss", ["dice_ce", "ce", "bce", "dice_bce"])
@pytest.mark.parametrize("ignore", [None, 255])
def test_losses_agree_with_a_voxel_by_voxel_oracle(dims: int, loss: str, ignore: int | None) -> None:
    logits, label = _case(dims)
    if ignore is not None:
        label[0, 0] = ignore
    found = float(_loss(logits, label, loss, ignore))
    assert found == pytest.approx(_oracle(logits, label, loss, ignore), abs=1e-5)


@pytest.mark.parametrize("loss", ["dice_ce", "ce", "bce", "dice_bce"])
@pytest.mark.parametrize(("value", "ignore"), [(255, 255), (OUTSIDE, 255), (OUTSIDE, None)])
def test_ignored_voxels_and_those_outside_have_no_gradient(loss: str, value: int, ignore: int | None) -> None:
    logits, label = _case(2)
    label[1, 2, 1] = value
    task = SegmentationTask(Given(logits), loss, ignore)
    task({"image": torch.zeros(1), "label": label})["loss"].backward()
    gradient = task.network.logits.grad
    assert gradient[1, :, 2, 1].abs().max() == 0
    assert gradient[1, :, 2, 0].abs().min() > 0


@pytest.mark.parametrize("loss", ["dice_ce", "ce", "bce", "dice_bce"])
def test_a_certain_right_answer_costs_nothing_and_a_wrong_one_much(loss: str) -> None:
    _, label = _case(3)
    right = 40 * (2 * one_hot(label, 3) - 1)
    assert float(_loss(right, label, loss)) == pytest.approx(0, abs=1e-5)
    assert float(_loss(-right, label, loss)) > 1


def test_counts_and_dice_by_hand() -> None:
    reference = np.array([[1, 1, 0], [2, 0, 255]], np.uint8)
    prediction = np.array([[1, 0, 1], [1, 0, 2]], np.uint8)
    counts = voxel_counts(prediction, reference, [1, 2, 3], ignore=255)
    assert counts.tolist() == [[1, 5], [0, 1], [0, 0]]
    found = dice(counts)
    assert found[:2].tolist() == [0.4, 0.0]
    assert np.isnan(found[2])
    assert voxel_counts(prediction, reference, [2]).tolist() == [[0, 2]]
