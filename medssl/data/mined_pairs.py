"""Crops of two scans about the same place of the body; drawn on the CPU, found by whoever is asked, then cut."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

from medssl.data.boxes import cut_boxes

Finder = Callable[[int, Tensor, int], tuple[Tensor, Tensor]]
"""Where points (P, D) of one sample lie in another, and how sure (P,): called with both numbers."""


def other_patients(patients: Tensor) -> Tensor:
    """(B,) for each sample the next one in the batch that is of another patient; itself where there is none."""
    count = len(patients)
    order = (torch.arange(count)[:, None] + torch.arange(1, count + 1)) % count  # the last is the sample itself
    differs = patients[order] != patients[:, None]
    differs[:, -1] = True
    return order.gather(1, differs.int().argmax(1, keepdim=True))[:, 0]


def draw_points(image: Tensor, size: Sequence[int], tries: int, generator: torch.Generator) -> Tensor:
    """(B, tries, D) points in voxels of the image (B, C, *S) about which a crop of `size` lies within it.

    A point whose voxel in the first channel lies above the mean of the image comes before those below: air teaches
    nothing.
    """
    shape = image.shape[2:]
    room = torch.tensor([max(n - s, 0) for n, s in zip(shape, size, strict=True)])
    half = torch.tensor([(min(s, n) - 1) / 2 for n, s in zip(shape, size, strict=True)])
    lots = torch.rand(len(image), 2 * tries, len(shape), generator=generator)
    points = (lots * (room + 1)).floor().clamp(max=room) + half
    step = torch.tensor([math.prod(shape[axis + 1 :]) for axis in range(len(shape))])
    voxels = (points.floor().long() * step).sum(-1).to(image.device)
    first = image[:, 0].flatten(1)
    dark = (first.gather(1, voxels) <= first.mean(1, keepdim=True)).cpu()
    order = dark.int().argsort(dim=1, stable=True)[:, :tries]
    return points.gather(1, order[..., None].expand(-1, -1, len(shape)))


def mined_centres(points: Tensor, partners: Tensor, find: Finder, sure: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of each sample's points the first that is found surely in its partner, or the surest of them.

    Args:
        points: (B, P, D) in voxels of each sample.
        partners: (B,).
        find: Finds points.
        sure: From here on a find counts as one.

    Returns:
        Centres (B, D) in each sample, centres (B, D) in its partner, and whether they were surely found (B,).
    """
    own, found, surely = [], [], []
    for sample, partner in enumerate(partners.tolist()):
        places, scores = find(sample, points[sample], partner)
        good = scores >= sure
        chosen = int(good.int().argmax()) if bool(good.any()) else int(scores.argmax())
        own.append(points[sample, chosen])
        found.append(places[chosen])
        surely.append(good[chosen])
    return torch.stack(own), torch.stack(found), torch.stack(surely)


def cut_about(image: Tensor, centre: Tensor, size: Sequence[int]) -> Tensor:
    """Crops (B, C, *size) about centres (B, D) in voxels of images (B, C, *S); outside, the edge is repeated."""
    margin = [s // 2 + 1 for s in size]
    padding = [n for m in reversed(margin) for n in (m, m)]
    half = torch.tensor([(s - 1) / 2 for s in size])
    last = torch.tensor(image.shape[2:]) - 1
    start = (torch.minimum(centre.cpu().clamp(min=0), last) - half).round().long() + torch.tensor(margin)
    flips = torch.zeros(len(image), 1, len(size), dtype=torch.bool)
    return cut_boxes(F.pad(image, padding, mode="replicate"), start[:, None], size, flips)[:, 0]
