"""Barlow Twins: the cross-correlation of two views' embeddings becomes the identity.

Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021,
https://arxiv.org/abs/2103.03230.
Deviations: a vision transformer's vector is the mean of its patch tokens; AdamW unless the run says otherwise; no
    colour, no solarisation.
"""

from typing import final

from torch import Tensor

from medssl.losses.agreement import barlow_twins
from medssl.methods.base import Batch, MethodCard, SiameseMethod, not_negative, require
from medssl.models.encoder import Encoder
from medssl.models.projectors import Branch, Projector


@final
class BarlowTwins(SiameseMethod):
    """Redundancy reduction between dimensions.

    Args:
        encoder: Any encoder.
        off_diagonal: Weight of the entries off the diagonal; 0.0051 belongs to 8,192 dimensions and must be tuned for
            others.
        width: Width of the projector and of the embedding.

    Raises:
        ConfigError: A negative weight.
    """

    card = MethodCard("Zbontar et al., ICML 2021", "https://arxiv.org/abs/2103.03230", "decorrelation")
    over_batch = True

    def __init__(self, encoder: Encoder, *, off_diagonal: float = 0.0051, width: int = 8192) -> None:
        super().__init__()
        require(not_negative(off_diagonal=off_diagonal))
        self.off_diagonal = off_diagonal
        self.student = Branch(encoder, Projector([encoder.feature_channels[-1], width, width, width]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and `diagonal`: the mean correlation of a dimension with itself, 1 = the views agree."""
        first, second = (self.student(view) for view in batch["views"])
        loss, diagonal = barlow_twins(first, second, self.off_diagonal)
        return {"loss": loss, "diagonal": diagonal}
