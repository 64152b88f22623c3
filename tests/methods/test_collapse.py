"""What keeps methods without negatives from giving all images one vector, and that without it they do."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fixed_batch import learn
from torch import Tensor, nn
from torch.nn import functional

from medssl.methods import simsiam
from medssl.methods.byol import BYOL
from medssl.methods.simsiam import SimSiam
from medssl.models.encoder import Encoder

_WIDTH, _SAMPLES = 16, 64


class _Linear(Encoder):
    """One linear layer over the voxels of images of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels, self.feature_channels, self.strides = 2, 1, (_WIDTH,), ((4, 4),)
        self.layer = nn.Linear(16, _WIDTH)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.embed(image)[..., None, None]]

    def embed(self, image: Tensor) -> Tensor:
        out: Tensor = self.layer(image.flatten(1))
        return out


def _noise(views: int = 2) -> Iterator[Tensor]:
    """Views (V, B, 1, 4, 4) of nothing."""
    generator = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(views, _SAMPLES, 1, 4, 4, generator=generator)


def _spread(method: Any, image: Tensor) -> float:
    """Standard deviation of unit vectors as a share of the largest possible, 1 / sqrt(E)."""
    with torch.no_grad():
        vectors = functional.normalize(method.student(image), dim=1)
    return float(vectors.std(0).mean()) * vectors.shape[1] ** 0.5


@pytest.mark.parametrize("momentum", [0.5, 0.0])
def test_byol_collapses_without_its_predictor(momentum: float) -> None:
    """And the faster, the less the teacher lags behind; with the predictor even momentum 0 is SimSiam, and holds."""
    noise = _noise()
    views = next(noise)[:1] + 0.5 * next(noise)
    found = {}
    for predicting in (True, False):
        torch.manual_seed(0)
        method = BYOL(_Linear(), steps=10_000, momentum=momentum, hidden=64, width=_WIDTH)
        if not predicting:
            method.predictor = nn.Identity()  # type: ignore[assignment]
        learn(method, {"views": views}, 0.03, 100)
        found[predicting] = _spread(method, views[0])
    assert found[False] < 0.3 < found[True], found


def test_simsiam_agrees_on_views_of_nothing_where_the_gradient_is_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for stopped in (True, False):
        if not stopped:
            monkeypatch.setattr(simsiam, "negative_cosine", lambda p, z: -functional.cosine_similarity(p, z).mean())
        torch.manual_seed(0)
        method, noise = SimSiam(_Linear(), hidden=32, bottleneck=8), _noise()
        optimizer = torch.optim.Adam(method.parameters(), 0.03)
        losses = []
        for _ in range(150):
            loss = method({"views": next(noise)})["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        found[stopped] = sum(losses[-10:]) / 10
    assert found[True] > -0.5, found
    assert found[False] < -0.8, found
