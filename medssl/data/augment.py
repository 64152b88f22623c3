"""Varied training batches: parameters are drawn first, then a pure function applies them, so every batch replays."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medssl.data import intensity, spatial
from medssl.data.augment_options import AugmentOptions
from medssl.data.stain import jitter_stain

_BIAS_POINTS, _ELASTIC_POINTS = 3, 4
_SINGLE = 40  # uniform numbers a sample besides those of the two fields


@dataclass(frozen=True)
class Variation:
    """What happens to each sample of a batch; drawn by `draw`, applied by `apply`. Everything lies on the CPU.

    A value that does nothing (zoom 1, noise 0, gamma 1 ...) means that the sample is left out of that operation.

    Args:
        matrix: (B, D, D) float64 from output to input voxel offsets about the centre.
        shift: (B, D) voxels added to the input position.
        moved: (B,) bool: the sample is resampled at all.
        flips: (B, D) bool.
        noise: (B,) standard deviation relative to the image's.
        noise_seed: (B,) int64.
        blur: (B,) standard deviation in voxels, 0 = none.
        brightness: (B,) added, relative to the image's deviation.
        contrast: (B,) factor.
        coarse: (B,) voxels of the coarser grid.
        gamma: (B,) exponent.
        gamma_inverted: (B,) bool.
        bias: (B, 3, ..., 3) logarithm of the field at its control points.
        elastic: (B, D, 4, ..., 4) displacement in voxels at its control points.
        stain: (B, 2, 3) factor less 1, and offset, of each stain.
    """

    matrix: Tensor
    shift: Tensor
    moved: Tensor
    flips: Tensor
    noise: Tensor
    noise_seed: Tensor
    blur: Tensor
    brightness: Tensor
    contrast: Tensor
    coarse: Tensor
    gamma: Tensor
    gamma_inverted: Tensor
    bias: Tensor
    elastic: Tensor
    stain: Tensor


class Augmentation:
    """Varies batches; each sample's variation is a function of the seed and the sample's number alone.

    Args:
        options: Probabilities and strengths.
        seed: Seed of the run.
    """

    def __init__(self, options: AugmentOptions, seed: int) -> None:
        self._options, self._seed = options, seed

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Vary `image` (B, C, *S) and `label` (B, *S), where there is one.

        The batch has the samples' numbers, `index` (B,), and voxel sizes, `spacing_mm` (B, D): turns are made in mm.
        """
        numbers = batch["index"].tolist()
        variation = draw(self._options, numbers, self._seed, batch["image"].shape[2:], batch["spacing_mm"])
        image, label = apply(variation, batch["image"], batch.get("label"))
        changed = {"image": image} if label is None else {"image": image, "label": label}
        return {**batch, **changed}


def draw(
    options: AugmentOptions, numbers: Sequence[int], seed: int, shape: Sequence[int], spacing_mm: Tensor
) -> Variation:
    """Draw the variation of samples `numbers`; each is a function of `seed` and its own number alone.

    Args:
        options: Probabilities and strengths.
        numbers: Number of each sample in the run.
        seed: Seed of the run.
        shape: Spatial shape of the crops.
        spacing_mm: (B, D) voxel size of each sample along each spatial axis, float64.
    """
    dims = len(shape)
    bias_shape, elastic_shape = [_BIAS_POINTS] * dims, [dims, *[_ELASTIC_POINTS] * dims]
    count = _SINGLE + math.prod(bias_shape) + math.prod(elastic_shape)
    uniform = _Uniform(torch.stack([uniforms(seed, number, count) for number in numbers]))

    def some(probability: float, low: float, high: float, otherwise: float) -> Tensor:
        chosen, value = uniform.below(probability), uniform.between(low, high, 1)[:, 0]
        return torch.where(chosen, value, otherwise)

    turned = uniform.below(options.affine_p)
    angles = uniform.between(-options.rotation_deg, options.rotation_deg, 3 if dims == 3 else 1)
    reach, curve = math.log1p(options.scale), math.log1p(options.gamma)
    zoom = uniform.between(-reach, reach, 1).exp()
    reach = math.log1p(options.stretch)
    zoom = zoom * uniform.between(-reach, reach, 3)[:, :dims].exp()
    size = torch.tensor(list(shape), dtype=torch.float64)
    shift = uniform.between(-options.shift, options.shift, 3)[:, :dims] * size
    allowed = torch.tensor([axis in options.flip_axes for axis in range(dims)])
    bent = uniform.below(options.elastic_p)
    return Variation(
        matrix=torch.where(
            turned[:, None, None], spatial.affine_matrices(angles, zoom, spacing_mm), torch.eye(dims).double()
        ),
        shift=shift * turned[:, None],
        moved=turned | bent,
        flips=(uniform.between(0, 1, 3)[:, :dims] < 0.5) & allowed,
        noise=some(options.noise_p, 0, options.noise_std, 0),
        noise_seed=(uniform.between(0, 1, 1)[:, 0] * 2**31).long(),
        blur=some(options.blur_p, options.blur_voxels / 2, options.blur_voxels, 0),
        brightness=some(options.brightness_p, -options.brightness, options.brightness, 0),
        contrast=some(options.contrast_p, 1 - options.contrast, 1 + options.contrast, 1),
        coarse=some(options.low_resolution_p, 1, options.low_resolution, 1),
        gamma=some(options.gamma_p, -curve, curve, 0).exp(),
        gamma_inverted=uniform.below(0.5),
        bias=uniform.field(uniform.below(options.bias_p), options.bias, bias_shape),
        elastic=uniform.field(bent, options.elastic_voxels, elastic_shape),
        stain=uniform.field(uniform.below(options.stain_p), options.stain, [2, 3]),
    )


