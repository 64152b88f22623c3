"""BYOL: predict what a slowly moving teacher makes of the other view; no negatives.

Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, https://arxiv.org/abs/2006.07733.
Deviations: a vision transformer's vector is the mean of its patch tokens; no colour, no solarisation; AdamW unless the
run says otherwise.
"""

from typing import final

from torch import Tensor

from medssl.losses.agreement import cosine_distance
from medssl.methods.base import Batch, MethodCard, SiameseMethod, require, share
from medssl.models.encoder import Encoder
from medssl.models.momentum import Teacher, cosine_momentum
from medssl.models.projectors import Branch, Projector


@final
class BYOL(SiameseMethod):
    """Self-distillation of projections through a predictor.

    Args:
        encoder: Any encoder.
        steps: Steps of the run, over which the momentum rises to 1.
        momentum: Of the teacher at the start; 0.996 for 1,000 epochs, 0.99 for 100 to 300.
        hidden: Width of the hidden layers of projector and predictor.
        width: Width of a projection.

    Raises:
        ConfigError: A momentum outside [0, 1].
    """

    card = MethodCard("Grill et al., NeurIPS 2020", "https://arxiv.org/abs/2006.07733", "self-distillation")

    def __init__(
        self, encoder: Encoder, *, steps: int, momentum: float = 0.996, hidden: int = 4096, width: int = 256
    ) -> None:
        super().__init__()
        require(share(momentum=momentum))
        self.steps, self.momentum = steps, momentum
        widths = [encoder.feature_channels[-1], hidden, width]
        self.student = Branch(encoder, Projector(widths, bias=True, last_bias=True))
        self.predictor = Projector([width, hidden, width], bias=True, last_bias=True)
        self.teacher = Teacher(self.student)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the sum of both directions, between 0 and 8."""
        first, second = batch["views"]
        loss = cosine_distance(self.predictor(self.student(first)), self.teacher(second))
        return {"loss": loss + cosine_distance(self.predictor(self.student(second)), self.teacher(first))}

    def after_step(self, step: int) -> None:
        """The teacher follows; the predictor is the student's alone."""
        self.teacher.follow(self.student, cosine_momentum(self.momentum, step - 1, self.steps))
