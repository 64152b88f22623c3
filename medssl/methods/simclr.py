"""SimCLR: two views of one sample find each other among all views of the batch.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
https://arxiv.org/abs/2002.05709.
Deviations: a vision transformer's vector is the mean of its patch tokens; no colour is varied; AdamW unless the run
    says otherwise.
"""

from typing import final

from torch import Tensor

from medssl.losses.contrastive import nt_xent
from medssl.methods.base import Batch, MethodCard, SiameseMethod, positive, require
from medssl.models.encoder import Encoder
from medssl.models.projectors import Branch, Projector


@final
class SimCLR(SiameseMethod):
    """Contrast of two views against all others of the batch.

    Args:
        encoder: Any encoder.
        temperature: Divides the cosines; 0.1 for large batches, 0.5 for small data (both in the paper).
        hidden: Width of the projector's hidden layer.
        width: Width of the embedding that the loss sees.
        same_patient: Whether other samples of one's own patient are negatives. Crops of one scan often show the same
            anatomy, so they are left out unless asked for (the paper has no patients); then one patient is not enough.

    Raises:
        ConfigError: A temperature that is not positive.
    """

    card = MethodCard("Chen et al., ICML 2020", "https://arxiv.org/abs/2002.05709", "contrastive")
    over_batch = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: float = 0.1,
        hidden: int = 2048,
        width: int = 128,
        same_patient: bool = False,
    ) -> None:
        super().__init__()
        require(positive(temperature=temperature))
        self.temperature, self.same_patient = temperature, same_patient
        self.least_patients = 1 if same_patient else 2
        self.student = Branch(encoder, Projector([encoder.feature_channels[-1], hidden, width]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: NT-Xent of both views."""
        first, second = (self.student(view) for view in batch["views"])
        patients = None if self.same_patient else batch["patient"]
        return {"loss": nt_xent(first, second, self.temperature, patients)}
