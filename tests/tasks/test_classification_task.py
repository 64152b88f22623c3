import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from torch import nn

from medssl.tasks.classification import ClassificationTask, auroc, classification_scores


def test_losses_by_hand() -> None:
    batch = {"image": torch.tensor([[0.0, math.log(3.0)]]), "class_index": torch.tensor([1])}
    assert float(ClassificationTask(nn.Identity(), "ce")(batch)["loss"]) == pytest.approx(-math.log(0.75))
    expected = -(math.log(0.5) + math.log(0.75)) / 2
    assert float(ClassificationTask(nn.Identity(), "bce")(batch)["loss"]) == pytest.approx(expected)


def test_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 60)
    probability = rng.dirichlet((1, 1, 1), 60).round(2) + 1e-3  # ties on purpose
    probability /= probability.sum(1, keepdims=True)
    found = classification_scores(probability, truth)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, probability, multi_class="ovr", average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, probability.argmax(1)))
    assert found["log_loss"] == pytest.approx(log_loss(truth, probability))


def test_auroc_by_hand() -> None:
    score, positive = np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])
    assert auroc(score, positive) == pytest.approx(3.5 / 4)
    assert math.isnan(auroc(score, np.ones(4, bool)))
    assert "auroc" not in classification_scores(np.array([[0.2, 0.8]]), np.array([1])), "one class has none"
