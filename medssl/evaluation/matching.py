"""Where a point of one scan lies in another, by embeddings of a run of SAM, in the scans' own geometries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medssl.evaluation.device import gpu_memory_told
from medssl.imaging.errors import ImageError
from medssl.imaging.preprocess import Prepared, Preprocess, prepare_volume
from medssl.imaging.volume import Volume
from medssl.models.anatomy import AnatomyMaps, find_points, read_anatomy_network

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EmbeddedScan:
    """A scan and the embeddings of all its voxels.

    Args:
        volume: As it was read.
        prepared: As the network sees it.
        maps: Its embeddings.
    """

    volume: Volume
    prepared: Prepared
    maps: AnatomyMaps


@dataclass(frozen=True)
class Match:
    """Where a point was found.

    Args:
        world_mm: (3,) RAS+ mm in the frame of the other scan.
        index: Fractional voxel index in the other scan, an axis each.
        similarity: Mean of the fine and the coarse cosine.
        back_mm: Distance between the point and where its match is found back in the first scan.
    """

    world_mm: tuple[float, ...]
    index: tuple[float, ...]
    similarity: float
    back_mm: float


class Matcher:
    """Finds points.

    Args:
        run: Folder of a run of SAM, or its `encoder.safetensors`.
        device: Where the network computes.

    Raises:
        CheckpointError: No such run, or one of another method.
    """

    def __init__(self, run: Path, device: str = "cpu") -> None:
        network, meta = read_anatomy_network(run)
        self._network, self._device = network.to(device), device
        self._preprocess = Preprocess.from_json(meta["preprocess"])
        self._channels = len(meta["channels"])

    @gpu_memory_told()
    def embed(self, volume: Volume) -> EmbeddedScan:
        """Embed a scan.

        Raises:
            ImageError: It has other dimensions or another number of channels than the images of the run.
        """
        if volume.channels != self._channels:
            raise ImageError(
                f"{volume.channels} channel(s) where the run was made with {self._channels}", reason="channels"
            )
        prepared = prepare_volume(volume, self._preprocess)
        maps = self._network.embed_whole(torch.from_numpy(prepared.array)[None].to(self._device))
        return EmbeddedScan(volume, prepared, maps.on_cpu())

    def find(self, template: EmbeddedScan, world_mm: Sequence[float], query: EmbeddedScan) -> Match:
        """Where a point of one scan, in RAS+ mm of its frame, lies in the other.

        Raises:
            ImageError: The point lies outside the first scan.
        """
        _refuse_outside(template, world_mm)
        found, similarity = _found(template, world_mm, query)
        back, _ = _found(query, found, template)
        return Match(
            tuple(found.tolist()),
            tuple(query.volume.geometry.to_index(found)[: query.volume.spatial_dims].tolist()),
            similarity,
            float(np.linalg.norm(back - np.asarray(world_mm))),
        )


def _found(template: EmbeddedScan, world_mm: npt.ArrayLike, query: EmbeddedScan) -> tuple[_Floats, float]:
    dims = template.volume.spatial_dims
    index = template.prepared.record.prepared.to_index(world_mm)[:dims]
    places, scores = find_points(template.maps, torch.from_numpy(index).float()[None], query.maps)
    last = np.array(query.prepared.array.shape[1:]) - 1  # cells of the filled up part lie outside
    place = np.zeros(3)
    place[:dims] = np.clip(places[0].numpy(), 0, last)
    return query.prepared.record.prepared.to_world(place), float(scores[0])


def _refuse_outside(scan: EmbeddedScan, world_mm: Sequence[float]) -> None:
    geometry = scan.prepared.record.prepared
    index = geometry.to_index(world_mm)[: len(geometry.shape)]
    last = np.array(geometry.shape) - 1
    if not ((index >= -0.5) & (index <= last + 0.5)).all():  # a point that is no number lies nowhere
        low, high = (geometry.to_world([*corner, 0][:3]) for corner in (0 * last, last))
        raise ImageError(
            f"the point {_mm(world_mm)} lies outside the scan, whose corners are {_mm(low)} and {_mm(high)} (RAS+ mm)",
            reason="point-outside",
        )


def _mm(place: Sequence[float] | _Floats) -> str:
    return "(" + ", ".join(f"{float(n):.1f}" for n in place) + ")"
