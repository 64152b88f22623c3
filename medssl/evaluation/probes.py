"""Probes of frozen features: how well the questions of a set are answered without changing the encoder.

Options of a probe are chosen on split val; split test is read once, by the chosen one. Each option is fitted on several
draws of labelled images of split train, the same for all encoders, and judged by its mean over them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medssl.evaluation.features import Features
from medssl.evaluation.probe_data import ProbeData

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths C of the linear probe's penalty, on standardised features."""

ATTENTION = (
    "Attentive probe: one learned query over the cells of the last map; maps larger than 5 x 5 cells (3D: 3 x 3 x 3) "
    "are averaged to so many before attention."
)
"""What readers of its numbers must know."""

RATES = ((1e-3, 0.1), (3e-3, 1.0))
"""Learning rates and weight decays of the attentive probe."""

_NEIGHBOURS, TEMPERATURE = 20, 0.07
_BLOCK = 1024  # images whose neighbours are sought at once
_STEPS = 100  # of the attentive probe, on all images at once
_HEADS = 4

Scores = npt.NDArray[np.float64]
Option = TypeVar("Option")


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Args:
        chosen: The options, as text.
        val: Area under the ROC curve on split val, mean over questions and draws, the best of the grid.
        test: The same on split test.
        scores: Of the images of split test (n, K), from each draw.
    """

    chosen: str
    val: float
    test: float
    scores: tuple[Scores, ...] = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, without the scores."""
        return {"chosen": self.chosen, "val": self.val, "test": self.test}


def mean_auroc(targets: npt.NDArray[np.bool_], scores: Scores) -> float:
    """Mean area under the ROC curve over the columns of (n, K)."""
    return float(np.mean([roc_auc_score(t, s) for t, s in zip(targets.T, scores.T, strict=True)]))


def knn_probe(features: Features, data: ProbeData, draws: Sequence[Tensor]) -> ProbeResult:
    """`knn_scores`; the pooling is chosen."""
    return best_option(
        list(features.pooled), lambda p, known, asked: knn_scores(features.pooled[p], data, known, asked), data, draws
    )


def linear_probe(features: Features, data: ProbeData, draws: Sequence[Tensor]) -> ProbeResult:
    """`linear_scores`; pooling and penalty are chosen."""
    vectors = {**features.pooled, **features.blocks}
    grid = [(pooling, penalty) for pooling in vectors for penalty in PENALTIES]
    return best_option(
        grid, lambda o, known, asked: linear_scores(vectors[o[0]], data, known, asked, o[1]), data, draws
    )


def attentive_probe(features: Features, data: ProbeData, draws: Sequence[Tensor]) -> ProbeResult:
    """`attentive_scores`; rate and decay are chosen."""
    return best_option(
        list(RATES), lambda o, known, asked: attentive_scores(features.tokens, data, known, asked, o), data, draws
    )


def best_option(
    options: list[Option],
    fit_and_score: Callable[[Option, Tensor, Tensor], Scores],
    data: ProbeData,
    draws: Sequence[Tensor],
) -> ProbeResult:
    """The option with the highest mean AUROC on split val, and what it reaches on split test.

    Args:
        options: The grid.
        fit_and_score: Option, images with labels and images asked about, to scores (n, K) of the latter.
        data: Answers and splits.
        draws: Images with labels.
    """
    val, test = data.rows("val"), data.rows("test")

    def judged(scores: Sequence[Scores], asked: Tensor) -> float:
        return float(np.mean([mean_auroc(data.targets[asked].numpy(), found) for found in scores]))

    on_val = [judged([fit_and_score(option, known, val) for known in draws], val) for option in options]
    chosen = options[int(np.argmax(on_val))]
    scores = tuple(fit_and_score(chosen, known, test) for known in draws)
    return ProbeResult(str(chosen), max(on_val), judged(scores, test), scores)


def standardised(values: Tensor, known: Tensor, there: Tensor | None = None) -> Tensor:
    """(N, ..., E) with mean 0 and deviation 1 over the images `known`, or over those parts (N, T) that are there."""
    seen = values[known].flatten(0, -2) if there is None else values[known][there[known]]
    return (values - seen.mean(0)) / seen.std(0, correction=0).clamp_min(1e-6)


