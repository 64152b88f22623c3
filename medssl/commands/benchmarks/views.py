"""`medssl bench views`: two varied views a sample beside MONAI's dictionary transforms."""

from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor

from medssl.commands.benchmarks.comparison import Comparison, median_seconds
from medssl.commands.benchmarks.monai_views import PROBABILITIES, ROTATION_DEG, SCALE, MonaiViews
from medssl.data.augment_options import AugmentOptions
from medssl.data.view_groups import ViewGroup
from medssl.data.views import MultiView
from medssl.imaging.errors import ConfigError


def run(
    size: int = 96, source: int = 128, batch: int = 8, rounds: int = 5, device: Literal["cpu", "cuda"] = "cpu"
) -> list[Comparison]:
    """Two views of `size`^3 of each of `batch` samples of `source`^3, in turns, on the CPU's threads as they are set.

    Both sides resample every view once (crop, rotation, scale), linearly, and mirror, add noise, smooth, and change
    gamma and contrast with the same probabilities and ranges. MONAI takes sample after sample, as its transforms do.
    Samples lie on the device and views end there. Where MONAI's transforms fail on it they run on the CPU; moving
    samples and views is then timed with them, and the peer's name says so.

    Args:
        size: Side of a view.
        source: Side of what views are taken from.
        batch: Samples.
        rounds: Batches timed on each side.
        device: Where.

    Raises:
        ConfigError: There is no such device.
    """
    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise ConfigError(["device is cuda, but torch finds no GPU here: leave device out to measure the CPU"])
    images = torch.randn(batch, 1, *[source] * 3, generator=torch.Generator().manual_seed(0)).to(device)
    ours, peer = _Ours(images, size), MonaiViews(images, size)
    settle = torch.cuda.synchronize if on_gpu else lambda: None
    seconds = median_seconds({"ours": ours, "peer": peer}, rounds, warmup=1, settle=settle)
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} thread(s)"
    return [
        Comparison(
            f"2 views of {size}^3 a sample, batch {batch}, {where}",
            "samples/s",
            batch / seconds["ours"],
            batch / seconds["peer"],
            f"MONAI {version('monai')} dictionary transforms{'' if peer.there else ', on the CPU and moved'}",
            seconds["peer"] / seconds["ours"],
        )
    ]


class _Ours:
    def __init__(self, images: Tensor, size: int) -> None:
        options = AugmentOptions(
            affine_p=1.0,
            rotation_deg=ROTATION_DEG,
            scale=SCALE,
            flip_axes=(0, 1, 2),
            noise_p=PROBABILITIES["noise"],
            blur_p=PROBABILITIES["blur"],
            gamma_p=PROBABILITIES["gamma"],
            contrast_p=PROBABILITIES["contrast"],
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
