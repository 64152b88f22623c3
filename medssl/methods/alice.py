"""Alice: a masked student and its teacher agree on two patients' crops of the same place of the body.

Jiang et al., "Anatomical Invariance Modeling and Semantic Alignment for Self-supervised Learning in 3D Medical Image
Analysis", ICCV 2023, https://arxiv.org/abs/2302.05615. Deviations: 2D and 3D; a sample's partner is another patient's
source crop of the same batch; the error of the reconstruction is that of hidden voxels, as the paper says, unless the
code's is asked for.
"""

from pathlib import Path
from typing import Literal, cast, final

import torch
from torch import Tensor

from medssl.data.masking import draw_mask, step_generator
from medssl.data.mined_pairs import cut_about, draw_points, mined_centres, other_patients
from medssl.imaging.errors import ConfigError
from medssl.imaging.preprocess import Preprocess
from medssl.losses.distillation import across_views, entropy, entropy_of_mean, soft_cross_entropy
from medssl.methods.base import Batch, HelperRun, MethodCard, not_negative, positive, ratio, require
from medssl.methods.base_distillation import DistillingMethod, wrong_numbers
from medssl.models.alignment import Alignment, Described, DescribingBranch
from medssl.models.anatomy import AnatomyMaps, AnatomyNetwork, anatomy_file, find_points, read_anatomy_network
from medssl.models.decoders import without_head
from medssl.models.encoder import Encoder

_TRIES = 10  # points of a sample that are looked up (up to 101, one by one, in the authors' code)
_SURE = 0.7  # similarity from which on a match counts as one
_TERMS = ("summary_loss", "place_loss", "reconstruction")
_FROZEN = 0.01  # share of the run in which the prototypes do not move (1 epoch in the authors' code)


