"""A network and a data source small enough to see through."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl.training.options import TrainOptions


class Blobs:
    """Batches of noise keyed by crop number; `bad` is a crop that holds an infinite voxel."""

    def __init__(self, options: TrainOptions, parts: int | None = None, bad: int = -1) -> None:
        self._size = options.batch_size // (parts or options.accumulate)
        self._bad = bad

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        first = draw * self._size
        crops = []
        for number in range(first, first + self._size):
            crop = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(number)).half()
            crops.append(crop * float("inf") if number == self._bad else crop)
        return {"image": torch.stack(crops), "step": torch.tensor(draw)}


class Toy(nn.Module):
    """Predicts the mean of an image through a convolution, a norm and dropout; counts `after_step`."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.GELU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(4, 1))
        self.steps: list[int] = []

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image = batch["image"]
        answer = self.head(self.encoder(image).mean((2, 3)))[:, 0]
        loss = (answer - image.mean((1, 2, 3)) - 1.0).square().mean()
        return {"loss": loss, "answer": answer.detach().mean()}

    def after_step(self, step: int) -> None:
        self.steps.append(step)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
