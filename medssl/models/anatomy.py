"""Embeddings of every voxel, by which a point of one scan is found in another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.imaging.errors import CheckpointError
from medssl.models.component import Component
from medssl.models.encoder import Encoder
from medssl.models.layers import conv
from medssl.models.networks import rebuild_encoder
from medssl.models.weights import read_encoder


@dataclass(frozen=True)
class AnatomyMaps:
    """Embeddings of unit length on two grids over one batch of images.

    Args:
        fine: (B, E, *grid) that tell near places apart.
        coarse: (B, E, *smaller) that tell where in the body they are.
        stride: Voxels a step of the fine grid, an axis each.
    """

    fine: Tensor
    coarse: Tensor
    stride: tuple[int, ...]

    def sample(self, number: int) -> "AnatomyMaps":
        """The maps of one image of the batch."""
        return AnatomyMaps(self.fine[number, None], self.coarse[number, None], self.stride)

    def on_cpu(self) -> "AnatomyMaps":
        """The same in the processor's memory."""
        return AnatomyMaps(self.fine.cpu(), self.coarse.cpu(), self.stride)

    def coarse_on_fine(self) -> Tensor:
        """The coarse embeddings on the fine grid (B, E, *grid), of unit length again."""
        mode = "trilinear" if len(self.stride) == 3 else "bilinear"
        return F.normalize(F.interpolate(self.coarse.float(), self.fine.shape[2:], mode=mode), dim=1)


class AnatomyNetwork(nn.Module):
    """Encoder with two heads: a feature pyramid for fine embeddings, and one on the last map for coarse ones.

    SAM: Yan et al., "SAM: Self-supervised Learning of Pixel-wise Anatomical Embeddings in Radiological Images", IEEE
    TMI 2022, https://arxiv.org/abs/2012.02383.

    Args:
        encoder: Any encoder of two maps or more. The fine grid is that of its first map with a stride of 2 or more.
        width: Numbers E of an embedding.
    """

    def __init__(self, encoder: Encoder, width: int = 128) -> None:
        super().__init__()
        self.encoder = encoder
        dims, last = encoder.spatial_dims, len(encoder.strides) - 1
        self.finest = min(next(n for n, s in enumerate(encoder.strides) if max(s) >= 2 or n == last), last - 1)
        self.stride, self.largest = encoder.strides[self.finest], encoder.strides[-1]
        convolution = conv(dims)
        channels = encoder.feature_channels
        self.lateral = nn.ModuleList(convolution(n, width, 1) for n in channels[self.finest : last])
        self.fine = convolution(width, width, 3, padding=1)
        self.coarse = nn.Sequential(convolution(channels[-1], width, 1), convolution(width, width, 3, padding=1))

    def forward(self, image: Tensor) -> AnatomyMaps:
        """Embeddings of an image (B, C, *S) whose sides divide by `largest`."""
        maps = self.encoder(image)
        levels = [head(level) for head, level in zip(self.lateral, maps[self.finest : -1], strict=True)]
        merged = levels.pop()
        while levels:
            level = levels.pop()
            merged = level + F.interpolate(merged, level.shape[2:], mode="nearest")
        fine, coarse = self.fine(merged), self.coarse(maps[-1])
        return AnatomyMaps(F.normalize(fine.float(), dim=1), F.normalize(coarse.float(), dim=1), self.stride)

    def heads_state_dict(self) -> dict[str, Tensor]:
        """Weights of the heads."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("encoder.")}

    @torch.no_grad()
    def embed_whole(self, image: Tensor) -> AnatomyMaps:
        """As `forward`, of an image of any size, filled up."""
        out: AnatomyMaps = self(filled_up(image, self.largest))
        return out


class EncoderMaps(nn.Module):
    """The maps of any encoder as embeddings, without heads: its first map with a stride of 2 or more, and its last.

    Args:
        encoder: Any encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.finest = next((n for n, s in enumerate(encoder.strides) if max(s) >= 2), len(encoder.strides) - 1)

    @torch.no_grad()
    def embed_whole(self, image: Tensor) -> AnatomyMaps:
        """Embeddings of an image (B, C, *S) of any size, centred by the mean of its own voxels."""
        maps = self.encoder(filled_up(image, self.encoder.strides[-1]))
        fine, coarse = (centred_directions(maps[level].float()) for level in (self.finest, -1))
        return AnatomyMaps(fine, coarse, self.encoder.strides[self.finest])


