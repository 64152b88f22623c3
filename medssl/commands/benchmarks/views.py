"""`medssl bench views`: two varied views a sample beside MONAI's dictionary transforms."""

import math
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from medssl.commands.benchmarks.comparison import Comparison, median_seconds
from medssl.data.augment_options import AugmentOptions
from medssl.data.view_groups import ViewGroup
from medssl.data.views import MultiView

_P = {"flip": 0.5, "noise": 0.5, "blur": 0.5, "gamma": 0.5, "contrast": 0.5}
"""Probabilities, the same on both sides; every view is turned, scaled and shifted."""

_ROTATION_DEG, _SCALE = 15.0, 0.2


def run(size: int = 96, source: int = 128, batch: int = 8, rounds: int = 5) -> list[Comparison]:
    """Two views of `size`^3 of each of `batch` samples of `source`^3, in turns, on the CPU's threads as they are set.

    Both sides resample every view once (crop, rotation, scale), linearly, and mirror, add noise, smooth, and change
    gamma and contrast with the same probabilities and ranges. MONAI takes sample after sample, as its transforms do.

    Args:
        size: Side of a view.
        source: Side of what views are taken from.
        batch: Samples.
        rounds: Batches timed on each side.
    """
    images = torch.randn(batch, 1, *[source] * 3, generator=torch.Generator().manual_seed(0))
    ours, peer = _Ours(images, size), _Monai(images, size)
    seconds = median_seconds({"ours": ours, "peer": peer}, rounds, warmup=1)
    name = f"2 views of {size}^3 a sample, batch {batch}, {torch.get_num_threads()} thread(s)"
    return [
        Comparison(
            name,
            "samples/s",
            batch / seconds["ours"],
            batch / seconds["peer"],
            f"MONAI {version('monai')} dictionary transforms",
            seconds["peer"] / seconds["ours"],
        )
    ]


class _Ours:
    def __init__(self, images: Tensor, size: int) -> None:
        options = AugmentOptions(
            affine_p=1.0,
            rotation_deg=_ROTATION_DEG,
            scale=_SCALE,
            flip_axes=(0, 1, 2),
            noise_p=_P["noise"],
            blur_p=_P["blur"],
            gamma_p=_P["gamma"],
            contrast_p=_P["contrast"],
            brightness_p=0.0,
            low_resolution_p=0.0,
        )
        group = ViewGroup(2, (size,) * 3, (size / images.shape[-1],) * 2, 1.0, (options,))
        self._views, self._images, self._turn = MultiView(group, None, seed=0), images, 0

    def __call__(self) -> Tensor:
        self._turn += 1
        index = torch.arange(len(self._images)) + self._turn * len(self._images)
        spacing_mm = torch.ones(len(self._images), 3, dtype=torch.float64)
        return self._views({"image": self._images, "index": index, "spacing_mm": spacing_mm})["views"]


class _Monai:
    def __init__(self, images: Tensor, size: int) -> None:
        t: Any = import_module("monai.transforms")

        key, angle, room = ["image"], math.radians(_ROTATION_DEG), (images.shape[-1] - size) // 2
        self._images = images
        self._transform = t.Compose(
            [
                t.RandAffined(
                    key,
                    prob=1.0,
                    rotate_range=(angle,) * 3,
                    scale_range=(_SCALE,) * 3,
                    translate_range=(room,) * 3,
                    spatial_size=(size,) * 3,
                    mode="bilinear",
                    padding_mode="border",
                    cache_grid=True,
                ),
                *(t.RandFlipd(key, prob=_P["flip"], spatial_axis=axis) for axis in range(3)),
                t.RandGaussianNoised(key, prob=_P["noise"], std=0.1),
                t.RandGaussianSmoothd(key, prob=_P["blur"], sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)),
                t.RandAdjustContrastd(key, prob=_P["gamma"], gamma=(0.7, 1.5)),
                t.RandScaleIntensityFixedMeand(key, prob=_P["contrast"], factors=0.25),
            ]
        )

    def __call__(self) -> Tensor:
        made = [torch.stack([self._transform({"image": image})["image"] for _ in range(2)]) for image in self._images]
        return torch.stack(made, dim=1)