def apply(variation: Variation, image: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Apply a variation; pure, and samples that drew nothing come back bit for bit.

    Args:
        variation: What to do to each sample.
        image: (B, C, *S) float32.
        label: (B, *S) integers, or None.

    Returns:
        Image and label of the same shapes.
    """
    rows = variation.moved.nonzero()[:, 0]
    if len(rows):
        device, elastic = image.device, variation.elastic[rows]
        grid = spatial.sampling_grid(
            variation.matrix[rows].to(device),
            variation.shift[rows].to(device),
            image.shape[2:],
            elastic.to(device) if bool(elastic.any()) else None,
        )
        picked = rows.to(device)
        image = image.index_copy(0, picked, spatial.resample_image(image[picked], grid))
        if label is not None:
            label = label.index_copy(0, picked, spatial.resample_label(label[picked], grid))
    image = change_intensity(variation, image)
    image = spatial.flip(image, variation.flips, 2)
    return image, label if label is None else spatial.flip(label, variation.flips, 1)


def change_intensity(v: Variation, image: Tensor) -> Tensor:
    """Noise, smoothing, brightness, contrast, resolution and gamma in nnU-Net's order; pure.

    Before them come the stains and the coil's bias. In float32 whatever autocast says: in bf16 the same numbers would
    give other images, and on a GPU a matrix product in bf16 could not be put back among float32 images.
    """

    def on(values: Tensor, rows: Tensor) -> Tensor:
        return values[rows].to(image.device, torch.float32)

    def restained(part: Tensor, rows: Tensor) -> Tensor:
        factor, offset = on(v.stain, rows).unbind(1)
        return jitter_stain(part, 1 + factor, offset)

    steps: tuple[tuple[Tensor, Callable[[Tensor, Tensor], Tensor]], ...] = (
        (v.stain.flatten(1).any(1), restained),
        (v.bias.flatten(1).any(1), lambda part, rows: intensity.add_bias_field(part, on(v.bias, rows))),
        (v.noise > 0, lambda part, rows: intensity.add_noise(part, on(v.noise, rows), v.noise_seed[rows].tolist())),
        (v.blur > 0, lambda part, rows: intensity.blur(part, on(v.blur, rows))),
        (v.brightness != 0, lambda part, rows: intensity.add_brightness(part, on(v.brightness, rows))),
        (v.contrast != 1, lambda part, rows: intensity.scale_contrast(part, on(v.contrast, rows))),
        (v.coarse > 1, lambda part, rows: intensity.coarsen(part, on(v.coarse, rows))),
        (v.gamma != 1, lambda part, rows: intensity.apply_gamma(part, on(v.gamma, rows), on(v.gamma_inverted, rows))),
    )
    with torch.autocast(image.device.type, enabled=False):
        for chosen, change in steps:
            rows = chosen.nonzero()[:, 0]
            if len(rows):
                picked = rows.to(image.device)
                image = image.index_copy(0, picked, change(image[picked], rows))
    return image


def uniforms(seed: int, number: int, count: int) -> Tensor:
    """(count,) float64 in [0, 1) for one sample."""
    state = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return torch.rand(count, generator=torch.Generator().manual_seed(state), dtype=torch.float64)


class _Uniform:
    """Hands out columns of a table of uniform numbers (B, n), so that each parameter has its own."""

    def __init__(self, table: Tensor) -> None:
        self._table, self._next = table, 0

    def between(self, low: float, high: float, columns: int) -> Tensor:
        """(B, columns) uniform between `low` and `high`."""
        part = self._table[:, self._next : self._next + columns]
        self._next += columns
        return low + (high - low) * part

    def below(self, probability: float) -> Tensor:
        """(B,) bool, true with this probability."""
        return self.between(0, 1, 1)[:, 0] < probability

    def field(self, chosen: Tensor, reach: float, shape: Sequence[int]) -> Tensor:
        """(B, *shape) uniform within `reach` of 0; 0 where a sample is not `chosen` (B,)."""
        values = self.between(-reach, reach, math.prod(shape)) * chosen[:, None]
        return values.view(-1, *shape)
