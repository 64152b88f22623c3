"""Stains are taken apart and put together as Beer and Lambert say."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from medssl.data.augment import Augmentation
from medssl.data.augment_options import NO_AUGMENTATION, AugmentOptions
from medssl.data.stain import jitter_stain
from medssl.imaging.preprocess import Intensity

_COLOURS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def _section(amounts: np.ndarray) -> torch.Tensor:
    """A picture (1, 3, pixels, 1) in which each stain has taken by `amounts` (pixels, 3)."""
    light = np.exp(-amounts @ (_COLOURS / np.linalg.norm(_COLOURS, axis=1, keepdims=True)))
    return torch.tensor(2 * light - 1, dtype=torch.float32).T[None, :, :, None]


@pytest.mark.parametrize("dims", [2, 3])
def test_no_change_gives_the_picture_back(dims: int):
    image = torch.rand(2, 3, *[5] * dims, generator=torch.Generator().manual_seed(0)) * 1.9 - 0.9
    same = jitter_stain(image, torch.ones(2, 3), torch.zeros(2, 3))
    torch.testing.assert_close(same, image, atol=1e-5, rtol=0)


def test_each_stain_is_multiplied_and_moved():
    amounts = np.array([[0.2, 0.5, 0.1], [1.0, 0.1, 0.0], [0.0, 0.0, 0.0]])
    factor, offset = np.array([1.2, 0.8, 1.0]), np.array([0.1, 0.0, 0.05])
    changed = jitter_stain(_section(amounts), *torch.tensor(np.stack([factor, offset])).float()[:, None])
    torch.testing.assert_close(changed, _section(amounts * factor + offset), atol=1e-5, rtol=0)


def test_white_stays_white_when_nothing_is_added_and_light_stays_within_bounds():
    white = torch.ones(1, 3, 2, 2)
    strong, none = torch.full((1, 3), 1.2), torch.zeros(1, 3)
    torch.testing.assert_close(jitter_stain(white, strong, none), white, atol=1e-5, rtol=0)
    any_colour = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    changed = jitter_stain(any_colour, torch.full((4, 3), 0.8), torch.full((4, 3), -0.2))
    assert changed.isfinite().all()
    assert changed.min() >= -1
    assert changed.max() <= 1


def test_it_is_drawn_for_a_share_of_the_samples_within_the_strength():
    off = {**NO_AUGMENTATION, "stain_p": 0.5}
    image = _section(np.array([[0.6, 0.4, 0.2]])).expand(200, -1, -1, -1)
    batch = {"image": image, "index": torch.arange(200), "spacing_mm": torch.ones(200, 2, dtype=torch.float64)}
    varied = Augmentation(AugmentOptions(**off, stain=0.1), seed=0)(batch)["image"]
    touched = (varied != image).flatten(1).any(1)
    assert 70 < int(touched.sum()) < 130
    density = -((varied + 1) / 2).log()[:, :, 0, 0].double().numpy()
    amounts = density @ np.linalg.inv(_COLOURS / np.linalg.norm(_COLOURS, axis=1, keepdims=True))
    reach = 0.1 * np.array([0.6, 0.4, 0.2]) + 0.1
    assert (np.abs(amounts - [0.6, 0.4, 0.2]) < reach + 1e-4).all()
    assert amounts[touched.numpy()].std(axis=0).min() > reach.min() / 4


def test_earlier_draws_are_the_same_with_it():
    batch = {"image": torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0)), "index": torch.arange(3)}
    batch["spacing_mm"] = torch.ones(3, 2, dtype=torch.float64)
    options = AugmentOptions(affine_p=1.0, noise_p=0.0, elastic_p=1.0)
    moved = Augmentation(options, seed=1)(batch)["image"]
    tiny = dataclasses.replace(options, stain_p=1.0, stain=1e-9)
    torch.testing.assert_close(Augmentation(tiny, seed=1)(batch)["image"], moved, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("channels", "intensity", "fits"),
    [
        (3, Intensity("window", (0.0,), (255.0,)), True),
        (1, Intensity("window", (0.0,), (255.0,)), False),
        (3, Intensity("percentile", (0.5,), (99.5,)), False),
        (3, Intensity("window", (0.0,), (math.pi,)), False),
    ],
)
def test_images_without_known_light_are_refused(channels: int, intensity: Intensity, fits: bool):
    assert AugmentOptions().misfits(channels, intensity) == []
    told = AugmentOptions(stain_p=0.5).misfits(channels, intensity)
    assert told == [] if fits else "0 to 255" in told[0]
