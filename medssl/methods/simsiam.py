"""SimSiam: each view predicts the other one's projection, which is held fixed; no negatives and no teacher.

Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, https://arxiv.org/abs/2011.10566.
Deviations: a vision transformer's vector is the mean of its patch tokens; the predictor's learning rate falls with that
    of the rest unless `fix_predictor_lr` keeps it constant, as the paper does; no colour is varied.
"""

from typing import final

from torch import Tensor

from medssl.losses.agreement import negative_cosine
from medssl.methods.base import Batch, MethodCard, SiameseMethod, require
from medssl.models.encoder import Encoder
from medssl.models.projectors import Branch, Projector


@final
class SimSiam(SiameseMethod):
    """Agreement of two views with a stopped gradient.

    Args:
        encoder: Any encoder.
        hidden: Width of the projector and of its output.
        bottleneck: Width of the predictor's hidden layer.
        fix_predictor_lr: Whether the predictor's learning rate stays at its peak, as in the paper, while that of the
            rest falls.

    Raises:
        ConfigError: A bottleneck that is none.
    """

    card = MethodCard("Chen and He, CVPR 2021", "https://arxiv.org/abs/2011.10566", "self-distillation")

    def __init__(
        self, encoder: Encoder, *, hidden: int = 2048, bottleneck: int = 512, fix_predictor_lr: bool = False
    ) -> None:
        super().__init__()
        if not 0 < bottleneck <= hidden:
            require([f"bottleneck must lie between 1 and hidden {hidden}, got {bottleneck}"])
        widths = [encoder.feature_channels[-1], hidden, hidden, hidden]
        self.student = Branch(encoder, Projector(widths, last_norm="fixed"))
        self.predictor = Projector([hidden, bottleneck, hidden], last_bias=True)
        self.steady_rates = ("predictor.",) if fix_predictor_lr else ()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the mean of both directions, between -1 and 1; -1 is perfect agreement, collapse included."""
        first, second = (self.student(view) for view in batch["views"])
        loss = negative_cosine(self.predictor(first), second) + negative_cosine(self.predictor(second), first)
        return {"loss": loss / 2}
