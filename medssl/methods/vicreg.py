"""VICReg: two views agree, each dimension varies over the batch, and no two dimensions say the same.

Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization", ICLR 2022,
https://arxiv.org/abs/2105.04906.
Deviations: a vision transformer's vector is the mean of its patch tokens; AdamW unless the run says otherwise; no
    colour, no solarisation.
"""

from typing import final

import torch
from torch import Tensor

from medssl.losses.agreement import vicreg_terms
from medssl.methods.base import Batch, MethodCard, SiameseMethod, not_negative, require
from medssl.models.encoder import Encoder
from medssl.models.projectors import Branch, Projector


@final
class VICReg(SiameseMethod):
    """Invariance, variance and covariance.

    Args:
        encoder: Any encoder.
        invariance: Weight of the distance between the views.
        variance: Weight of the term that keeps each dimension's deviation above 1.
        covariance: Weight of the term that keeps dimensions apart.
        width: Width of the expander and of the embedding.

    Raises:
        ConfigError: A negative weight.
    """

    card = MethodCard("Bardes et al., ICLR 2022", "https://arxiv.org/abs/2105.04906", "decorrelation")
    over_batch = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        width: int = 8192,
    ) -> None:
        super().__init__()
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        require(not_negative(**self.weights))
        self.student = Branch(encoder, Projector([encoder.feature_channels[-1], width, width, width], bias=True))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and the three terms before they are weighted."""
        first, second = (self.student(view) for view in batch["views"])
        terms = dict(zip(self.weights, vicreg_terms(first, second), strict=True))
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}
