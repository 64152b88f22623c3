"""Boxes of a crop replaced by noise and by another crop, drawn first and then applied; masks: True = replaced.

Of Swin UNETR's pretraining, Tang et al., CVPR 2022, https://arxiv.org/abs/2111.14791, as the authors released it.
Deviations: noise has the range of the crop, because prepared images do not lie between 0 and 1; what is pasted is
clean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medssl.data.boxes import covering_boxes, sides_of


@dataclass(frozen=True)
class Cutouts:
    """What is replaced in each crop of a batch; on the CPU.

    Args:
        noise: (B, 1, *S) bool, where noise is put.
        pasted: (B, 1, *S) bool, where voxels of another crop are put afterwards.
        donor: (B,) that other crop.
        seed: Of the noise, which is drawn where the image is: another kind of device draws another.
    """

    noise: Tensor
    pasted: Tensor
    donor: Tensor
    seed: int


def draw_cutouts(
    shape: Sequence[int], batch: int, most: float, sides: tuple[float, float], generator: torch.Generator
) -> Cutouts:
    """Draw what is replaced in `batch` crops of spatial shape `shape`.

    Args:
        shape: Voxels an axis.
        batch: Crops B.
        most: Each crop draws its share of noise between 0 and this, and likewise its share of another crop; a crop
            that draws itself as the other one keeps its voxels.
        sides: Shortest and longest side of a box, relative to the crop's.
        generator: CPU generator.
    """
    shares = most * torch.rand(2, batch, generator=generator, dtype=torch.float64)
    donor = torch.randint(batch, (batch,), generator=generator)
    shares[1] *= donor != torch.arange(batch)
    noise, pasted = (
        torch.stack([covering_boxes(shape, share, sides_of(shape, sides), generator) for share in row.tolist()])[
            :, None
        ]
        for row in shares
    )
    return Cutouts(
        noise=noise,
        pasted=pasted,
        donor=donor,
        seed=int(torch.randint(2**62, (), generator=generator)),
    )


def cut_out(image: Tensor, drawn: Cutouts) -> Tensor:
    """The crops (B, C, *S) with other voxels where the masks say so; pure.

    Noise is Gaussian, stretched so that its lowest and highest value in a crop are those of the crop.
    """
    axes = tuple(range(2, image.ndim))
    generator = torch.Generator(device=image.device).manual_seed(drawn.seed)
    noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    (low, high), (least, largest) = (
        (part.amin(axes, keepdim=True), part.amax(axes, keepdim=True)) for part in (image, noise)
    )
    stretched = low + (noise - least) * ((high - low) / (largest - least))
    out = torch.where(drawn.noise.to(image.device), stretched, image)
    return torch.where(drawn.pasted.to(image.device), image[drawn.donor.to(image.device)], out)
