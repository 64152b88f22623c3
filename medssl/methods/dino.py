"""DINO: a student matches the centred and sharpened distribution of a slowly moving teacher across crops.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, https://arxiv.org/abs/2104.14294.
Deviations: schedules follow the share of the run that is done, not epochs; no colour, no solarisation.
"""

from typing import final

from torch import Tensor

from medssl.losses.distillation import across_views, entropy, entropy_of_mean
from medssl.methods.base import Batch, MethodCard, require
from medssl.methods.base_distillation import DistillingMethod, Schedule, wrong_numbers
from medssl.models.encoder import Encoder
from medssl.models.projectors import Branch, DINOHead


@final
class DINO(DistillingMethod):
    """Self-distillation with no labels, on two global views and any number of local ones.

    Args:
        encoder: Any encoder; a ViT's class token is what is compared.
        steps: Steps of the run, over which the momentum rises to 1.
        head: Widths of the head: hidden layers, vectors before the prototypes, and the number K of prototypes; K is
            65,536 in the paper, 4,096 to 16,384 suit small sets.
        temperatures: Of the student, and of the teacher at the start and after its warm-up.
        schedule: Momentum of the teacher at the start (0.9995 for small batches in long runs); share of the run over
            which its temperature rises (30 of 100 to 800 epochs in the paper); share in which the prototypes do not
            move (1 epoch in the paper).
        centre_momentum: Of the centre.
        head_norm: Batch norm in the head (`use_bn_in_head` of the authors' code, off in the paper).

    Raises:
        ConfigError: Numbers out of range, all at once.
    """

    card = MethodCard("Caron et al., ICCV 2021", "https://arxiv.org/abs/2104.14294", "self-distillation")

    def __init__(
        self,
        encoder: Encoder,
        *,
        steps: int,
        head: tuple[int, int, int] = (2048, 256, 65536),
        temperatures: tuple[float, float, float] = (0.1, 0.04, 0.07),
        schedule: Schedule = (0.996, 0.1, 0.01),
        centre_momentum: float = 0.9,
        head_norm: bool = False,
    ) -> None:
        require(wrong_numbers(temperatures, schedule, centre_momentum))
        super().__init__(
            Branch(encoder, DINOHead(encoder.feature_channels[-1], *head, norm=head_norm), summary=True),
            steps=steps,
            temperatures=temperatures,
            schedule=schedule,
            centres={"centre": head[-1]},
            centre_momentum=centre_momentum,
        )
        _, *self.teacher_temperatures = temperatures

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean over teacher view and any other student view; `teacher_entropy` and `teacher_usage`."""
        views = batch["views"]
        images, count = views.flatten(0, 1), len(views)
        targets = self.centred("centre", self.teacher(images), self.warmed(batch, *self.teacher_temperatures))
        students = [*self.student(images).chunk(count), *self._local_logits(batch)]
        loss = across_views(targets.chunk(count), students, self.temperature)
        return {"loss": loss, "teacher_entropy": entropy(targets), "teacher_usage": entropy_of_mean(targets)}

    def _local_logits(self, batch: Batch) -> tuple[Tensor, ...]:
        """The student's logits (B, K) of each local view; they are of one size and computed in one pass."""
        if "local_views" not in batch:
            return ()
        small = batch["local_views"]
        logits: Tensor = self.student(small.flatten(0, 1))
        return logits.chunk(len(small))
