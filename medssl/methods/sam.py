"""SAM: the same place of the body gets the same embedding in two crops, and no other place does.

Yan et al., "SAM: Self-supervised Learning of Pixel-wise Anatomical Embeddings in Radiological Images", IEEE TMI 2022,
https://arxiv.org/abs/2012.02383. Deviations: 2D and 3D on any encoder; the crops are boxes of one source crop, which
overlap; distances are measured in steps of each grid; further negatives are images of other patients of this process.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from medssl.data.masking import step_generator
from medssl.imaging.errors import ConfigError
from medssl.losses.anatomy import PairSampling, place_info_nce
from medssl.losses.precision import without_autocast
from medssl.methods.base import Batch, Method, MethodCard, not_negative, positive, require
from medssl.models.anatomy import AnatomyMaps, AnatomyNetwork, cell_places
from medssl.models.encoder import Encoder


@final
class SAM(Method):
    """Self-supervised anatomical embeddings.

    Args:
        encoder: Any encoder of two maps or more.
        seed: Seed of the places that are compared.
        width: Numbers of an embedding.
        temperature: Divides the cosines.
        fine: Of the fine grid: places looked at, anchors, hard negatives, and how many of them are drawn.
        coarse: The same of the coarse grid.
        others: Coarse embeddings of other patients' images of the batch that are further negatives.
        radii: Of the fine and of the coarse grid, in steps: farthest that a counterpart may be, and nearest that a
            negative may be to the anchor or its counterpart.

    Raises:
        ConfigError: Numbers out of range, all at once.
    """

    card = MethodCard("Yan et al., TMI 2022", "https://arxiv.org/abs/2012.02383", "anatomical")
    views = 2
    over_batch = True
    places = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        seed: int = 0,
        width: int = 128,
        temperature: float = 0.5,
        fine: tuple[int, int, int, int] = (2000, 100, 2000, 500),
        coarse: tuple[int, int, int, int] = (2000, 100, 250, 200),
        others: int = 300,
        radii: tuple[float, float, float, float] = (1.25, 0.75, 1.0, 0.5),
    ) -> None:
        super().__init__()
        problems = positive(width=width, temperature=temperature) + not_negative(others=others)
        problems += [
            f"{n} needs positive numbers, got {v}" for n, v in (("fine", fine), ("coarse", coarse)) if min(v) < 1
        ]
        require(problems + ([] if min(radii) > 0 else [f"radii must be positive, got {radii}"]))
        if len(encoder.feature_channels) < 2:
            raise ConfigError([f"sam needs an encoder of two maps or more, {type(encoder).__name__} has one"])
        self.network = AnatomyNetwork(encoder, width)
        self.seed, self.temperature, self.others = seed, temperature, others
        self.fine, self.coarse = PairSampling(*fine, *radii[:2]), PairSampling(*coarse, *radii[2:])

    @property
    def encoder(self) -> Encoder:
        """The encoder below the heads."""
        return self.network.encoder

    def decoder_state_dict(self) -> dict[str, Tensor]:
        """Weights of the two heads, for `medssl match`."""
        return self.network.heads_state_dict()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the sum of `fine_loss` and `coarse_loss`."""
        views = batch["views"]
        samples, generator = views.shape[1], step_generator(self.seed, int(batch["step"]))
        maps: AnatomyMaps = self.network(views.flatten(0, 1))
        fine, coarse, ranking = (_rows(part, samples) for part in (maps.fine, maps.coarse, maps.coarse_on_fine()))
        places = [
            _places(batch["views_affine"].to(fine), grid.shape[2:], stride, batch["image"].shape[2:])
            for grid, stride in ((maps.fine, maps.stride), (maps.coarse, self.encoder.strides[-1]))
        ]
        losses, patients = [], batch["patient"].tolist()
        of_samples = zip(*(rows.unbind(1) for rows in (fine, ranking, coarse, *places)), strict=True)
        for sample, (near, rank, far, near_places, far_places) in enumerate(of_samples):
            near_loss = place_info_nce(near, near_places, self.fine, self.temperature, generator, ranking=rank)
            strangers = [n for n, patient in enumerate(patients) if patient != patients[sample]]
            others = self._others(coarse, strangers, generator)
            far_loss = place_info_nce(far, far_places, self.coarse, self.temperature, generator, others=others)
            losses.append(torch.stack([near_loss, far_loss]))
        found = torch.stack(losses).mean(0)
        return {"loss": found.sum(), "fine_loss": found[0].detach(), "coarse_loss": found[1].detach()}

    def _others(self, coarse: Tensor, samples: list[int], generator: torch.Generator) -> Tensor | None:
        """Embeddings (M, E) of some samples of all (V, B, N, E), drawn without replacement."""
        rows = torch.arange(coarse.shape[:3].numel()).view(coarse.shape[:3])[:, samples].flatten()
        if not len(rows) or not self.others:
            return None
        drawn = rows[torch.randperm(len(rows), generator=generator)[: self.others]]
        return coarse.flatten(0, 2)[drawn.to(coarse.device)]


def _rows(maps: Tensor, samples: int) -> Tensor:
    """(V * B, E, *grid) to (V, B, N, E)."""
    rows = maps.flatten(2).transpose(1, 2)
    return rows.reshape(-1, samples, *rows.shape[1:])


@without_autocast
def _places(affine: Tensor, grid: Sequence[int], stride: tuple[int, ...], source: Sequence[int]) -> Tensor:
    """Where the cells of all views lie in their sources (V, B, N, D), in steps of the grid; NaN outside.

    Turned boxes reach beyond the source, where its edge is repeated: such a cell shows no place of the body.
    """
    cells = cell_places(grid, stride).to(affine)
    voxels = cells @ affine[..., :-1].transpose(-1, -2) + affine[..., None, :, -1]
    last = torch.tensor([n - 1 for n in source]).to(voxels)
    outside = ((voxels < -0.5) | (voxels > last + 0.5)).any(-1, keepdim=True)
    return (voxels / torch.tensor(list(stride)).to(voxels)).masked_fill(outside, torch.nan)
