"""Two views a sample by MONAI's dictionary transforms, for `medssl bench views`."""

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

PROBABILITIES = {"flip": 0.5, "noise": 0.5, "blur": 0.5, "gamma": 0.5, "contrast": 0.5}
"""Probabilities, the same on both sides; every view is turned, scaled and shifted."""

ROTATION_DEG, SCALE = 15.0, 0.2

_TRIES = 16
"""Samples by which MONAI's transforms are tried on a GPU."""


class MonaiViews:
    """Makes two views of each image, one after the other.

    Args:
        images: (B, 1, *S) on the device on which views are wanted; where the transforms fail on it they run on the CPU.
        size: Side of a view.
    """

    def __init__(self, images: Tensor, size: int) -> None:
        self._images, self._device = images, images.device
        self._transform = _transforms(images.shape[-1], size, self._device)
        self.there = self._device.type == "cpu" or _works(self._transform, images[0])
        """Whether the transforms run where the samples lie."""
        if not self.there:
            self._device = torch.device("cpu")
            self._transform = _transforms(images.shape[-1], size, self._device)

    def __call__(self) -> Tensor:
        """Views (2, B, 1, *size), on the device of the images."""
        samples = [image.to(self._device) for image in self._images]
        made = [torch.stack([self._transform({"image": image})["image"] for _ in range(2)]) for image in samples]
        return torch.stack(made, dim=1).to(self._images.device)


def _works(transform: Any, image: Tensor) -> bool:
    """Whether a transform, parts of which are left out by chance, takes an image where it lies and leaves it there."""
    try:
        made = [transform({"image": image})["image"] for _ in range(_TRIES)]
    except (RuntimeError, TypeError, ValueError):
        return False
    return all(one.device == image.device for one in made)


def _transforms(source: int, size: int, device: torch.device) -> Any:
    t: Any = import_module("monai.transforms")
    key, angle, room = ["image"], math.radians(ROTATION_DEG), (source - size) // 2
    return t.Compose(
        [
            t.RandAffined(
                key,
                prob=1.0,
                rotate_range=(angle,) * 3,
                scale_range=(SCALE,) * 3,
                translate_range=(room,) * 3,
                spatial_size=(size,) * 3,
                mode="bilinear",
                padding_mode="border",
                cache_grid=True,
                device=device,
            ),
            *(t.RandFlipd(key, prob=PROBABILITIES["flip"], spatial_axis=axis) for axis in range(3)),
            t.RandGaussianNoised(key, prob=PROBABILITIES["noise"], std=0.1),
            t.RandGaussianSmoothd(
                key, prob=PROBABILITIES["blur"], sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)
            ),
            t.RandAdjustContrastd(key, prob=PROBABILITIES["gamma"], gamma=(0.7, 1.5)),
            t.RandScaleIntensityFixedMeand(key, prob=PROBABILITIES["contrast"], factors=0.25),
        ]
    )
