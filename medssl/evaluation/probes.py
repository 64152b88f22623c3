"""Probes of frozen features: how well the questions of a set are answered without changing the encoder.

Options of a probe are chosen on split val; split test is read once, by the chosen one, fitted anew on train and val.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

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

RATES = ((1e-3, 0.1), (3e-3, 1.0))
"""Learning rates and weight decays of the attentive probe."""

_NEIGHBOURS, _TEMPERATURE = 20, 0.07
_STEPS = 100  # of the attentive probe, on all images at once
_HEADS = 4

Scores = npt.NDArray[np.float64]
Option = TypeVar("Option")


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Args:
        chosen: The options, as text.
        val: Mean area under the ROC curve over the questions, split val, the best of the grid.
        test: The same, split test.
        scores: (n, K) of the test images, in the set's order.
    """

    chosen: str
    val: float
    test: float
    scores: Scores


def mean_auroc(targets: npt.NDArray[np.bool_], scores: Scores) -> float:
    """Mean area under the ROC curve over the columns of (n, K)."""
    return float(np.mean([roc_auc_score(t, s) for t, s in zip(targets.T, scores.T, strict=True)]))


def knn_probe(features: Features, data: ProbeData) -> ProbeResult:
    """Weighted nearest neighbours: 20 of them, weights `exp(cosine / 0.07)`; the pooling is chosen.

    As in DINO (Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294); with a column a question each neighbour
    votes for its own answers.
    """

    def fit_and_score(pooling: str, known: Tensor, asked: Tensor) -> Scores:
        vectors = features.pooled[pooling]
        centred = nn.functional.normalize(vectors - vectors[known].mean(0), dim=1)
        near = (centred[asked] @ centred[known].T).topk(min(_NEIGHBOURS, len(known)), dim=1)
        weights = (near.values / _TEMPERATURE).softmax(1)  # (n, k)
        votes = data.targets[known].float()[near.indices]  # (n, k, K)
        return (weights[..., None] * votes).sum(1).double().numpy()

    return _best(list(features.pooled), fit_and_score, data)


def linear_probe(features: Features, data: ProbeData) -> ProbeResult:
    """Logistic regression on standardised features; pooling and penalty are chosen."""

    def fit_and_score(options: tuple[str, float], known: Tensor, asked: Tensor) -> Scores:
        pooling, penalty = options
        vectors = _standardised(features.pooled[pooling], known).double().numpy()
        columns = []
        for answers in data.targets[known].T.numpy():
            model = LogisticRegression(C=penalty, max_iter=1000).fit(vectors[known], answers)
            columns.append(model.decision_function(vectors[asked]))
        return np.stack(columns, axis=1)

    return _best([(pooling, c) for pooling in features.pooled for c in PENALTIES], fit_and_score, data)


def attentive_probe(features: Features, data: ProbeData) -> ProbeResult:
    """One learned query attends to the deepest map's cells, then a linear layer; rate and decay are chosen.

    As in the context autoencoder's evaluation (Chen et al., 2022, https://arxiv.org/abs/2202.03026), which is fair to
    methods whose features are not meant to be averaged.
    """

    def fit_and_score(options: tuple[float, float], known: Tensor, asked: Tensor) -> Scores:
        tokens = _standardised(features.tokens, known)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            probe = _Attentive(tokens.shape[-1], data.targets.shape[1])
        wanted, (rate, decay) = data.targets[known].float(), options
        optimizer = torch.optim.AdamW(probe.parameters(), rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.binary_cross_entropy_with_logits(probe(tokens[known]), wanted))
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            scores: Scores = probe(tokens[asked]).double().numpy()
        return scores

    return _best(list(RATES), fit_and_score, data)


def _best(
    options: list[Option], fit_and_score: Callable[[Option, Tensor, Tensor], Scores], data: ProbeData
) -> ProbeResult:
    train, val, test = (data.rows(split) for split in ("train", "val", "test"))
    found = [mean_auroc(data.targets[val].numpy(), fit_and_score(option, train, val)) for option in options]
    chosen = options[int(np.argmax(found))]
    scores = fit_and_score(chosen, torch.cat([train, val]), test)
    return ProbeResult(str(chosen), max(found), mean_auroc(data.targets[test].numpy(), scores), scores)


def _standardised(values: Tensor, known: Tensor) -> Tensor:
    """(N, ..., E) with mean 0 and deviation 1 over the images `known`."""
    axes = tuple(range(values.ndim - 1))
    mean, deviation = values[known].mean(axes), values[known].std(axes, correction=0)
    return (values - mean) / deviation.clamp_min(1e-6)


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
