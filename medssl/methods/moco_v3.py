"""MoCo v3: both views find their partners, seen by a slowly moving teacher, among the batch.

Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021,
https://arxiv.org/abs/2104.02057.
Deviations: a vision transformer's vector is the mean of its patch tokens, not the class token; no colour, no
    solarisation.
"""

from typing import final

from torch import Tensor

from medssl.losses.contrastive import batch_info_nce
from medssl.methods.base import Batch, MethodCard, SiameseMethod, positive, require, share
from medssl.models.encoder import Encoder
from medssl.models.momentum import Teacher, cosine_momentum
from medssl.models.projectors import Branch, Projector
from medssl.models.vit import ViT


@final
class MoCoV3(SiameseMethod):
    """Contrast of predictions with the keys of the batch.

    Args:
        encoder: Any encoder.
        steps: Steps of the run, over which the momentum rises to 1.
        temperature: Divides the cosines; 0.2 for a ViT, 1.0 for a CNN.
        momentum: Of the teacher at the start; 0.99, or 0.996 for 1,000 epochs.
        hidden: Width of the hidden layers.
        width: Width of a key.
        freeze_patch_embedding: Leave a ViT's patch embedding as it was drawn, which steadies training.

    Raises:
        ConfigError: Numbers out of range, or nothing to freeze.
    """

    card = MethodCard("Chen, Xie and He, ICCV 2021", "https://arxiv.org/abs/2104.02057", "contrastive")
    over_batch = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        steps: int,
        temperature: float = 0.2,
        momentum: float = 0.99,
        hidden: int = 4096,
        width: int = 256,
        freeze_patch_embedding: bool = False,
    ) -> None:
        super().__init__()
        problems = positive(temperature=temperature) + share(momentum=momentum)
        if freeze_patch_embedding and not isinstance(encoder, ViT):
            problems.append(f"freeze_patch_embedding needs a ViT, got {type(encoder).__name__}")
        require(problems)
        self.steps, self.temperature, self.momentum = steps, temperature, momentum
        transformer = isinstance(encoder, ViT)
        if freeze_patch_embedding:
            encoder.patch_embed.requires_grad_(False)
        widths = [encoder.feature_channels[-1], *[hidden] * (2 if transformer else 1), width]
        self.student = Branch(encoder, Projector(widths, last_norm="fixed"))
        self.predictor = Projector([width, hidden, width], last_norm="fixed" if transformer else "none")
        self.teacher = Teacher(self.student)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the sum of both directions, each times 2 x temperature."""
        first, second = batch["views"]
        loss = batch_info_nce(self.predictor(self.student(first)), self.teacher(second), self.temperature)
        other = batch_info_nce(self.predictor(self.student(second)), self.teacher(first), self.temperature)
        return {"loss": loss + other}

    def after_step(self, step: int) -> None:
        """The teacher follows; the predictor is the student's alone."""
        self.teacher.follow(self.student, cosine_momentum(self.momentum, step - 1, self.steps))
