"""MoCo v2: a view finds its partner, seen by a slowly moving teacher, among a queue of earlier samples.

Chen, Fan, Girshick and He, "Improved Baselines with Momentum Contrastive Learning", 2020,
https://arxiv.org/abs/2003.04297; v1: He et al., CVPR 2020, https://arxiv.org/abs/1911.05722.
Deviations: keys are not shuffled between devices, so the encoder should have group or instance norm in place of batch
    norm, by which a query could tell its key from those of other batches (a run says so before it starts); keys enter
    the queue after the optimiser step, so that a batch computed in parts has the negatives of the whole one; a vision
    transformer's vector is the mean of its patch tokens; no colour is varied.
"""

from typing import final

import torch
from torch import Tensor

from medssl.losses.contrastive import queue_info_nce
from medssl.losses.gather import gather
from medssl.methods.base import Batch, MethodCard, SiameseMethod, positive, require, share, whole_batches
from medssl.models.encoder import Encoder
from medssl.models.masked import has_batch_norm
from medssl.models.momentum import KeyQueue, Teacher
from medssl.models.projectors import Branch, Projector


@final
class MoCoV2(SiameseMethod):
    """Contrast against a queue of keys: negatives do not depend on the batch size.

    Args:
        encoder: Any encoder.
        batch_size: Samples of a step over all devices; the queue holds a whole number of them.
        seed: Seed of the queue's first, random keys.
        temperature: Divides the cosines.
        momentum: Of the teacher, constant.
        queue: Keys kept; 65,536 in the paper, 4,096 to 16,384 suit small sets.
        hidden: Width of the projector's hidden layer.
        width: Width of a key.

    Raises:
        ConfigError: A queue that is no whole number of batches, or numbers out of range.
    """

    card = MethodCard("Chen et al., 2020", "https://arxiv.org/abs/2003.04297", "contrastive")

    def __init__(
        self,
        encoder: Encoder,
        *,
        batch_size: int,
        seed: int = 0,
        temperature: float = 0.2,
        momentum: float = 0.999,
        queue: int = 65536,
        hidden: int = 2048,
        width: int = 128,
    ) -> None:
        super().__init__()
        numbers = positive(temperature=temperature, queue=queue) + share(momentum=momentum)
        require(numbers + whole_batches(queue, batch_size))
        self.temperature, self.momentum = temperature, momentum
        widths = [encoder.feature_channels[-1], hidden, width]
        self.student = Branch(encoder, Projector(widths, norm=False, bias=True, last_bias=True))
        self.teacher = Teacher(self.student)
        self.queue = KeyQueue(queue, width, seed)
        self._fresh: list[Tensor] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the first view against the second one's key and the queue."""
        first, second = batch["views"]
        key = self.teacher(second)
        if self.training:
            self._fresh.append(gather(key))
        return {"loss": queue_info_nce(self.student(first), key, self.queue.keys, self.temperature)}

    def notes(self, cases: int) -> list[str]:
        """Whether the encoder has batch norm, and whether the queue holds keys of a query's own case."""
        found = []
        if has_batch_norm(self.encoder):
            found.append(
                "the encoder has batch norm: query and key share the statistics of their batch, which the keys in the "
                "queue do not, so that the loss can fall without anatomy being learned; MoCoV2 here shuffles no keys "
                "against that: take norm group or instance in the encoder"
            )
        if len(self.queue.keys) > cases:
            found.append(
                f"the queue holds {len(self.queue.keys)} keys of {cases} cases, so a query has its own case among its "
                "negatives: where crops of a case look alike, a queue shorter than the cases learns more"
            )
        return found

    def after_step(self, step: int) -> None:
        """The teacher follows, and the step's keys enter the queue."""
        self.teacher.follow(self.student, self.momentum)
        self.queue.push(torch.cat(self._fresh))
        self._fresh = []
