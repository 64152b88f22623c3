"""Several views of each sample: random boxes, resized, turned, flipped and varied, drawn first and then applied.

A view is one resampling of the source crop; crop, resize, rotation, scale and shift are one matrix. Draws are functions
of the run's seed, the sample's number and the view's number alone, so that every view replays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medssl.data import spatial
from medssl.data.augment import Variation, change_intensity, draw, uniforms
from medssl.data.view_groups import ViewGroup

_OF_PARTNER = 1  # the view that is taken from the partner
_MOST_VIEWS = 64  # views a sample; the numbers of samples are spread by it, so that no two views share their draws


@dataclass(frozen=True)
class DrawnViews:
    """What makes the views of one group; rows are view by view: view 0 of all samples, then view 1.

    Args:
        variation: Rotation, flips and intensities; its `matrix` and `shift` lead from view to source voxels.
        centre: (V, B, D) centre of each view's box in source voxels, 0 = centre of the first voxel.
        side: (V, B, D) sides of each view's box in source voxels, before it is turned.
    """

    variation: Variation
    centre: Tensor
    side: Tensor

    def affine(self, size: Sequence[int], source: Sequence[int]) -> Tensor:
        """(V, B, D, D + 1) from the index of a voxel of a view of `size` to its place in voxels of the `source`."""
        mirrored = torch.where(self.variation.flips, -1.0, 1.0).to(self.variation.matrix)
        matrix = self.variation.matrix * mirrored[:, None, :]
        middle, target = (torch.tensor(list(shape), dtype=matrix.dtype).sub(1) / 2 for shape in (size, source))
        offset = target + self.variation.shift - matrix @ middle
        return torch.cat([matrix, offset[..., None]], dim=-1).view(*self.centre.shape, -1)


class MultiView:
    """Makes views of batches.

    Args:
        views: The views that all networks see.
        local_views: Smaller ones, or None.
        seed: Seed of the run.
    """

    def __init__(self, views: ViewGroup, local_views: ViewGroup | None, seed: int) -> None:
        self._groups = {"views": views} | ({} if local_views is None else {"local_views": local_views})
        self._seed = seed

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add `views` (V, B, C, *size), `local_views` where asked for, and each one's box: `..._centre`, `..._side`.

        `views_affine` (V, B, D, D + 1) leads from the index of a voxel of a view to its place in voxels of the source,
        rotation and flips included, elastic deformation left out.
        The batch has the samples' numbers, `index` (B,), and voxel sizes, `spacing_mm` (B, D): turns are made in mm.
        Where it has `partner` (B, C, *S), of `partner_spacing_mm` (B, D), the second of the views is taken from it.
        """
        source, numbers = batch["image"], batch["index"].tolist()
        added: dict[str, Tensor] = {}
        first = 0
        for name, group in self._groups.items():
            partner = batch.get("partner") if name == "views" else None
            spacing_mm = batch["spacing_mm"].repeat(group.count, 1, 1)
            if partner is not None:
                spacing_mm[_OF_PARTNER] = batch["partner_spacing_mm"]
            drawn = draw_views(group, numbers, first, self._seed, source.shape[2:], spacing_mm)
            added[name] = make_views(drawn, source, group.size, partner)
            added[f"{name}_centre"], added[f"{name}_side"] = drawn.centre, drawn.side
            added[f"{name}_affine"] = drawn.affine(group.size, source.shape[2:])
            first += group.count
        return {**batch, **added}


def draw_views(
    group: ViewGroup, numbers: Sequence[int], first: int, seed: int, source: Sequence[int], spacing_mm: Tensor
) -> DrawnViews:
    """Draw where the views of samples `numbers` lie and how they are varied.

    Args:
        group: Which views.
        numbers: Number of each sample in the run.
        first: Number of the group's first view among all views of a sample.
        seed: Seed of the run.
        source: Spatial shape of the crop that the views are taken from.
        spacing_mm: (V, B, D) voxel size of what each view is taken from, float64.
    """
    dims, shape = len(source), torch.tensor(list(source), dtype=torch.float64)
    parts, centres, sides = [], [], []
    for view in range(group.count):
        keys = [number * _MOST_VIEWS + first + view for number in numbers]
        table = torch.stack([uniforms(seed + 1, key, 2 * dims + 1) for key in keys])
        side = _sides(table[:, : dims + 1], group) * shape
        moved = (table[:, dims + 1 :] - 0.5) * (shape - side)  # the box stays inside the source
        options = group.augments[min(view, len(group.augments) - 1)]
        variation = draw(options, keys, seed, group.size, spacing_mm[view])
        scale = side / torch.tensor(list(group.size), dtype=torch.float64)  # source voxels a view's voxel
        parts.append(
            replace(
                variation,
                matrix=variation.matrix * scale[:, None, :],
                shift=variation.shift * scale + moved,
                moved=torch.ones_like(variation.moved),
            )
        )
        centres.append(parts[-1].shift + (shape - 1) / 2)
        sides.append(side)
    names = Variation.__dataclass_fields__
    joined = Variation(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
    return DrawnViews(joined, torch.stack(centres), torch.stack(sides))


def make_views(drawn: DrawnViews, source: Tensor, size: Sequence[int], partner: Tensor | None = None) -> Tensor:
    """Views (V, B, C, *size) of a batch (B, C, *S), the second of `partner` (B, C, *S) where there is one; pure."""
    count, variation = len(drawn.centre), drawn.variation
    views = []
    for view, rows in enumerate(torch.arange(count * len(source)).chunk(count)):
        elastic = variation.elastic[rows]
        grid = spatial.sampling_grid(
            variation.matrix[rows].to(source.device),
            variation.shift[rows].to(source.device),
            size,
            elastic.to(source.device) if bool(elastic.any()) else None,
            source=source.shape[2:],
        )
        views.append(spatial.resample_image(source if partner is None or view != _OF_PARTNER else partner, grid))
    flat = spatial.flip(change_intensity(variation, torch.cat(views)), variation.flips, 2)
    return flat.view(count, len(source), *flat.shape[1:])


def _sides(uniform: Tensor, group: ViewGroup) -> Tensor:
    """Sides relative to the source (B, D) from uniform numbers (B, 1 + D)."""
    low, high = group.extent
    extent = low + (high - low) * uniform[:, :1]
    reach = math.log(group.aspect)
    stretch = (2 * uniform[:, 1:] - 1) * reach
    return (extent * (stretch - stretch.mean(1, keepdim=True)).exp()).clamp(max=1)