def knn_scores(vectors: Tensor, data: ProbeData, known: Tensor, asked: Tensor) -> Scores:
    """Weighted nearest neighbours: at most 20 of them, weights `exp(cosine / 0.07)` of centred vectors.

    As in DINO (Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294); with a column a question each neighbour
    votes for its own answers.

    Args:
        vectors: (N, E).
        data: Whose answers are learned.
        known: Images with labels.
        asked: Images (n) to score.

    Returns:
        (n, K).
    """
    centred = centred_units(vectors, known)
    cosines, places = nearest(centred, asked, known, min(_NEIGHBOURS, len(known)))
    weights = (cosines / TEMPERATURE).softmax(1)  # (n, k)
    votes = data.targets[known].float()[places]  # (n, k, K)
    scores: Scores = (weights[..., None] * votes).sum(1).double().numpy()
    return scores


def centred_units(vectors: Tensor, known: Tensor) -> Tensor:
    """(N, E) vectors of length 1, from the mean of the images `known`."""
    return nn.functional.normalize(vectors - vectors[known].mean(0), dim=1)


def nearest(units: Tensor, asked: Tensor, known: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines (n, k) of the nearest known images and their places in `known`; no image is its own neighbour.

    A block of the images asked about at a time, so that memory does not grow with all pairs.

    Args:
        units: (N, E) of length 1.
        asked: Images (n) whose neighbours are sought.
        known: Images (m) that may be neighbours.
        k: How many.
    """
    found = []
    for block in torch.split(asked, _BLOCK):
        cosines = units[block] @ units[known].T
        found.append(cosines.masked_fill_(block[:, None] == known, -torch.inf).topk(k, dim=1))
    return torch.cat([near.values for near in found]), torch.cat([near.indices for near in found])


def linear_scores(vectors: Tensor, data: ProbeData, known: Tensor, asked: Tensor, penalty: float) -> Scores:
    """Logistic regression on vectors (N, E) that are standardised over the images of split train."""
    values = standardised(vectors, data.rows("train")).double().numpy()
    columns = []
    for answers in data.targets[known].T.numpy():
        model = LogisticRegression(C=penalty, max_iter=1000).fit(values[known], answers)
        columns.append(model.decision_function(values[asked]))
    return np.stack(columns, axis=1)


def attentive_scores(
    tokens: Tensor, data: ProbeData, known: Tensor, asked: Tensor, options: tuple[float, float]
) -> Scores:
    """One learned query attends to the cells (N, T, E) of the deepest map, then a linear layer.

    As in the context autoencoder's evaluation (Chen et al., 2022, https://arxiv.org/abs/2202.03026), which is fair to
    methods whose features are not meant to be averaged. Deviation: maps larger than 5 x 5 (3D: 3 x 3 x 3) cells come
    averaged to so many.

    Args:
        tokens: (N, T, E), standardised here over the images of split train.
        data: Whose answers are learned.
        known: Images with labels.
        asked: Images to score.
        options: Learning rate and weight decay.
    """
    cells = standardised(tokens, data.rows("train"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = _Attentive(cells.shape[-1], data.targets.shape[1])
    seen, wanted, (rate, decay) = cells[known], data.targets[known].float(), options
    optimizer = torch.optim.AdamW(probe.parameters(), rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.binary_cross_entropy_with_logits(probe(seen), wanted))
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        scores: Scores = probe(cells[asked]).double().numpy()
    return scores


class _Attentive(nn.Module):
    """(N, T, E) to (N, K)."""

    def __init__(self, width: int, questions: int) -> None:
        super().__init__()
        heads = _HEADS if width % _HEADS == 0 else 1
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, questions)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        pooled, _ = self.attention(self.query.expand(len(tokens), -1, -1), tokens, tokens, need_weights=False)
        out: Tensor = self.out(self.norm(pooled[:, 0]))
        return out
