"""SwAV: predict one view's cluster from another view; clusters are balanced over the batch by Sinkhorn-Knopp.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020,
https://arxiv.org/abs/2006.09882. Deviations: a vision transformer's vector is the mean of its patch tokens; the queue
and the freezing of the prototypes follow the share of the run that is done, not epochs; no colour is varied.
"""

from typing import cast, final

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.losses.distillation import across_views, balanced
from medssl.losses.gather import gather
from medssl.methods.base import (
    Batch,
    MethodCard,
    SiameseMethod,
    not_negative,
    positive,
    require,
    share,
    unbalanced,
    whole_batches,
)
from medssl.models.encoder import Encoder
from medssl.models.momentum import KeyQueue
from medssl.models.projectors import Branch, Projector, Prototypes


@final
class SwAV(SiameseMethod):
    """Swapped prediction of balanced assignments, on two global views and any number of local ones.

    Args:
        encoder: Any encoder.
        steps: Steps of the run.
        batch_size: Samples of a step over all devices; the queue holds a whole number of them.
        seed: Seed of the queue's first, random vectors.
        head: Widths of the projector's hidden layer and of its output, and the number of prototypes; 3,000 in the
            paper.
        temperatures: Of the prediction and of the assignment; the smaller, the harder.
        queue: Earlier vectors of each global view that take part in balancing; needed where a batch is smaller than the
            number of prototypes; 0 = none.
        shares: Shares of the run in which the prototypes do not move yet, and after which the queue is used.

    Raises:
        ConfigError: Numbers out of range, or a queue that is no whole number of batches.
    """

    card = MethodCard("Caron et al., NeurIPS 2020", "https://arxiv.org/abs/2006.09882", "clustering")
    local_views = True
    over_batch = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        steps: int,
        batch_size: int,
        seed: int = 0,
        head: tuple[int, int, int] = (2048, 128, 3000),
        temperatures: tuple[float, float] = (0.1, 0.05),
        queue: int = 0,
        shares: tuple[float, float] = (0.01, 0.1),
    ) -> None:
        super().__init__()
        problems = positive(prediction=temperatures[0], assignment=temperatures[1]) + not_negative(queue=queue)
        problems += share(frozen=shares[0], queued=shares[1]) + whole_batches(queue, batch_size)
        require(problems)
        self.steps, (self.temperature, self.epsilon) = steps, temperatures
        self.frozen, self.queued = shares
        self.student = Branch(encoder, Projector([encoder.feature_channels[-1], *head[:2]], bias=True, last_bias=True))
        self.prototypes = Prototypes(head[1], head[2])
        self.queues = nn.ModuleList([KeyQueue(queue, head[1], seed + view) for view in range(2 if queue else 0)])
        self._fresh: list[Tensor] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean over assigned global view and any other view."""
        queued = float(batch.get("progress", 1.0)) >= self.queued
        vectors = [F.normalize(self.student(view).float(), dim=1) for view in batch["views"]]
        if self.training:
            self._fresh.append(torch.stack([gather(view) for view in vectors]))
        guesses = [*vectors, *(self.student(view) for view in batch.get("local_views", ()))]
        scores = [self.prototypes(view) for view in guesses]
        queues = self.queues if self.queues and queued else [None] * len(vectors)
        earlier = [None if queue is None else cast(KeyQueue, queue).keys for queue in queues]
        targets = [
            balanced(vector, self.prototypes, self.epsilon, old) for vector, old in zip(vectors, earlier, strict=True)
        ]
        return {"loss": across_views(targets, scores, self.temperature)}

    def misfits(self, together: int, spatial_dims: int) -> list[str]:
        """Too few vectors to balance."""
        queue = len(cast(KeyQueue, self.queues[0]).keys) if self.queues else 0
        return unbalanced(len(self.prototypes.weight), together, queue)

    def before_step(self, step: int) -> None:
        """Hold the prototypes still at first."""
        if step < self.frozen * self.steps:
            self.prototypes.weight.grad = None

    def after_step(self, step: int) -> None:
        """The step's vectors enter the queue of their view."""
        for queue, vectors in zip(self.queues, torch.cat(self._fresh, dim=1), strict=False):
            cast(KeyQueue, queue).push(vectors)
        self._fresh = []
