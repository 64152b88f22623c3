"""DINO: a student matches the centred and sharpened distribution of a slowly moving teacher across crops.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, https://arxiv.org/abs/2104.14294.
Deviations: schedules follow the share of the run that is done, not epochs; no colour, no solarisation.
"""

from typing import cast, final

import torch
from torch import Tensor

from medssl.losses.distillation import centred_softmax, moved_centre, soft_cross_entropy
from medssl.methods.base import Batch, MethodCard, SiameseMethod, require, share
from medssl.models.encoder import Encoder
from medssl.models.momentum import Teacher, cosine_momentum
from medssl.models.projectors import Branch, DINOHead


@final
class DINO(SiameseMethod):
    """Self-distillation with no labels, on two global views and any number of local ones.

    Args:
        encoder: Any encoder; a ViT's class token is what is compared.
        steps: Steps of the run, over which the momentum rises to 1.
        head: Widths of the head: hidden layers, vectors before the prototypes, and the number K of prototypes; K is
            65,536 in the paper, 4,096 to 16,384 suit small sets.
        temperatures: Of the student, and of the teacher at the start and after its warm-up.
        warmup: Share of the run over which the teacher's temperature rises (30 of 100 to 800 epochs in the paper).
        momentum: Of the teacher at the start; 0.9995 for small batches.
        centre_momentum: Of the centre.
        frozen: Share of the run in which the prototypes do not move (1 epoch in the paper).

    Raises:
        ConfigError: Numbers out of range, all at once.
    """

    card = MethodCard("Caron et al., ICCV 2021", "https://arxiv.org/abs/2104.14294", "self-distillation")
    local_views = True
    centre: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        steps: int,
        head: tuple[int, int, int] = (2048, 256, 65536),
        temperatures: tuple[float, float, float] = (0.1, 0.04, 0.07),
        warmup: float = 0.1,
        momentum: float = 0.996,
        centre_momentum: float = 0.9,
        frozen: float = 0.01,
    ) -> None:
        super().__init__()
        problems = share(warmup=warmup, momentum=momentum, centre_momentum=centre_momentum, frozen=frozen)
        if min(temperatures) <= 0:
            problems.append(f"temperatures must be positive, got {temperatures}")
        require(problems)
        self.steps, self.momentum, self.centre_momentum = steps, momentum, centre_momentum
        self.student_temperature, *self.teacher_temperatures = temperatures
        self.warmup, self.frozen = warmup, frozen
        self.student = Branch(encoder, DINOHead(encoder.feature_channels[-1], *head), summary=True)
        self.teacher = Teacher(self.student)
        self.register_buffer("centre", torch.zeros(head[-1]))
        self._fresh: list[Tensor] = []

    def encoder_state_dict(self) -> dict[str, Tensor]:
        """The teacher's encoder: its frozen features are the better ones (as the authors release it)."""
        return cast(Branch, self.teacher.network).encoder.state_dict()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean over teacher view and any other student view; `teacher_entropy`, between 0 and log K."""
        views = batch["views"]
        logits = self.teacher(views.flatten(0, 1))
        if self.training:
            self._fresh.append(logits)
        targets = centred_softmax(logits, self.centre, self._temperature(batch)).chunk(len(views))
        students = list(self.student(views.flatten(0, 1)).chunk(len(views)))
        if "local_views" in batch:
            small = batch["local_views"]
            students += self.student(small.flatten(0, 1)).chunk(len(small))
        terms = [
            soft_cross_entropy(target, student, self.student_temperature).mean()
            for number, target in enumerate(targets)
            for other, student in enumerate(students)
            if number != other
        ]
        entropy = -torch.stack([(target * target.clamp(min=1e-12).log()).sum(-1).mean() for target in targets]).mean()
        return {"loss": torch.stack(terms).mean(), "teacher_entropy": entropy}

    def before_step(self, step: int) -> None:
        """Hold the prototypes still at first."""
        if step < self.frozen * self.steps:
            cast(DINOHead, self.student.projector).prototypes.weight.grad = None

    def after_step(self, step: int) -> None:
        """The teacher follows, and the centre takes in the step's logits."""
        self.teacher.follow(self.student, cosine_momentum(self.momentum, step - 1, self.steps))
        self.centre.copy_(moved_centre(self.centre, torch.cat(self._fresh), self.centre_momentum))
        self._fresh = []

    def _temperature(self, batch: Batch) -> float:
        low, high = self.teacher_temperatures
        progress = float(batch.get("progress", 1.0))
        return high if progress >= self.warmup else low + (high - low) * progress / self.warmup