def centred_directions(maps: Tensor) -> Tensor:
    """(B, E, *S) of unit length over E, from the mean over S: what voxels have in common tells none apart."""
    return F.normalize(maps - maps.flatten(2).mean(2).view(*maps.shape[:2], *[1] * (maps.ndim - 2)), dim=1)


def filled_up(image: Tensor, strides: Sequence[int]) -> Tensor:
    """An image (B, C, *S) whose sides divide by the strides: filled up at the far ends by repeating its edge."""
    missing = [-n % s for n, s in zip(image.shape[2:], strides, strict=True)]
    padding = [n for m in reversed(missing) for n in (0, m)]
    return F.pad(image, padding, mode="replicate") if any(missing) else image


def is_anatomy_run(tensors: dict[str, Tensor], meta: dict[str, Any]) -> bool:
    """Whether an encoder file holds the heads of a run of SAM."""
    return meta["method"]["class_path"].rpartition(".")[2] == "SAM" and "decoder.fine.weight" in tensors


def anatomy_file(path: Path) -> Path:
    """Encoder file of a run of SAM: of its folder, or the file itself."""
    return path / "encoder.safetensors" if path.is_dir() else path


def read_anatomy_network(path: Path) -> tuple[AnatomyNetwork, dict[str, Any]]:
    """The network of a run of SAM, and the description of the run.

    Args:
        path: The run's folder, or its `encoder.safetensors`.

    Raises:
        CheckpointError: No such file, or not of a run of SAM.
    """
    path = anatomy_file(path)
    tensors, meta = read_encoder(path)
    if not is_anatomy_run(tensors, meta):
        raise CheckpointError(
            f"{path} was made by {meta['method']['class_path']}: points are matched by embeddings of a run of SAM",
            reason="other-method",
        )
    dims, channels = int(meta["preprocess"]["spatial_dims"]), len(meta["channels"])
    head = tensors["decoder.fine.weight"]
    network = AnatomyNetwork(rebuild_encoder(Component.from_json(meta["encoder"]), dims, channels), len(head))
    network.load_state_dict({name.removeprefix("decoder."): tensor for name, tensor in tensors.items()})
    return network.eval(), meta


def cell_places(grid: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Centres (N, D) in voxels of the cells of a grid with so many voxels a step."""
    lines = [torch.arange(float(n)) * s + (s - 1) / 2 for n, s in zip(grid, stride, strict=True)]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, -2)


def find_points(template: AnatomyMaps, points: Tensor, query: AnatomyMaps) -> tuple[Tensor, Tensor]:
    """Where the points of one image lie in another: the cell whose fine and coarse cosines have the highest mean.

    In float32 whatever autocast says: in bf16 neighbouring cells tie, and of those the first would always be taken.

    Args:
        template: Maps of one image (batch of 1).
        points: (P, D) in its voxels.
        query: Maps of the other image (batch of 1).

    Returns:
        (P, D) in voxels of the other image, centres of its cells, and the similarity (P,) in [-1, 1].
    """
    with torch.autocast(points.device.type, enabled=False):
        return _most_alike(template, points, query)


def _most_alike(template: AnatomyMaps, points: Tensor, query: AnatomyMaps) -> tuple[Tensor, Tensor]:
    known = [_at(maps, points, template.stride) for maps in (template.fine, template.coarse_on_fine())]
    places = cell_places(query.fine.shape[2:], query.stride).to(points)
    wanted = [maps[0].float().flatten(1) for maps in (query.fine, query.coarse_on_fine())]
    found, scores = [], []
    for vectors in zip(*known, strict=True):  # one point at a time: a map of the whole image for each is enough
        likeness = sum(vector @ maps for vector, maps in zip(vectors, wanted, strict=True)) / len(wanted)
        score, cell = likeness.max(0)
        found.append(places[cell])
        scores.append(score)
    return torch.stack(found), torch.stack(scores)


def _at(maps: Tensor, points: Tensor, stride: Sequence[int]) -> Tensor:
    """Embeddings (P, E) at points (P, D) in voxels, interpolated and of unit length."""
    steps = torch.tensor(list(stride)).to(points)
    cells = (points - (steps - 1) / 2) / steps
    half = torch.tensor([max(n - 1, 1) / 2 for n in maps.shape[2:]]).to(points)
    grid = (cells / half - 1).flip(-1).view(1, -1, *[1] * (points.shape[1] - 1), points.shape[1])
    picked = F.grid_sample(maps.float(), grid.float(), mode="bilinear", padding_mode="border", align_corners=True)
    return F.normalize(picked[0].flatten(1).T, dim=1)