@final
class Alice(DistillingMethod):
    """Anatomical invariance and semantic alignment.

    Crops are cut out of the batch's `image`, so `views.size` is the region in which places are looked up.

    Args:
        encoder: Encoder whose maps get coarser.
        steps: Steps of the run.
        seed: Seed of points and masks.
        crop: What the networks see, in voxels (64 in the paper).
        matcher: Folder of a run of `sam` on images prepared alike, which finds the places; without one, the place
            relative to the source crop is taken for the same, as in images that are crops of one organ.
        mask: `column`: drawn in the plane of the first two axes and the same along the third, as in the authors' code;
            `block`: drawn along all axes. Share that is hidden, and voxels a side of what is hidden as one.
        head: Widths of the hidden layers and of the vectors before the prototypes, and the number of prototypes;
            whether batch norm follows the hidden layers, as it does not in the paper.
        teacher: Momentum at the start; temperature at the start and after its warm-up; share of the run it takes.
        weights: Of the losses of summary, places and reconstruction.
        recon_region: Voxels whose reconstruction counts: `masked`, as in the paper, or `all`. The authors' code is
            `all` with weights of 1, 1 and 5.

    Raises:
        ConfigError: Numbers out of range, all at once.
        CheckpointError: The matcher's run cannot be used.
    """

    card = MethodCard(
        "Jiang et al., ICCV 2023",
        "https://arxiv.org/abs/2302.05615",
        "anatomical",
        ("SwinV2", "ResNet", "ResidualUNetEncoder"),
    )
    views = 1
    local_views = False
    cuts_crops = True
    over_batch = True

    def __init__(  # noqa: PLR0913 (what the paper and its code have as an option)
        self,
        encoder: Encoder,
        *,
        steps: int,
        seed: int = 0,
        crop: tuple[int, ...],
        matcher: str | None = None,
        mask: tuple[Literal["column", "block"], float, int] = ("column", 0.75, 16),
        head: tuple[int, int, int, bool] = (2048, 256, 512, False),
        teacher: tuple[float, float, float, float] = (0.996, 0.008, 0.01, 0.1),
        weights: tuple[float, float, float] = (1.0, 1.0, 10.0),
        recon_region: Literal["masked", "all"] = "masked",
    ) -> None:
        kind, hidden, block = mask
        momentum, low, high, warmup = teacher
        widths, norm = head[:3], head[3]
        schedule = (momentum, warmup, _FROZEN)
        problems = wrong_numbers((0.1, low, high), schedule, 0.9) + ratio(mask=hidden) + positive(block=block)
        problems += not_negative(**dict(zip(_TERMS, weights, strict=True)))
        if recon_region not in ("masked", "all"):
            problems.append(f"recon_region must be masked or all, got {recon_region!r}")
        if len(crop) != encoder.spatial_dims or min(crop, default=0) < 1:
            problems.append(f"crop needs {encoder.spatial_dims} positive numbers, got {crop}")
        elif any(n % block for n in crop[: 2 if kind == "column" else None]):
            problems.append(f"crop {crop} does not divide into blocks of {block}")
        if kind not in ("column", "block"):
            problems.append(f"mask must be column or block, got {kind!r}")
        if min(widths) < 8 or widths[-1] % 8:
            problems.append(f"head needs numbers of 8 and more, and prototypes in eights, got {widths}")
        require(problems)
        super().__init__(
            DescribingBranch(encoder, widths, norm=norm),
            steps=steps,
            temperatures=(0.1, low, high),
            schedule=schedule,
            centres={"centre": widths[-1], "place_centre": widths[-1]},
            centre_momentum=0.9,
        )
        self.alignment = Alignment(widths[-1], 8)
        self.seed, self.crop, self.kind, self.hidden, self.block = seed, tuple(crop), kind, hidden, block
        self.teacher_temperatures, self.weights, self.whole = (low, high), weights, recon_region == "all"
        self.matcher: AnatomyNetwork | None = None
        if matcher is not None:
            self.matcher, helper = _matcher(Path(matcher), encoder)
            self.helpers = (helper,)

    def train(self, mode: bool = True) -> "Alice":
        """As of any module; the matcher is never trained."""
        super().train(mode)
        if self.matcher is not None:
            self.matcher.eval()
        return self

    def seen(self, batch: Batch) -> tuple[int, ...]:
        """The size of its own crops."""
        return self.crop

    def notes(self, cases: int) -> list[str]:
        """Without a matcher, what is taken for the same place."""
        if self.matcher is not None:
            return []
        return [
            "without a matcher crops of two patients are paired by where they lie in the source crops, which is the "
            "same place of the body only where images are crops of one organ; else give a run of sam as matcher"
        ]

    def decoder_state_dict(self) -> dict[str, Tensor]:
        """Weights of the teacher's decoder without its last layer, which is made new for the task."""
        return without_head(cast(DescribingBranch, self.teacher.network).decoder)

    def before_step(self, step: int) -> None:
        """Hold all prototypes still at first."""
        super().before_step(step)
        if step < self.frozen * self.steps:
            cast(DescribingBranch, self.student).places.weight.grad = None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, its terms before they are weighted, and with a matcher `matched`: the share of pairs surely found."""
        pairs, sure = self._pairs(batch)
        hidden = self._hidden(len(pairs), int(batch["step"]), pairs.device)
        student, teacher = self.student, cast(DescribingBranch, self.teacher.network)
        seen: Described = cast(DescribingBranch, student).describe(pairs * ~hidden)
        with torch.no_grad():
            known = teacher.describe(pairs)
            aligned = self.alignment(seen.coarse.detach(), known.fine)
        temperature = self.warmed(batch, *self.teacher_temperatures)
        wanted = self.centred("centre", known.summary, temperature)
        places = self.centred("place_centre", aligned.flatten(0, 1), temperature)
        own = self.alignment(seen.coarse, seen.fine).flatten(0, 1)
        error = (seen.image.float() - pairs.float()).square()
        terms = (
            across_views(wanted.chunk(2), seen.summary.chunk(2), self.temperature),
            soft_cross_entropy(places, own, self.temperature).mean(),
            error.mean() if self.whole else (error * hidden).sum() / (hidden.sum() * pairs.shape[1]),
        )
        loss = sum(weight * term for weight, term in zip(self.weights, terms, strict=True))
        logs = {name: term.detach() for name, term in zip(_TERMS, terms, strict=True)}
        logs |= {"teacher_entropy": entropy(wanted), "teacher_usage": entropy_of_mean(wanted)}
        if sure is not None:
            logs["matched"] = sure.float().mean()
        return {"loss": cast(Tensor, loss), **logs}

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor]:
        """The first crop of each pair, with its hidden voxels at 0, and as the student restores it."""
        image = batch["image"]
        first = self._pairs({**batch, "patient": batch["patient"][: len(image)]})[0][: len(image)]
        hidden = self._hidden(len(first), int(batch["step"]), first.device)
        restored = cast(DescribingBranch, self.student).describe(first * ~hidden).image
        return {"input": first.float(), "masked": (first * ~hidden).float(), "reconstructed": restored.float()}

    @torch.no_grad()
    def _pairs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Crops (2 B, C, *crop), first those of all samples, then their partners'; with a matcher who was surely found
        (B,).
        """
        image = batch["image"]
        if any(n < size for n, size in zip(image.shape[2:], self.crop, strict=True)):
            shape = tuple(image.shape[2:])
            raise ConfigError([f"crops of {self.crop} do not fit into views.size {shape}: take larger ones or smaller"])
        partners = other_patients(batch["patient"].cpu())
        points = draw_points(image, self.crop, _TRIES, step_generator(self.seed, int(batch["step"])))
        if self.matcher is None:
            own = found = points[:, 0]
            sure = None
        else:
            maps: AnatomyMaps = self.matcher.embed_whole(image)

            def find(sample: int, places: Tensor, partner: int) -> tuple[Tensor, Tensor]:
                both = find_points(maps.sample(sample), places.to(image.device), maps.sample(partner))
                return both[0].cpu(), both[1].cpu()

            own, found, sure = mined_centres(points, partners, find, _SURE)
        pair = [cut_about(image, own, self.crop), cut_about(image[partners.to(image.device)], found, self.crop)]
        return torch.cat(pair), None if sure is None else sure.to(image.device)

    def _hidden(self, count: int, step: int, device: torch.device) -> Tensor:
        """(count, 1, *crop) bool, True = hidden."""
        axes = self.crop[:2] if self.kind == "column" else self.crop
        grid = [n // self.block for n in axes]
        mask = draw_mask("random", grid, count, self.hidden, step_generator(self.seed + 1, step))[:, None]
        for axis in range(len(grid)):
            mask = mask.repeat_interleave(self.block, dim=2 + axis)
        if len(axes) < len(self.crop):
            mask = mask[..., None].expand(-1, -1, *self.crop)
        return mask.to(device)


def _matcher(run: Path, encoder: Encoder) -> tuple[AnatomyNetwork, HelperRun]:
    """The frozen network of a run of `sam` on images like the encoder's, and what the run's record needs of it."""
    network, meta = read_anatomy_network(run)
    own, wanted = ((e.spatial_dims, e.in_channels) for e in (network.encoder, encoder))
    if own != wanted:
        told = [f"{dims}D images of {channels} channel(s)" for dims, channels in (own, wanted)]
        raise ConfigError([f"matcher {run} was made for {told[0]}, these are {told[1]}"])
    helper = HelperRun("matcher", anatomy_file(run), Preprocess.from_json(meta["preprocess"]))
    return network.requires_grad_(False), helper
