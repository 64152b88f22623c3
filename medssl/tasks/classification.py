"""Classification of whole images: what is minimised, and how well classes are told apart."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional

Batch = Mapping[str, Tensor]


class ClassificationTask(nn.Module):
    """A network with its loss.

    Args:
        network: Image (B, C, *S) to logits (B, K).
        loss: `ce`: one of the classes; `bce`: each class against the rest.
    """

    def __init__(self, network: nn.Module, loss: str) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss () of `image` (B, C, *S) and `class_index` (B,)."""
        logits, index = self.network(batch["image"]).float(), batch["class_index"]
        if self._loss == "ce":
            return {"loss": functional.cross_entropy(logits, index)}
        target = functional.one_hot(index, logits.shape[1]).float()
        return {"loss": functional.binary_cross_entropy_with_logits(logits, target)}


def classification_scores(probability: npt.NDArray[np.floating], truth: npt.NDArray[np.integer]) -> dict[str, float]:
    """`auroc`: mean over classes of one against the rest; `balanced_accuracy`: mean recall; `log_loss`.

    Classes without both positive and negative cases have no AUROC and are left out of the mean; with none left there is
    no `auroc`.

    Args:
        probability: (cases, classes).
        truth: (cases,) class numbers.
    """
    areas = [auroc(probability[:, k], truth == k) for k in range(probability.shape[1])]
    known = [area for area in areas if not np.isnan(area)]
    predicted = probability.argmax(1)
    recalls = [float((predicted[truth == k] == k).mean()) for k in np.unique(truth)]
    chosen = np.take_along_axis(probability, truth[:, None], 1)[:, 0]
    return {
        **({"auroc": float(np.mean(known))} if known else {}),
        "balanced_accuracy": float(np.mean(recalls)),
        "log_loss": float(-np.log(np.clip(chosen, 1e-7, None)).mean()),
    }


def auroc(score: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> float:
    """Chance that a positive case has a higher score than a negative one, ties counting half; NaN without both."""
    above, below = int(positive.sum()), int((~positive).sum())
    if not above or not below:
        return float("nan")
    wins = rankdata(score)[positive].sum() - above * (above + 1) / 2
    return float(wins / (above * below))
