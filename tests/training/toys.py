"""A network and a data source small enough to see through."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl.methods.base import Method, MethodCard
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


class ToyEncoder(nn.Module):
    """Two convolutions with dropout; enough for a method and the health check."""

    def __init__(self, spatial_dims: int, in_channels: int, image_size: Sequence[int], width: int = 4) -> None:
        super().__init__()
        self.image_size = tuple(image_size)
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.stem = conv(in_channels, width, 3, padding=1)
        self.norm = nn.GroupNorm(1, width)
        self.drop = nn.Dropout(0.2)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.drop(self.norm(self.stem(image)))]

    def embed(self, image: Tensor) -> Tensor:
        return self(image)[-1].flatten(2).mean(2)


class ToyMethod(Method):
    """Predicts hidden voxels from the others; an average of the encoder's stem is kept as state."""

    card = MethodCard("none", "https://example.org", "masked")

    def __init__(self, encoder: nn.Module, *, seed: int, mask_ratio: float = 0.5, explode_at: int = -1) -> None:
        super().__init__()
        self._encoder, self._seed, self._ratio, self._explode_at = encoder, seed, mask_ratio, explode_at
        dims = encoder.stem.weight.dim() - 2
        self.head = {2: nn.Conv2d, 3: nn.Conv3d}[dims](encoder.norm.num_channels, encoder.stem.in_channels, 1)
        self.register_buffer("teacher", encoder.stem.weight.detach().clone())

    @property
    def encoder(self) -> nn.Module:
        return self._encoder

    def _hide(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self._seed + int(batch["step"]))
        hidden = torch.rand(batch["image"].shape, generator=generator) < self._ratio
        return hidden, batch["image"].masked_fill(hidden, 0.0)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden, masked = self._hide(batch)
        error = (self.head(self._encoder(masked)[-1]) - batch["image"]).square()
        loss = (error * hidden).sum() / hidden.sum()
        return {"loss": loss * float("nan") if int(batch["step"]) == self._explode_at else loss}

    def after_step(self, step: int) -> None:
        with torch.no_grad():
            self.teacher.lerp_(self._encoder.stem.weight, 0.1)

    def reconstruction(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        _, masked = self._hide(batch)
        return {"input": batch["image"], "masked": masked, "reconstructed": self.head(self._encoder(masked)[-1])}
