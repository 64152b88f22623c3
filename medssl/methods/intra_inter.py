"""Joint image-volume clustering: images and slices are clustered, then whole volumes, with one 2D encoder.

Nguyen et al., "Joint Self-Supervised Image-Volume Representation Learning with Intra-Inter Contrastive Clustering",
AAAI 2023, https://arxiv.org/abs/2212.01893. Deviations: one run in place of three, so that steps of images train the 2D
encoder in all stages; clusters are balanced over the batch (SwAV, one of the paper's two) at both levels; volumes are
centred over the batch; attention is plain and looks across slices.
"""

from collections.abc import Iterable
from typing import cast, final

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.data.masking import random_mask, step_generator
from medssl.losses.distillation import across_views, balanced
from medssl.losses.gather import gather
from medssl.methods.base import (
    Batch,
    Method,
    MethodCard,
    expect,
    not_negative,
    positive,
    ratio,
    require,
    share,
    unbalanced,
)
from medssl.models.batch_norm import BatchNorm
from medssl.models.momentum import KeyQueue
from medssl.models.projectors import Projector, Prototypes
from medssl.models.slices import SliceEncoder


@final
class IntraInter(Method):
    """Swapped prediction of balanced clusters: of images always, and of volumes in three stages.

    A step of images clusters them. A step of volumes clusters some of their slices at first; then it predicts hidden
    slices from the others and leaves the 2D encoder to the images; then it clusters whole volumes and trains
    everything.

    Args:
        encoder: A `SliceEncoder`.
        seed: Seed of masks, of slices and of the queue's first, random vectors.
        head: Widths of the projector's hidden layer and of its output, and the number of prototypes of images.
        volumes: Number of prototypes of volumes, and how many earlier volumes of each view take part in balancing.
        temperatures: Of the prediction and of the assignment.
        mask_ratio: Share of slices hidden.
        slices: Slices of a volume that are clustered in the first stage, the same ones of both views.
        stages: Shares of the run after which hidden slices and after which volumes are learned from, and for which
            share of the run the prototypes do not move, nor the queue is used, when their stage has begun.

    Raises:
        ConfigError: The encoder is no `SliceEncoder`, or numbers out of range.
    """

    card = MethodCard("Nguyen et al., AAAI 2023", "https://arxiv.org/abs/2212.01893", "clustering", ("SliceEncoder",))
    views = 2
    least_batch = 2
    mixed = True
    over_batch = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        seed: int = 0,
        head: tuple[int, int, int] = (2048, 128, 3000),
        volumes: tuple[int, int] = (3000, 1024),
        temperatures: tuple[float, float] = (0.1, 0.05),
        mask_ratio: float = 0.1,
        slices: int = 4,
        stages: tuple[float, float, float] = (0.4, 0.6, 0.01),
    ) -> None:
        super().__init__()
        self._encoder = expect(encoder, SliceEncoder, "intra_inter", "it encodes volumes slice by slice in 2D")
        problems = positive(prediction=temperatures[0], assignment=temperatures[1], slices=slices, volumes=volumes[0])
        problems += not_negative(queue=volumes[1]) + ratio(mask_ratio=mask_ratio)
        problems += share(masked=stages[0], inter=stages[1], frozen=stages[2])
        if stages[0] > stages[1]:
            problems.append(f"stages must rise, got {tuple(stages)}")
        require(problems)
        self.seed, self.mask_ratio, self.slices, self.stages = seed, mask_ratio, slices, stages
        self.temperature, self.epsilon = temperatures
        widths = [self._encoder.slices.feature_channels[-1], *head[:2]]
        self.projector = Projector(widths, bias=True, last_bias=True)
        self.image_prototypes = Prototypes(head[1], head[2])
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, self._encoder.width), std=0.02))
        self.decoder = nn.Linear(self._encoder.width, self._encoder.vector_width)
        self.centre = BatchNorm(self._encoder.width, affine=False)
        self.volume_prototypes = Prototypes(self._encoder.width, volumes[0])
        queues = range(2 if volumes[1] else 0)
        self.queues = nn.ModuleList([KeyQueue(volumes[1], self._encoder.width, seed + view) for view in queues])
        self._fresh: list[Tensor] = []
        self._progress = 0.0

    @property
    def encoder(self) -> SliceEncoder:
        """The 2D encoder and what makes one of volumes of it."""
        return self._encoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` of the image's dimension and the stage, and under the name of its kind."""
        first, second = batch["views"]
        self._progress = float(batch.get("progress", 1.0))
        masked, inter, _ = self.stages
        if first.ndim == 4:
            name, loss = "intra_2d", self._intra(first, second)
        elif self._progress < masked:
            name, loss = "intra_3d", self._intra(*self._some_slices(first, second, int(batch["step"])))
        elif self._progress < inter:
            name, loss = "masked_3d", self._masked(first, second, int(batch["step"]))
        else:
            name, loss = "inter_3d", self._inter(first, second)
        return {"loss": loss, name: loss.detach()}

    def misfits(self, together: int, spatial_dims: int) -> list[str]:
        """Too few images, slices or volumes to balance."""
        images, volumes = (len(p.weight) for p in (self.image_prototypes, self.volume_prototypes))
        if spatial_dims == 2:
            return unbalanced(images, together, None, "images")
        masked, inter, _ = self.stages
        queue = len(cast(KeyQueue, self.queues[0]).keys) if self.queues else 0
        problems = unbalanced(images, together * self.slices, None, "slices") if masked > 0 else []
        return problems + (unbalanced(volumes, together, queue, "volumes") if inter < 1 else [])

    def before_step(self, step: int) -> None:
        """Hold prototypes still when their stage has just begun."""
        _, inter, frozen = self.stages
        for prototypes, until in ((self.image_prototypes, frozen), (self.volume_prototypes, inter + frozen)):
            if self._progress < until:
                prototypes.weight.grad = None

    def after_step(self, step: int) -> None:
        """The step's volumes enter the queue of their view."""
        if self._fresh:
            for queue, vectors in zip(self.queues, torch.cat(self._fresh, dim=1), strict=True):
                keys = cast(KeyQueue, queue)
                keys.push(vectors[-len(keys.keys) :])
        self._fresh = []

    def _intra(self, first: Tensor, second: Tensor) -> Tensor:
        """Two views of images (B, C, H, W)."""
        vectors = [F.normalize(self.projector(self._encoder.slices.embed(v)).float(), dim=1) for v in (first, second)]
        return self._swapped(vectors, self.image_prototypes)

    def _some_slices(self, first: Tensor, second: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The same slices (B * m, C, H, W) of two views (B, C, H, W, n)."""
        count = first.shape[-1]
        noise = torch.rand(len(first), count, generator=step_generator(self.seed, step))
        index = noise.argsort(1)[:, : min(self.slices, count)].to(first.device)
        rows = torch.arange(len(first), device=first.device)[:, None]
        one, other = (view.movedim(-1, 1)[rows, index].flatten(0, 1) for view in (first, second))
        return one, other

    def _masked(self, first: Tensor, second: Tensor, step: int) -> Tensor:
        """Slices, the hidden ones too, from the sequence; as the authors do, all count, and the sum is divided by the
        number hidden.
        """
        count, generator = first.shape[-1], step_generator(self.seed, step)
        losses = []
        for view in (first, second):
            vectors = self._still(view)
            hidden = random_mask([count], len(view), self.mask_ratio, generator).to(view.device)
            predicted = self.decoder(self._encoder.sequence(vectors, (hidden, self.mask_token)))
            losses.append(F.mse_loss(predicted.float(), vectors))
        return torch.stack(losses).sum() / max(int(self.mask_ratio * count), 1)

    @torch.no_grad()
    def _still(self, view: Tensor) -> Tensor:
        """Vectors of the slices; neither weights nor statistics of the 2D encoder move."""
        training = self._encoder.slices.training
        self._encoder.slices.eval()
        vectors = self._encoder.vectors(view)
        self._encoder.slices.train(training)
        return vectors

    def _inter(self, first: Tensor, second: Tensor) -> Tensor:
        """Two views of volumes (B, C, H, W, n): the mean over slices of the sequence, centred, at unit length.

        What all volumes have in common would leave their cosines nearly alike, and clusters to chance.
        """
        encoder = self._encoder
        means = [encoder.sequence(encoder.vectors(view)).float().mean(1) for view in (first, second)]
        vectors = [F.normalize(self.centre(mean), dim=1) for mean in means]
        if self.training and self.queues:
            self._fresh.append(torch.stack([gather(view) for view in vectors]))
        used = bool(self.queues) and self._progress >= self.stages[1] + self.stages[2]
        return self._swapped(vectors, self.volume_prototypes, self.queues if used else ())

    def _swapped(self, vectors: list[Tensor], prototypes: Prototypes, queues: Iterable[nn.Module] = ()) -> Tensor:
        """Each view's balanced clusters from the other view; earlier vectors in queues take part in balancing."""
        earlier: list[Tensor | None] = [cast(KeyQueue, queue).keys for queue in queues]
        pairs = zip(vectors, earlier or [None] * len(vectors), strict=True)
        targets = [balanced(own, prototypes, self.epsilon, old) for own, old in pairs]
        return across_views(targets, [prototypes(own) for own in vectors], self.temperature)
